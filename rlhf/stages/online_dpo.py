"""Iterative DPO: rounds of sampling from the current policy, making pairs of the responses, and training DPO on them.

    python -m rlhf stage=online_dpo                                  # pairs by checkpoints/<name>/reward
    python -m rlhf stage=online_dpo stage.rounds=10 stage.samples=8 stage.pairs=all stage.reference=moving
    python -m rlhf stage=online_dpo judge=endpoint judge.model=...   # pairs by a judge
    python -m rlhf stage=online_dpo judge=person                     # stops in each round until people have labeled it

Guo et al. 2024, https://arxiv.org/abs/2402.04792; Dong et al. 2024, https://arxiv.org/abs/2405.07863. Each round is a
run of stage=dpo in the folder of this run, round_1, round_2, ..., with its samples in round_1/sample.
"""

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf.config import DPOStage, Format, JudgeKind, OnlineDPOStage, Reference, SampleStage, Settings, Ties, part_of
from rlhf.console import console
from rlhf.data.sources import own_file, source_of
from rlhf.errors import DataError, RunError
from rlhf.evaluation.judges.factory import build as judge_of
from rlhf.evaluation.responses.policies import Policies, with_bounds
from rlhf.evaluation.statistics.metrics import Estimate
from rlhf.hardware import ranks
from rlhf.labeling.pairs import RESPONSES, Pair, draw, labeled, read_responses, scored_by_wins, write_rows
from rlhf.runs.commands import command, setting
from rlhf.runs.interrupted import resuming
from rlhf.runs.parents import Parent, of_the_chain
from rlhf.runs.run import Run
from rlhf.stages import adopt, inner

