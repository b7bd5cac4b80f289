import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlhf.errors import ModelError
from rlhf.publishing.certificate import (
    LIMITS,
    Agreement,
    Rows,
    by_llama_cpp,
    compare,
    limit,
    require_same,
    scores_agree,
    table,
)

ROWS = Rows([[1, 2], [3]], [[4, 0], [5, 6, 0]])


def logits(ids: list[int], shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(8, 8, generator=generator)[torch.tensor(ids)] + shift * torch.arange(8)


def answer(prompt: list[int]) -> list[int]:
    return ROWS.answers[ROWS.prompts.index(prompt)]


def test_the_same_model_agrees() -> None:
    found = compare(logits, logits, answer, ROWS)
    assert (found.tokens, found.kl_mean, found.kl_max, found.same_answer) == (5, 0.0, 0.0, 1.0)
    require_same("stage.run=x", {"transformers": found}, "as trained", limit("as trained", "llama"))


def test_the_divergence_is_over_the_tokens_of_the_answers() -> None:
    found = compare(logits, lambda ids: logits(ids, 0.2), lambda prompt: [4, 0], ROWS)
    own, other = (logits([2, 4, 3, 5, 6], shift).double().log_softmax(-1) for shift in (0.0, 0.2))
    each = (own.exp() * (own - other)).sum(-1)  # before each token of an answer
    assert found.kl_mean == pytest.approx(float(each.mean()))
    assert found.kl_max == pytest.approx(float(each.max()))
    likely = (other.argmax(-1) == torch.tensor([4, 0, 5, 6, 0])).double().mean()
    assert (found.same_token, found.same_answer) == (pytest.approx(float(likely)), 0.5)


@pytest.mark.parametrize("times", [1.01, math.nan])
def test_another_model_is_refused(times: float) -> None:
    for precision, most in LIMITS.items():
        kl = times * most
        found = {"transformers": Agreement(5, 0.0, 0.0, 1.0, 1.0), "llama.cpp": Agreement(5, kl, kl, 1.0, 1.0)}
        with pytest.raises(ModelError, match=f"stage.run=x, exported as {precision} and read by llama.cpp, is another"):
            require_same("stage.run=x", found, precision, most)


def test_the_activation_of_gpt2_and_gpt_neox_is_rounded_in_ggml() -> None:
    assert [limit("f32", kind) for kind in ("llama", "gpt2", "gpt_neox")] == [1e-6, 1e-4, 1e-4]
    assert limit("as trained", "gpt2") == 1e-6
    assert limit("q8_0", "gpt_neox") == LIMITS["q8_0"]


def test_the_table_has_a_row_per_reader() -> None:
    assert table({"transformers": Agreement(5, 1.25e-7, 2e-6, 1.0, 0.5)})[2:] == [
        "| transformers | 5 | 1.2e-07 | 2e-06 | 100.0% | 50.0% |"
    ]


def test_scores_agree_to_a_millionth() -> None:
    assert scores_agree("stage.run=x", [1.0, -250.0], [1.0, -250.0001]) == pytest.approx(1e-4)
    for other in (1.1, math.nan):
        with pytest.raises(ModelError, match="stage.run=x and its export differ in their scores"):
            scores_agree("stage.run=x", [1.0], [other])


def test_llama_cpp_is_optional(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert by_llama_cpp(None, (tmp_path, None), ROWS, [], False, {0}, 4) is None
