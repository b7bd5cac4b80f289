import numpy
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from rlhf.modeling.prefix_tree import tree
from rlhf.modeling.segment_attention import Layout, attend, lay_out, placed

ROWS = [numpy.array([1, 2, 3, 4, 5]), numpy.array([1, 2, 3, 6]), numpy.array([7, 8])]


def layout() -> Layout:
    """Return the layout of a batch of six columns whose second row begins in column 2."""
    return lay_out(tree(ROWS, least=2), numpy.array([0, 2, 0]), (3, 6), torch.device("cpu"))


def test_worked_by_hand() -> None:
    found = layout()
    assert found.sizes == [3, 2, 1, 2]
    assert found.above == [(), (0,), (0,), ()]
    assert found.positions.tolist() == [0, 1, 2, 3, 4, 3, 0, 1]
    assert found.source.tolist() == [0, 1, 2, 3, 4, 6 + 2 + 3, 12, 13]
    assert found.index.tolist() == [[0, 1, 2, 3, 4, 8], [8, 8, 0, 1, 2, 5], [6, 7, 8, 8, 8, 8]]
    assert found.mask(2, 1, torch.ones(1)).tolist() == [[0, 0, float("-inf")], [0, 0, 0]]


class Module:
    num_key_value_groups = 2
    layer_idx = 1

    class config:  # noqa: N801
        num_hidden_layers = 2


@pytest.mark.parametrize("read", [None, [0, 4], [4, 5, 6, 7], [2, 8]])
def test_each_token_attends_only_to_its_own_row(read: list[int] | None) -> None:
    """Compared with causal attention of single rows; unread places of the last layer are zero or correct."""
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 8, 5), torch.randn(1, 2, 8, 5), torch.randn(1, 2, 8, 5)
    found = layout()
    found.reading(None if read is None else torch.tensor(read))
    out, _ = attend(Module(), query, key, value, None, segments=found)
    assert out.shape == (1, 8, 4, 5)
    assert found.layers == 1
    for columns in found.index:
        places = columns[columns < 8]
        q, k, v = (whole[:, :, places].repeat_interleave(4 // whole.shape[1], 1) for whole in (query, key, value))
        expected = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        wanted = torch.tensor([read is None or place.item() in read for place in places])
        torch.testing.assert_close(out[:, places[wanted]], expected[:, wanted])


def test_placed() -> None:
    assert placed(torch.tensor([[3.0, 4.0]]), torch.tensor([1, 3]), 4, 1).tolist() == [[0, 3, 0, 4]]
