"""Metrics of a comparison, with responses, scores and judge written by hand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from rlhf.config import CompareStage
from rlhf.errors import TrainingError
from rlhf.evaluation.comparison.comparison import (
    across,
    by_domain,
    by_task,
    measure,
    paraphrases,
    prefer,
    remembering,
    score,
)
from rlhf.evaluation.judges.votes import by_scores, length_matched
from rlhf.evaluation.responses.answers import Answers, TextNLL
from rlhf.evaluation.statistics.metrics import estimate
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


def test_scores_are_grouped_by_prompt() -> None:
    asked = []

    def reward(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        asked.extend(zip(prompts, completions, strict=True))
        return length(prompts, completions)

    found = answers("ours", OURS.texts)
    score([found], "reward", reward, [row["prompt"] for row in ROWS])
    assert found.scores == {"reward": [[5.0, 4.0], [4.0, 5.0], [3.0, 3.0]]}
    assert asked[:3] == [("Capital of Peru?", "Lima."), ("Capital of Peru?", "Lima"), ("Peru's capital?", "lima")]


def test_equal_responses_to_a_prompt_are_scored_once_and_tie() -> None:
    """The reward depends on the place in the batch, as the last bits of a reward model do."""
    asked: list[tuple[str, str]] = []

    def reward(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        asked.extend(zip(prompts, completions, strict=True))
        return [n / 1e6 for n in range(len(completions))]

    sides = answers("ours", [["a", "a"], ["b", "c"]]), answers("theirs", [["a", "d"], ["c", "a"]])
    score(sides, "reward", reward, ["p", "q"])
    assert asked == [("p", "a"), ("p", "d"), ("q", "b"), ("q", "c"), ("q", "a")]
    assert sides[0].scores["reward"] == [[0.0, 0.0], [2e-6, 3e-6]]
    assert sides[1].scores["reward"] == [[0.0, 1e-6], [3e-6, 4e-6]]


def test_equal_responses_are_judged_once() -> None:
    asked = []

    def counted(prompt: Any, text: str) -> Verdict:
        asked.append((prompt, text))
        return judge(prompt, text)

    remembered = remembering(counted)
    turn = [{"role": "user", "content": "Capital of Peru?"}]
    found = [remembered(prompt, text) for prompt in (turn, "Capital?", list(turn)) for text in ("Lima", "Lima", "No.")]
    assert found == [judge("", "Lima"), judge("", "Lima"), judge("", "No.")] * 3
    assert len(asked) == 4


def test_a_score_that_is_not_a_number_is_rejected() -> None:
    with pytest.raises(TrainingError, match="finite"):
        score([answers("ours", [["a"]])], "gold", lambda prompts, completions: [float("nan")], ["p"])


def measured(of: Answers, samples: int = 2) -> dict:
    ours, theirs = answers("ours", OURS.texts, kl=OURS.kl), answers("theirs", THEIRS.texts, text_nll=THEIRS.text_nll)
    score((ours, theirs), "gold", length, [row["prompt"] for row in ROWS])
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
    # The scores are lengths, so the longer response wins; the length-matched rate is not 0 or 1 because of the ridge.
    assert 0 < found.pop("win_rate/lc/gold") < 1
    # "Lima." and "Lima" agree, "lima" and "Quito" do not, "No." and "No." do.
    # So at probability 1: 2 right and 2 wrong; at 0: 1 right and 1 wrong.
    assert found.pop("calibration/answers") == pytest.approx(4 / 6 * 0.5 + 2 / 6 * 0.5)
    assert found.pop("calibration/answers_floor") == 0.0  # predictions of 0 and 1 have no noise
    assert found == pytest.approx(expected)


def test_length_matched_win_rate_is_that_of_the_regression() -> None:
    ours, theirs = (answers(name, of.texts) for name, of in (("ours", OURS), ("theirs", THEIRS)))
    ours.scores["gold"], theirs.scores["gold"] = [[3.0, 1.0]] * 3, [[2.0, 2.0]] * 3
    found = measure(ours, ROWS, theirs, stage(), 0, None)
    pairs = by_scores(ours.scores["gold"], theirs.scores["gold"], ours.lengths, theirs.lengths)
    assert found["win_rate/lc/gold"] == length_matched(pairs, 50, 0)
    assert found["win_rate/gold"].mean == 0.5


def test_win_rate_vs_the_previous_stage() -> None:
    before, ours, theirs = answers("before", THEIRS.texts), answers("ours", OURS.texts), answers("theirs", THEIRS.texts)
    for model, value in ((before, 1.0), (ours, 2.0), (theirs, 3.0)):
        model.scores["gold"] = [[value, value]] * 3
    found = measure(ours, ROWS, theirs, stage(), 0, None, before)
    assert (found["win_rate/gold"].mean, found["win_rate_previous/gold"].mean) == (0.0, 1.0)
    assert "win_rate_previous/gold" not in measure(ours, ROWS, theirs, stage(), 0, None)


class Longer:
    def __call__(self, prompts: Sequence[Any], firsts: Sequence[str], seconds: Sequence[str]) -> list[float | None]:
        return [None if a.startswith("No") else float(len(a) > len(b)) for a, b in zip(firsts, seconds, strict=True)]

    def report(self) -> dict[str, float]:
        return {}


def test_a_judge_has_win_rates_too() -> None:
    ours, theirs = answers("ours", OURS.texts), answers("theirs", THEIRS.texts)
    prefer(ours, theirs, Longer(), [row["prompt"] for row in ROWS])
    assert ours.preferences == {"theirs": [[0.0, 0.0], [0.0, 0.0], [None, None]]}
    found = measure(ours, ROWS, theirs, stage(), 0, None)
    assert found["win_rate/judge"] == (0.0, 0.0, 0.0)
    assert found["win_rate/lc/judge"].mean < 0.1
    assert "win_rate/judge" not in measure(theirs, ROWS, ours, stage(), 0, None)


def test_instructions_are_counted_by_prompt_by_instruction_and_by_kind() -> None:
    no_comma, quoted = "punctuation:no_comma", "startend:quotation"
    rows = [
        {"prompt": "p", "instruction_id_list": [no_comma, quoted], "kwargs": [{}, {}]},
        {"prompt": "q", "instruction_id_list": [no_comma], "kwargs": [{}]},
        {"prompt": "r", "instruction_id_list": None, "kwargs": None},
    ]
    one = answers("one", [['"a"', '"a, b"'], ["c", "d"], ["e, f", "g"]])
    found = measure(one, rows, one, stage(), 0, None)
    shares = {key: value.mean for key, value in found.items() if key.startswith("instructions")}
    assert shares == pytest.approx({
        "instructions/prompts": (0.5 + 1.0) / 2,
        "instructions/all": 5 / 6,  # one response has a comma
        f"instructions/kind/{no_comma}": 3 / 4,
        f"instructions/kind/{quoted}": 1.0,
    })  # fmt: skip


def test_the_alignment_tax_is_the_paired_difference_by_domain() -> None:
    def on(nats: Sequence[float]) -> list[TextNLL]:
        return [TextNLL(value * math.log(2), 1, size) for value, size in zip(nats, (10, 30, 20), strict=True)]

    reference, ours = answers("sft", [["a"]]), answers("ppo", [["a"]])
    reference.domains = {"code": on([10, 60, 30])}
    ours.domains = {"code": on([11, 63, 32])}  # 0.1 bits per byte more in every text
    found = by_domain(ours, reference, stage(), seed=0)
    assert found["text/domain/code"].mean == pytest.approx(106 / 60)
    assert found["text/domain/code"].low < found["text/domain/code"].high
    assert found["text/tax/code"] == pytest.approx((0.1, 0.1, 0.1))  # the texts differ, the differences do not
    assert list(by_domain(reference, reference, stage(), seed=0)) == ["text/domain/code"]


def test_tasks_of_the_harness_are_compared_document_by_document() -> None:
    reference, ours = answers("sft", [["a"]]), answers("ppo", [["a"]])
    reference.tasks, ours.tasks = {"arc:acc": [1.0, 0.0, 1.0, 1.0]}, {"arc:acc": [1.0, 0.0, 1.0, 0.0], "new:acc": [1.0]}
    found = by_task(ours, reference, lambda groups: estimate(groups, 50, 0))
    assert {name: value.mean for name, value in found.items()} == {
        "lm_eval/task/arc:acc": 0.5, "lm_eval/task/new:acc": 1.0, "lm_eval/change/arc:acc": -0.25,
    }  # fmt: skip
    assert list(by_task(reference, reference, lambda groups: estimate(groups, 50, 0))) == ["lm_eval/task/arc:acc"]


def test_the_reference_is_not_measured_against_itself() -> None:
    found = measured(THEIRS)
    assert not [key for key in found if key.startswith("win_rate")]
    assert "kl" not in found
    assert found["text/perplexity"] == pytest.approx(7.389056, rel=1e-6)
    assert found["text/bits_per_byte"] == pytest.approx(1.5 / 0.693147, rel=1e-5)


def test_a_single_sample_has_no_consistency() -> None:
    one = answers("one", [["Lima."]])
    found = measure(one, [{"prompt": "Capital of Peru?"}], one, stage(samples=1), 0, None)
    assert set(found) == {"ends", "length", "distinct_1", "distinct_2"}


def test_prompts_without_a_group_are_not_paraphrases() -> None:
    assert paraphrases(ROWS) == [[0, 1]]
    assert paraphrases([{"prompt": "a", "group": None}, {"prompt": "b", "group": None}, {"prompt": "c"}]) == []


def test_agreement_across_three_prompts_is_the_mean_over_pairs() -> None:
    found = across(answers("x", [["a", "b"], ["a", "a"], ["b", "c"]]), [0, 1, 2])
    assert found == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
