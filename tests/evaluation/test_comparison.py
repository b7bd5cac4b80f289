"""From answers to the table, with answers, scores and judge written by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from rlhf.config import CompareStage
from rlhf.errors import TrainingError
from rlhf.evaluation.answers import Answers, TextNLL
from rlhf.evaluation.comparison import across, measure, paraphrases, score
from tests.conftest import composed

ROWS = [
    {"prompt": "Capital of Peru?", "task": "question", "held_out": "fact", "format": "sentence", "group": "peru"},
    {"prompt": "Peru's capital?", "task": "question", "held_out": "phrasing", "format": "one_word", "group": "peru"},
    {"prompt": "Say no.", "task": "decline", "held_out": "none", "format": "sentence", "group": "no"},
]


@dataclass
class Verdict:
    correct: bool
    format_followed: bool
    brevity: float


def judge(prompt: str, completion: str) -> Verdict:
    return Verdict("lima" in completion.lower(), completion.endswith("."), 0.5)


def stage(samples: int = 2) -> CompareStage:
    return composed("stage=compare", f"stage.samples={samples}", "stage.bootstrap=50").stage


def answers(name: str, texts: list[list[str]], **more: Any) -> Answers:
    lengths = [[len(text) for text in group] for group in texts]
    return Answers(name, False, texts, lengths, [[True] * len(group) for group in texts], [], **more)


OURS = answers("ours", [["Lima.", "Lima"], ["lima", "Quito"], ["No.", "No."]], kl=[[1.0, 2.0], [0.0, 0.0], [3.0, 0.0]])
THEIRS = answers("theirs", [["Quito.", "Lima."], ["Quito", "Quito"], ["Yes.", "No."]], text_nll=TextNLL(6.0, 3, 4))


def length(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def test_scores_return_to_their_prompts() -> None:
    asked = []

    def reward(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        asked.extend(zip(prompts, completions, strict=True))
        return length(prompts, completions)

    found = answers("ours", OURS.texts)
    score(found, "reward", reward, [row["prompt"] for row in ROWS])
    assert found.scores == {"reward": [[5.0, 4.0], [4.0, 5.0], [3.0, 3.0]]}
    assert asked[:3] == [("Capital of Peru?", "Lima."), ("Capital of Peru?", "Lima"), ("Peru's capital?", "lima")]


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(TrainingError, match="finite"):
        score(answers("ours", [["a"]]), "gold", lambda prompts, completions: [float("nan")], ["p"])


def measured(of: Answers, samples: int = 2) -> dict:
    ours, theirs = answers("ours", OURS.texts, kl=OURS.kl), answers("theirs", THEIRS.texts, text_nll=THEIRS.text_nll)
    for one in (ours, theirs):
        score(one, "gold", length, [row["prompt"] for row in ROWS])
    return measure(ours if of is OURS else theirs, ROWS, theirs, stage(samples), 0, judge)


def test_the_row_of_a_model_by_hand() -> None:
    found = {key: getattr(value, "mean", value) for key, value in measured(OURS).items()}
    expected = {
        "gold": (4.5 + 4.5 + 3) / 3,
        # 5 and 4 against 6 and 5; 4 and 5 against 5 and 5; 3 and 3 against 4 and 3
        "win_rate/gold": (0.5 / 4 + 1 / 4 * 1.0 + 1 / 4) / 3,
        "kl": (1.5 + 0 + 1.5) / 3,
        "ends": 1.0,
        "length": (4.5 + 4.5 + 3) / 3,
        "distinct_1": 5 / 6,
        "distinct_2": 0.0,
        "consistency/resamples": (1 + 0 + 1) / 3,
        "consistency/paraphrases": 2 / 4,
        "correct": (1 + 0.5 + 0) / 3,
        "format_followed": (0.5 + 0 + 1) / 3,
        "gold/task/question": 4.5,
        "gold/task/decline": 3.0,
        "gold/held_out/fact": 4.5,
        "gold/held_out/phrasing": 4.5,
        "gold/held_out/none": 3.0,
        "correct/task/question": 0.75,
        "correct/task/decline": 0.0,
        "correct/held_out/fact": 1.0,
        "correct/held_out/phrasing": 0.5,
        "correct/held_out/none": 0.0,
        "format_followed/format/sentence": 0.75,
        "format_followed/format/one_word": 0.0,
    }
    assert found == pytest.approx(expected)


def test_the_reference_is_not_measured_against_itself() -> None:
    found = measured(THEIRS)
    assert not [key for key in found if key.startswith("win_rate")]
    assert "kl" not in found
    assert found["text/perplexity"] == pytest.approx(7.389056, rel=1e-6)
    assert found["text/bits_per_byte"] == pytest.approx(1.5 / 0.693147, rel=1e-5)


def test_one_sample_cannot_agree_with_itself() -> None:
    one = answers("one", [["Lima."]])
    found = measure(one, [{"prompt": "Capital of Peru?"}], one, stage(samples=1), 0, None)
    assert set(found) == {"ends", "length", "distinct_1", "distinct_2"}


def test_prompts_without_a_group_are_no_paraphrases() -> None:
    assert paraphrases(ROWS) == [[0, 1]]
    assert paraphrases([{"prompt": "a", "group": None}, {"prompt": "b", "group": None}, {"prompt": "c"}]) == []


def test_agreement_across_three_prompts_is_the_mean_over_pairs() -> None:
    found = across(answers("x", [["a", "b"], ["a", "a"], ["b", "c"]]), [0, 1, 2])
    assert found == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