Scored = list[dict[str, Any]]  # rows of prompt, responses and scores
KEPT = ("eval/loss", "eval/rewards/accuracies", "eval/rewards/margins")  # of the DPO run, per round


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Train round by round until the last one or until a round gains nothing; save the policy, return its metrics."""
    stage = settings.stage_as(OnlineDPOStage)
    run.rewind(0)  # finished rounds are logged again
    policies = Policies(settings, run)
    policy, metrics, spent = run["policy"], dict[str, float](), {"sampled_tokens": 0.0, "tokens": 0.0}
    for number in range(1, stage.rounds + 1):
        sampled = sample(settings, run, policy, number)
        drawn: Any = sampled.manifest
        spent["sampled_tokens"] += drawn["metrics"]["responses"] * drawn["metrics"]["tokens"]
        rows, path = scores(settings, run, sampled, number)
        contrasts = sum(min(row["scores"]) < max(row["scores"]) for row in rows)
        if contrasts < 2:  # one to train on, one held out
            if number > 1:
                tell(f"round {number} has {contrasts} prompts with responses of different scores: training ends")
                break
            raise DataError(
                f"only {contrasts} of {len(rows)} prompts have responses with different scores, and two are needed: "
                "raise stage.samples or stage.temperature, or use more prompts"
            )
        trained = train(settings, run, policy, number, path)
        learned: Any = trained.manifest
        spent["tokens"] += learned["metrics"]["tokens"]
        found = summary(sampled, trained) | spent | {"equal_groups": float(len(rows) - contrasts)}
        found |= measured(policies, run, trained, policy, number)
        run.log(found, number)
        tell(described(number, found))
        before, (policy, metrics) = (policy, metrics), (trained, found | {"rounds": float(number)})
        if (rate := gain(found)) is not None and stage.stop_early and rate.low <= 0.5:
            tell(f"round {number} gains nothing beyond noise (win rate {rate} against the policy before it): it stops")
            if rate.mean < 0.5 and number > 1:
                tell(f"round {number - 1} has the higher win rate and is the result")
                policy, metrics = before
            break
    adopt(run, settings, policy)
    return metrics | spent | ({"objective": metrics["win_rate"]} if "win_rate" in metrics else {})


def tell(sentence: str) -> None:
    """Print a sentence about the rounds."""
    console.print(f"online_dpo: {sentence}", highlight=False, markup=False, soft_wrap=True)


def sample(settings: Settings, run: Run, policy: Parent, number: int) -> Parent:
    """Sample responses from the policy of the last round, scored if a reward decides the pairs."""
    stage = settings.stage_as(OnlineDPOStage)
    drawn = part_of(stage, SampleStage, name="sample", policy=policy.path, split="train", stream=number)
    return inner(run, settings, f"round_{number}/sample", drawn)


def scores(settings: Settings, run: Run, sampled: Parent, number: int) -> tuple[Scored, Path]:
    """Return the responses of each prompt with their scores, by the reward, the judge or people, and their file."""
    path = sampled.directory / RESPONSES
    if settings.judge.kind is JudgeKind.none:
        return read_responses(path, scored=True), path
    path = run.work / "labels" / f"round_{number}.jsonl"
    if ranks.told(not path.is_file()):
        pairs, preferred = labels(settings, run, sampled, number)
        path.parent.mkdir(exist_ok=True)
        write_rows(path, scored_by_wins(pairs, preferred))
        ranks.wait()
    return read_responses(path, scored=True), path


def labels(
    settings: Settings, run: Run, sampled: Parent, number: int
) -> tuple[list[Pair], list[float | None] | list[float]]:
    """Return all pairs of different responses with the judge's preference for the first, or those that people labeled.

    Raises:
        RunError: people have not labeled the responses yet; the message has the commands that continue.
    """
    stage = settings.stage_as(OnlineDPOStage)
    most = stage.samples * (stage.samples - 1) // 2
    if settings.judge.kind is not JudgeKind.person:
        pairs, _ = draw({"sample": read_responses(sampled.directory / RESPONSES)}, most, None, settings.seed)
        judge = judge_of(settings, run) if ranks.is_main() else None
        texts = [pair.first for pair in pairs], [pair.second for pair in pairs]
        return pairs, ranks.told([] if judge is None else judge([pair.prompt for pair in pairs], *texts))
    place = sampled.directory.parent / "label"
    if not (place / "run.json").is_file():
        words = shlex.split(run.manifest["command"])[3:]
        shared = [word for word in of_the_chain(words) if not word.startswith("name=")]
        name = setting("name", os.path.relpath(sampled.directory.parent, settings.checkpoints))
        label = command("label", [*shared, name, f"stage.pairs={most}"])
        raise RunError(f"round {number} waits for labels: run {label}, then {resuming(settings, words)}")
    pairs = labeled(place / "preferences.jsonl")
    return pairs, [1.0] * len(pairs)


def train(settings: Settings, run: Run, policy: Parent, number: int, path: Path) -> Parent:
    """Train DPO on the pairs of a round, from the policy of the last one."""
    stage, data = settings.stage_as(OnlineDPOStage), settings.data
    reference = run["policy"].path if stage.reference is Reference.fixed and number > 1 else None
    trained = part_of(stage, DPOStage, name="dpo", policy=policy.path, reference=reference)
    return inner(
        run,
        settings,
        f"round_{number}",
        trained,
        path=None,
        gold=None,
        prompts=source_of(data, "prompts"),
        preferences=own_file(path, Format.scores),
        pairing=replace(data.pairing, rankings=stage.pairs, ties=Ties.drop),
    )


def summary(sampled: Parent, trained: Parent) -> dict[str, float]:
    """Return the metrics of a round that its runs have measured."""
    drawn: Any = sampled.manifest
    made: Any = trained.manifest
    found = {f"sample/{key}": drawn["metrics"][key] for key in ("ended", "tokens")}
    if "best_of_1/score" in drawn["metrics"]:
        found["sample/score"] = drawn["metrics"]["best_of_1/score"]
    pairs = sum(split["rows"] for split in made["data"]["preferences"].values())
    return found | {"pairs": float(pairs)} | {key: made["metrics"][key] for key in KEPT}


def measured(policies: Policies, run: Run, policy: Parent, last: Parent, number: int) -> dict[str, float]:
    """Return a round's means on held-out prompts, and its win rates against the start and the policy before it."""
    if not policies.prompts:
        return {}

    def compute() -> dict[str, float]:
        ours, start = policies.measured(f"round_{number}", policy), policies.measured("start", run["policy"])
        before = start if number == 1 else policies.measured(f"round_{number - 1}", last)
        found = ours.means() | {f"start/{name}": value for name, value in start.means().items()}
        rate = policies.win_rate(ours, start)
        previous = rate if number == 1 else policies.win_rate(ours, before)
        return found | with_bounds("win_rate", rate) | with_bounds("win_rate/previous", previous)

    return policies.kept(f"round_{number}-metrics", compute)


def gain(found: dict[str, float]) -> Estimate | None:
    """Return the win rate against the policy before the round, None if it was not measured."""
    names = ("win_rate/previous", "win_rate/previous/low", "win_rate/previous/high")
    return Estimate(*(found[name] for name in names)) if names[0] in found else None


def described(number: int, found: dict[str, float]) -> str:
    """Return the main numbers of a round in one line."""
    parts = [f"{found['pairs']:.0f} pairs", f"{found['equal_groups']:.0f} prompts with equal scores left out"]
    labels = {"sample/score": "reward of the samples", "score": "held-out reward", "gold": "gold", "kl": "KL"}
    parts += [f"{label} {found[name]:.3f}" for name, label in labels.items() if name in found]
    rate = gain(found)
    parts += [] if rate is None else [f"win rate {rate} against the policy before it"]
    return f"round {number}: {', '.join(parts)}"
