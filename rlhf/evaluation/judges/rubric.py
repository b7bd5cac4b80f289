"""A language model with a rubric as a reward: it scores each response, or compares it with a baseline response.

A rubric is a question with placeholders (conf/judge/helpful.txt, conf/judge/pairwise.txt). Scores and preferences are
between 0 and 1. A response without a verdict (a refusal, a reply in another form, a question that is too long) has the
score None, which is counted; the other terms of the reward still apply to it.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property

from rlhf.config import EvaluateRewardStage, JudgeKind, PPOStage, Settings
from rlhf.config.rewards import JudgeTerm
from rlhf.console import console
from rlhf.data import load
from rlhf.data.render import Prompt
from rlhf.errors import TrainingError
from rlhf.evaluation.judges.endpoint import MOST_UNUSABLE, EndpointJudge
from rlhf.evaluation.judges.factory import local
from rlhf.evaluation.judges.judge import PAIR, RESPONSE, LanguageJudge, asked_about, score_of, template, template_file
from rlhf.evaluation.reward_card.judged import agree
from rlhf.evaluation.statistics.kappa import Agreement
from rlhf.hardware import ranks
from rlhf.modeling.seeding import derive
from rlhf.rewards.spending import Spending
from rlhf.runs.run import Run

FEW = 10  # responses without a verdict that are never too many


class RubricReward:
    """The scores of a judge as a RewardFunction; ``make`` returns the judge, on first use.

    Args:
        key: the setting of the rubric, for messages.
        scale: the best score; 1 is the worst.
        baseline: the column with the responses to compare with; None scores each response separately.
        spending: the counts of the judge's questions.
    """

    def __init__(
        self, key: str, scale: int, baseline: str | None, spending: Spending, make: Callable[[], LanguageJudge]
    ):
        self.key, self.scale, self.spending, self.make = key, scale, spending, make
        self.reads = () if baseline is None else (baseline,)
        self.rows = self.missing = 0

    @cached_property
    def judge(self) -> LanguageJudge:
        """The judge."""
        return self.make()

    def close(self) -> None:
        """Close the connections of an endpoint, if it was asked."""
        close = getattr(self.__dict__.get("judge"), "close", None)
        if close is not None:
            close()

    def check(self, baseline: object) -> None:
        """Raise ValueError unless the baseline of a row is text."""
        if not isinstance(baseline, str):
            raise ValueError(f"the baseline response must be text, got {baseline!r}"[:200])

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str], **columns: Sequence[str | None]
    ) -> list[float | None]:
        if not self.reads:
            return self._counted(self.score(prompts, completions))
        [baselines] = columns.values()
        kept = [i for i, baseline in enumerate(baselines) if baseline is not None]
        others = [baselines[i] or "" for i in kept]
        values = self.judge.compare([prompts[i] for i in kept], [completions[i] for i in kept], others)
        found: list[float | None] = [None] * len(completions)
        for i, value in zip(kept, self._counted(values), strict=True):
            found[i] = value
        return found

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return the score of each response, from 0 to 1, without a comparison; None without one."""
        rows = zip(prompts, completions, strict=True)
        questions = [asked_about(self.judge.text, *row, self.scale) for row in rows]
        return self.judge.ask(questions, score_of(self.scale))

    def lowest(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Return the score of each response, from 0 to 1; -1 without a verdict."""
        return [-1.0 if value is None else value for value in self._counted(self.score(prompts, completions))]

    def prefer(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float | None]:
        """Return the preference for each first response; by their scores, unless the rubric compares pairs."""
        if self.reads:
            return self._counted(self.judge.compare(prompts, firsts, seconds))
        both = self._counted(self.score([*prompts, *prompts], [*firsts, *seconds]))
        sides = zip(both[: len(firsts)], both[len(firsts) :], strict=True)
        return [None if a is None or b is None else float(a > b) + 0.5 * float(a == b) for a, b in sides]

    def _counted(self, found: list[float | None]) -> list[float | None]:
        """Return ``found`` after counting the responses without a verdict.

        Raises:
            TrainingError: there are too many of them.
        """
        missing = sum(value is None for value in found)
        self.spending.add(unusable=missing)
        self.rows, self.missing = self.rows + len(found), self.missing + missing
        if self.missing > max(FEW, MOST_UNUSABLE * self.rows):
            raise TrainingError(
                f"{self.key} has no verdict on {self.missing} of {self.rows} responses (malformed or refused replies, "
                "or too long questions): raise judge.max_tokens or judge.max_length, or set another model or rubric"
            )
        return found


def reward(
    key: str, rubric: str, scale: int, baseline: str | None, settings: Settings, run: Run, spending: Spending
) -> RubricReward:
    """Return the reward of a rubric; an endpoint is prepared here, a local model is loaded on first use.

    Raises:
        ConfigError: the rubric is not a file with the right placeholders, or the endpoint's client or key is missing.
    """
    text, key = template(rubric, f"{key}.rubric", RESPONSE if baseline is None else PAIR), f"{key}.rubric={rubric}"
    if settings.judge.kind is JudgeKind.local:
        return RubricReward(key, scale, baseline, spending, lambda: local(settings, run, text, spending))
    found = RubricReward(key, scale, baseline, spending, lambda: EndpointJudge(settings.judge, text, spending))
    assert found.judge is not None  # reports a missing key or package now
    return found


@contextmanager
def terms(settings: Settings, run: Run) -> Generator[dict[str, RubricReward]]:
    """Yield role -> reward of each term of stage=ppo with a rubric, gold included; they share their budget."""
    spending = Spending(settings.judge, ranks.size())
    found = {}
    for role, term in settings.stage_as(PPOStage).roles().items():
        if (own := term.judge).rubric is not None:
            found[role] = reward(f"stage.{role}.judge", own.rubric, own.scale, own.baseline, settings, run, spending)
    with ExitStack() as stack:
        for one in found.values():
            stack.callback(one.close)
        yield found


@contextmanager
def evaluated(settings: Settings, run: Run, spending: Spending) -> Generator[RubricReward]:
    """Yield the reward of ``stage.rubric`` in stage=evaluate_reward, which compares pairs if its file has $first."""
    stage = settings.stage_as(EvaluateRewardStage)
    rubric = stage.rubric or ""
    file = template_file(rubric)
    pairs = file is not None and "$first" in file.read_text(encoding="utf-8")
    with closing(reward("stage", rubric, stage.scale, "rejected" if pairs else None, settings, run, spending)) as found:
        yield found


def report(settings: Settings, rewards: Mapping[str, RubricReward]) -> dict[str, float]:
    """Print each judge's agreement with the held-out preferences of the data, and return it as metrics."""
    found: dict[str, float] = {}
    for role, term in settings.stage_as(PPOStage).roles().items():
        if role not in rewards or not term.judge.pairs:
            continue
        measured = ranks.told(_measured(settings, rewards[role], term.judge) if ranks.is_main() else None)
        if measured is None:
            text = "its agreement with people is unknown, since the data has no held-out pairs or it has no verdicts"
        else:
            text = str(measured)
            found |= measured.metrics(f"judge/{role.removeprefix('rewards.')}/")
        console.print(f"ppo: stage.{role}.judge: {text}", highlight=False, markup=False, soft_wrap=True)
    return found


def _measured(settings: Settings, reward: RubricReward, term: JudgeTerm) -> Agreement | None:
    """Return the agreement on up to ``term.pairs`` pairs of the validation split; None without pairs."""
    if settings.data.path is not None or not settings.data.preferences.paths:
        return None
    pairs = load(settings.data, "preferences", "validation", settings.seed, tell=False)
    drawn = pairs.shuffle(seed=derive(settings.seed, "agreement") % 2**32)
    return agree(list(drawn.select(range(min(term.pairs, len(pairs))))), reward.prefer, settings.seed)[0]
