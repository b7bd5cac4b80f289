"""Policies of one run on its held-out prompts: each is measured once, and they are compared with paired intervals."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlhf.config import JudgeKind, ScoredStage, Settings
from rlhf.data.render import Prompt
from rlhf.evaluation.judges.factory import build as judge_of
from rlhf.evaluation.responses import eval_set
from rlhf.evaluation.responses.answers import by_prompt
from rlhf.evaluation.responses.eval_set import Measured
from rlhf.evaluation.statistics.metrics import Estimate, estimate, win_rate
from rlhf.hardware import ranks
from rlhf.hardware.device import torch_device
from rlhf.modeling import loading
from rlhf.rewards import Rows
from rlhf.rewards import build as rewards_of
from rlhf.rewards.columns import reads_columns
from rlhf.runs.parents import Parent
from rlhf.runs.run import Run
from rlhf.storage.json_files import write_json
from rlhf.training import loop

DRAWS = 2000  # bootstrap samples of an interval


class Policies:
    """Measures policies on ``prompts``, those of `eval_set`, with the rewards of a stage that scores responses.

    The KL of every policy is from the parent ``policy``. Measurements are kept with the checkpoints of the run, so that
    a resumed run does not repeat them.
    """

    def __init__(self, settings: Settings, run: Run):
        self.settings, self.run, self.stage = settings, run, settings.stage_as(ScoredStage)
        plain = rewards_of.without_models(self.stage)
        reads = any(map(reads_columns, plain.values()))
        self.train = loop.read_splits(run, settings, "prompts", columns=reads)
        self.prompts: list[Prompt] = eval_set.prompts(settings, run, columns=reads)
        held_out = eval_set.held_out(settings, columns=True) if reads else None
        self.ready = rewards_of.bind(self.stage, plain, None if held_out is None else Rows(held_out))

    def measured(self, title: str, parent: Parent) -> Measured:
        """Return the measurement of ``parent``, whose random stream has the name ``title``."""
        return Measured(**self.kept(f"{title}-held_out", lambda: self._measure(title, parent)._asdict()))

    def kept(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the first process's value of ``compute``, from the checkpoints if an interrupted run has kept it."""
        path: Path = self.run.scratch / f"{name}.json"
        if ranks.told(path.is_file()):
            return json.loads(path.read_text(encoding="utf-8"))
        found = ranks.told(compute())
        if ranks.is_main():
            path.parent.mkdir(exist_ok=True)
            write_json(path, found)
        ranks.wait()
        return found

    def _measure(self, title: str, parent: Parent) -> Measured:
        settings, run = self.settings, self.run
        device = torch_device(settings.hardware)
        tokenizer = loading.load_tokenizer(run["policy"], settings.model)
        loop.settle(run, settings, tokenizer, self.train["train"]["prompt"])
        builder = rewards_of.Builder(settings, run.parents, tokenizer, ready=self.ready)
        reward = builder.reward()[0] if self.stage.scores else None
        scorers = eval_set.scorers(settings, run, builder.gold(), reward)
        policy, start = (
            loading.load_policy(one, settings.model, tokenizer).to(device) for one in (parent, run["policy"])
        )
        return eval_set.measured(settings, self.prompts, policy, start, tokenizer, scorers, title)

    def win_rate(self, ours: Measured, theirs: Measured) -> Estimate | None:
        """Return the win rate by the gold reward, else by the judge, else by the reward; None without any of them."""
        judges = self.settings.stage.judged and self.settings.judge.kind not in (JudgeKind.none, JudgeKind.person)
        if "gold" in ours.scores or not judges:
            by = next(iter(ours.scores), None)
            return None if by is None else win_rate(*self.grouped(by, ours, theirs), DRAWS, self.settings.seed)
        asked = [prompt for prompt in self.prompts for _ in range(self.settings.eval_set.samples)]
        judge = judge_of(self.settings, self.run) if ranks.is_main() else None
        preferred = ranks.told(None if judge is None else judge(asked, ours.texts, theirs.texts)) or []
        given = [[one for one in group if one is not None] for group in self._by_prompt(preferred)]
        groups = [group for group in given if group]
        return estimate(groups, DRAWS, self.settings.seed) if groups else None

    def difference(self, name: str, ours: Measured, theirs: Measured) -> Estimate:
        """Return the mean difference of a score; both policies are compared on each prompt."""
        pairs = zip(*self.grouped(name, ours, theirs), strict=True)
        return estimate([[eval_set.mean(a) - eval_set.mean(b)] for a, b in pairs], DRAWS, self.settings.seed)

    def grouped(self, name: str, *policies: Measured) -> list[list[list[float]]]:
        """Return the scores of each policy by prompt, (B, K)."""
        return [self._by_prompt(one.scores[name]) for one in policies]

    def _by_prompt(self, values: Sequence[Any]) -> list[list[Any]]:
        return by_prompt(values, self.settings.eval_set.samples)


def with_bounds(name: str, found: Estimate | None) -> dict[str, float]:
    """Return an estimate as metrics: its mean, and the bounds of its interval."""
    return {} if found is None else {name: found.mean, f"{name}/low": found.low, f"{name}/high": found.high}
