from pathlib import Path

import pytest
import torch

from rlhf.rewards.distance import FILE, Distance


def test_by_hand() -> None:
    """With covariance diag(4, 1), (2, 0) and (0, 1) are one deviation from the mean: d² = 1/2."""
    distance = Distance(torch.tensor([1.0, 1.0]), torch.diag(torch.tensor([0.5, 1.0])), torch.tensor(1.0))
    assert distance(torch.tensor([[3.0, 1.0], [1.0, 2.0], [3.0, 2.0]])).tolist() == pytest.approx(
        [0.5**0.5, 0.5**0.5, 1]
    )


def test_it_is_one_on_the_responses_that_it_is_fitted_on_in_any_linear_coordinates() -> None:
    """The mean of d² is 1; d does not depend on a linear map of the states, up to shrinkage."""
    draw = torch.Generator().manual_seed(0)
    hidden, other = (torch.randn(4000, 6, generator=draw) for _ in range(2))
    mixing = torch.randn(6, 6, generator=draw)
    plain, mixed = Distance.fit(hidden, other), Distance.fit(hidden @ mixing + 3, other @ mixing + 3)
    assert plain(hidden).square().mean().item() == pytest.approx(1, abs=0.02)
    assert mixed(other @ mixing + 3).tolist() == pytest.approx(plain(other).tolist(), rel=0.1)
    assert (plain(other) > plain.limit).float().mean().item() == pytest.approx(0.01, abs=1e-3)
    assert (plain(other + 5) > plain.limit).all()


def test_fewer_responses_than_dimensions_suffice() -> None:
    hidden = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(Distance.fit(hidden, hidden)(hidden)).all()


def test_it_comes_back_to_the_bit(tmp_path: Path) -> None:
    hidden = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    distance = Distance.fit(hidden, hidden)
    assert Distance.load(tmp_path) is None
    distance.save(tmp_path)
    again = Distance.load(tmp_path)
    assert again is not None
    assert (tmp_path / FILE).is_file()
    assert torch.equal(again(hidden), distance(hidden))
    assert again.limit == distance.limit
