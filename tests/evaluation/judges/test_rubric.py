"""Rewards by a rubric, from an endpoint; the server of test_endpoint.py scores by the number of x's."""

from collections.abc import Callable, Iterator
from pathlib import Path
from string import Template

import pytest

from rlhf.data.rows import Row
from rlhf.errors import ConfigError, TrainingError
from rlhf.evaluation.judges.endpoint import EndpointJudge
from rlhf.evaluation.judges.judge import PAIR, RESPONSE, template
from rlhf.evaluation.judges.rubric import RubricReward
from rlhf.evaluation.reward_card.judged import agree, markdown
from rlhf.rewards.spending import Spending
from tests.conftest import composed
from tests.evaluation.judges.test_endpoint import Server, reply, server  # noqa: F401  a fixture

# ruff: noqa: F811

Build = Callable[..., RubricReward]
TEXTS = (["p", "p", "q", "q"], ["x", "xxxx", "none", "xx"])


@pytest.fixture
def rubric(server: Server, tmp_path: Path) -> Iterator[Build]:
    made: list[EndpointJudge] = []

    def of(*overrides: str, name: str = "helpful", baseline: str | None = None) -> RubricReward:
        given = ["judge=endpoint", "judge.model=m", f"judge.url={server.url}", f"judge.cache={tmp_path}/cache.sqlite"]
        settings = composed("stage=label", *given, "judge.workers=1", "judge.attempts=2", *overrides).judge
        spending, text = Spending(settings), template(name, "stage.rubric", PAIR if baseline else RESPONSE)
        made.append(EndpointJudge(settings, text, spending))
        return RubricReward("stage.rubric=x", 5, baseline, spending, lambda one=made[-1]: one)

    yield of
    for one in made:
        one.close()


def test_each_response_is_scored_from_0_to_1_and_paid_for_once(rubric: Build, server: Server) -> None:
    one = rubric("judge.price_prompt=2")
    assert one(*TEXTS) == [0.25, 1.0, 0.0, 0.5]
    assert one(TEXTS[0][:2], TEXTS[1][:2]) == [0.25, 1.0]
    assert one.spending.report()["judge/asked"] == len(server.requests) == 4
    assert one.spending.report()["judge/dollars"] == pytest.approx(4 * 100 * 2 / 1e6)
    again = rubric()
    assert again([*TEXTS[0], "p"], [*TEXTS[1], "x"]) == [0.25, 1.0, 0.0, 0.5, 0.25]
    assert (again.spending["asked"], again.spending["cached"]) == (0, 4)


def test_another_rubric_and_another_prompt_are_other_questions(rubric: Build, server: Server, tmp_path: Path) -> None:
    rubric()(["p"], ["x"])
    (tmp_path / "strict.txt").write_text("Strictly. $prompt <response $mark>\n$response\n</response> to $scale")
    rubric(name=str(tmp_path / "strict.txt"))(["p"], ["x"])
    rubric()(["other"], ["x"])
    assert len(server.requests) == 3


def test_a_baseline_is_compared_in_both_orders_and_its_absence_is_not_applicable(rubric: Build, server: Server) -> None:
    one = rubric(name="pairwise", baseline="usual")
    assert one(["p", "p", "q"], ["xx", "x", "x"], usual=["x", None, "xx"]) == [1.0, None, 0.0]
    assert len(server.requests) == 4
    assert one.spending["unusable"] == 0
    with pytest.raises(ValueError, match="the baseline response must be text, got 3"):
        one.check(3)


def test_refusals_and_other_replies_have_no_score_and_are_counted(rubric: Build, server: Server) -> None:
    no_score = [(200, reply("I would rather not"))] * 2
    server.faults = [(200, reply(None, refusal="I cannot judge this")), *no_score]
    one = rubric()
    assert one(*TEXTS) == [None, None, 0.0, 0.5]
    found = one.spending.report()
    assert (found["judge/refused"], found["judge/unusable"], found["judge/asked"]) == (1, 2, 5)
    server.always = "no"
    with pytest.raises(TrainingError, match=r"^stage\.rubric=x has no verdict on 16 of 18 responses"):
        one(["p"] * 14, [str(number) for number in range(14)])


@pytest.mark.parametrize(
    ("limit", "spent"),
    [
        ("budget_calls=3", "judge.budget_calls=3 calls are spent after 3 questions: raise it and run again"),
        ("budget_tokens=250", "judge.budget_tokens=250 tokens are spent after 3 questions"),
    ],
)
def test_calls_and_tokens_are_bounded_also_after_a_resume(
    rubric: Build, server: Server, limit: str, spent: str
) -> None:
    one = rubric(f"judge.{limit}")
    with pytest.raises(TrainingError) as raised:
        one(*TEXTS)
    assert str(raised.value).startswith(spent)
    assert len(server.requests) == 3
    one.spending.settle()
    resumed = rubric(f"judge.{limit}")
    resumed.spending.load_state_dict(one.spending.state_dict())
    with pytest.raises(TrainingError, match="are spent after 3 questions"):
        resumed(*TEXTS)
    assert len(server.requests) == 3


def test_the_agreement_with_held_out_pairs(rubric: Build, server: Server) -> None:
    rows: list[Row] = [
        {"prompt": f"{number}?", "chosen": chosen, "rejected": rejected, "source": "s"}
        for number, (chosen, rejected) in enumerate([("xx", "x"), ("x", "xx"), ("xxx", "no"), ("x", "ax"), ("xx", "a")])
    ]
    for name, baseline in (("helpful", None), ("pairwise", "rejected")):
        found, by = agree(rows, rubric(name=name, baseline=baseline).prefer, 0)
        assert (found.right, found.ties, found.pairs, found.unusable) == (0.6, 0.2, 5, 0)
        assert found.kappa.mean == pytest.approx((0.6 - 0.4) / 0.6)
        assert by["source"][0].accuracy.mean == pytest.approx(0.7)
    text = "\n".join(markdown("a|b", found, by, {"judge/asked": 3.0}))
    assert "a&#124;b" in text
    assert "Cohen's kappa 0.333" in text
    server.always = "no"
    assert agree([{"prompt": "1?", "chosen": "y", "rejected": "z"}], rubric().prefer, 0) == (None, {})


def test_a_rubric_without_its_placeholders_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^stage\.rubric=pairwise must have the placeholders \$prompt, \$response"):
        template("pairwise", "stage.rubric", RESPONSE)
    assert isinstance(template("helpful", "stage.rubric", RESPONSE), Template)
