"""Methods over seeds: mean with interval, differences from a baseline with corrected paired tests, and the cost."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.config.stages import REFERENCE_FREE
from rlhf.evaluation.sweeps.jobs import FINISHED
from rlhf.storage.manifest import read_manifest

PAGE = "report"
METRICS = {"gold": "gold", "score": "score", "win_rate": "win rate vs start", "kl": "KL (nats per response)"}
RANKING = ("gold", "score", "win_rate")  # the first that all methods have
ROLES = ("policy", "reference", "critic", "gold", "judge")  # parents that do not score


def chain(name: str, seed: int) -> str:
    """Return the name of the chain of a seed."""
    return f"{name}/seed-{seed}"


def place(directory: Path, seed: int, title: str) -> Path:
    """Return the directory of a parent or a method."""
    return Path(chain(str(directory), seed), title)


class Interval(NamedTuple):
    """A mean over n seeds and half of its 95 % interval, from Student's t distribution; None for a single seed."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.half is None else f"{self.mean:.3f} ±{self.half:.3f}"


class Cost(NamedTuple):
    """Tokens of a run: sampled, trained (once per epoch and model), and passed forward without a gradient."""

    sampled: float
    trained: float
    forward: float

    def flops(self, parameters: int) -> float:
        """Return 2 N per token forward and 6 N per trained token (Kaplan et al. 2020, arXiv 2001.08361, eq. 2.2)."""
        return 2 * parameters * self.forward + 6 * parameters * self.trained


class Method(NamedTuple):
    """The finished runs of a method: seed -> manifest."""

    title: str
    runs: dict[int, dict[str, Any]]

    def values(self, metric: str) -> dict[int, float]:
        """Return seed -> metric of the runs that have it."""
        found = {seed: manifest["metrics"].get(metric) for seed, manifest in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}


class Test(NamedTuple):
    """The difference of a method from the baseline over common seeds, and its p-value; None for fewer than two."""

    difference: Interval
    p: float | None
    corrected: float | None = None


def interval(values: Sequence[float]) -> Interval:
    """Return the mean with half of its 95 % interval."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Interval(mean, None)
    from scipy import stats  # takes half a second, and the command line imports this module

    return Interval(mean, float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)))


def cost(manifest: Mapping[str, Any]) -> Cost:
    """Return the tokens that a finished run sampled, trained on and passed forward without a gradient.

    RL samples each response, and reads it with the reference, a separate critic and every reward model. RAFT and online
    DPO sample and score; prompts that are only sampled from do not count. DPO and KTO read their rows once with the
    reference, if the loss has one.
    """
    metrics, stage = manifest["metrics"], manifest["settings"]["stage"]
    tokens = float(metrics["tokens"])
    scorers = len([role for role in manifest["parents"] if role not in ROLES])
    if "advantage" not in stage:
        drawn = metrics.get("sample/responses", 0) * metrics.get("sample/tokens", 0)
        sampled, losses = metrics.get("sampled_tokens", drawn), stage.get("loss")
        free = "beta" not in stage or (isinstance(losses, list) and {*losses} <= {*REFERENCE_FREE})
        return Cost(sampled, tokens, sampled * (1 + scorers) + (0.0 if free else tokens))
    critic = int(stage["advantage"] == "gae" and stage["critic_kind"] == "separate")
    return Cost(metrics["sampled_tokens"], tokens * stage["epochs"] * (1 + critic), tokens * (2 + critic + scorers))


def collect(directory: Path, titles: Sequence[str], seeds: Sequence[int]) -> list[Method]:
    """Return the finished runs of each method."""
    found = []
    for title in titles:
        manifests = {seed: read_manifest(place(directory, seed, title)) for seed in seeds}
        kept = {seed: one for seed, one in manifests.items() if one is not None and one["status"] == FINISHED}
        found.append(Method(title, kept))
    return found


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Test | None:
    """Return the mean difference over common seeds with the p-value of a paired t-test; None without common seeds."""
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return None
    differences = [ours[seed] - theirs[seed] for seed in common]
    same = len({*differences}) == 1  # the test is undefined without variance
    if len(common) < 2 or same:
        return Test(interval(differences), None)
    from scipy import stats

    return Test(interval(differences), float(stats.ttest_1samp(differences, 0.0).pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number so that the family-wise error rate holds (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min((len(p_values) - rank) * p_values[index], 1.0))
        corrected[index] = largest
    return corrected


def compare(methods: Sequence[Method], baseline: str, metric: str) -> dict[str, Test]:
    """Return the test of each method except ``baseline``; p-values are corrected over all of them."""
    [theirs] = [method.values(metric) for method in methods if method.title == baseline]
    tests = {one.title: paired(one.values(metric), theirs) for one in methods if one.title != baseline}
    found = {title: test for title, test in tests.items() if test is not None}
    tested = [title for title, test in found.items() if test.p is not None]
    for title, p in zip(tested, holm([found[title].p or 0.0 for title in tested]), strict=True):
        found[title] = found[title]._replace(corrected=p)
    return found
