"""stage=ladder: train several methods over seeds from the same parents, then compare them on one page.

    python -m rlhf stage=ladder
    python -m rlhf stage=ladder "stage.seeds=[1,2,3]" stage.budget=500000 stage.methods.raft=null
    python -m rlhf stage=ladder "+stage.methods.mine=['stage=dpo','stage.beta=0.3']"

The runs are in <name>/ladder/seed-<n>/<method>. The same command again skips what is up to date, continues what was
interrupted, and runs failed methods again.
"""

import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rlhf.cli.compose import composed
from rlhf.cli.progression import advance, common
from rlhf.config import LadderStage, Settings, TrainedStage
from rlhf.config.objective import METRICS
from rlhf.config.sweep import BUDGETED
from rlhf.console import console
from rlhf.errors import ConfigError, RlhfError, RunError
from rlhf.evaluation.sweeps.ladder import PAGE, chain, place

FIRST = ("base", "sft", "sample", "label", "reward")  # order of these parents: a recipe adds its own after the defaults


def run(settings: Settings, directory: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Run what is missing, each seed's parents first, and write the page; return its metrics.

    Raises:
        RunError: a method failed. The page lists it, and the others were run.
    """
    from rlhf.stages import execute

    stage = settings.stage_as(LadderStage)
    jobs = {seed: commands(stage, of_seed(settings, directory, overrides, seed)) for seed in stage.seeds}
    for title, own in jobs[stage.seeds[0]].items():  # a mistake is reported before training starts
        check(stage, title, own)
    failed = train(settings, directory, jobs, stage.methods, stage.budget)
    metrics = execute(replace(settings, overwrite=False), directory / PAGE, overrides)
    if failed:
        raise RunError(f"{len(failed)} of {len(stage.methods) * len(stage.seeds)} runs failed: {'; '.join(failed)}")
    return metrics


def of_seed(settings: Settings, directory: Path, overrides: Sequence[str], seed: int) -> list[str]:
    """Return the overrides that all runs of a seed share, in the chain of that seed in ``directory``."""
    shared = [item for item in common(overrides) if not item.startswith(("name=", "seed="))]
    return [*shared, f"name={chain(os.path.relpath(directory, settings.checkpoints), seed)}", f"seed={seed}"]


def train(
    settings: Settings,
    directory: Path,
    jobs: Mapping[int, Mapping[str, Sequence[str]]],
    optional: Container[str],
    budget: int | None = None,
) -> dict[str, str]:
    """Run what is missing of seed -> title -> overrides; return the directory and error of each run that failed.

    ``optional``: titles that other runs do not start from. Only these may fail, and each may use ``budget`` tokens.
    """
    failed: dict[str, str] = {}
    for seed, of in jobs.items():
        for title, own in of.items():
            job, where = composed(own), place(directory, seed, title)
            if budget is not None and title in optional:
                from rlhf.planning.budget import within

                own = [*own, *within(job, budget)]
                job = composed(own)
            try:
                advance(job, own, settings, where)
            except RlhfError as error:
                if title not in optional:
                    raise
                failed[str(where)] = str(error)
                console.print(f"{where} failed: {error}", markup=False, highlight=False, soft_wrap=True)
    return failed


def commands(stage: LadderStage, shared: Sequence[str]) -> dict[str, list[str]]:
    """Return the overrides of each parent and each method, parents in the order in which they need each other."""
    ordered = sorted(stage.parents, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    parents = {name: [f"stage={name}", *shared, *stage.parents[name]] for name in ordered}
    return parents | {name: [*shared, *own] for name, own in stage.methods.items()}


def check(stage: LadderStage, title: str, overrides: Sequence[str]) -> None:
    """Check the settings of a command.

    Raises:
        ConfigError: the stage of a method trains no policy, ``stage.budget`` cannot set its length, or its policy is
            not scored, so that the methods cannot be ranked.
    """
    found = composed(overrides)
    if title in stage.parents:
        return
    if stage.budget is not None and found.stage.name not in BUDGETED:
        raise ConfigError(
            f"stage.budget={stage.budget} cannot set the length of stage={found.stage.name}: set "
            f"stage.methods.{title}=null, or stage.budget=null"
        )
    if not isinstance(found.stage, TrainedStage):
        raise ConfigError(f"stage.methods.{title} runs stage={found.stage.name}, which does not train: leave it out")
    if not found.eval_set.prompts:
        raise ConfigError("eval_set.prompts=0 leaves the policies of stage=ladder without a score: set 1 or more")
    without, remedy = ("", "") if found.data.gold else (" without data.gold", "set data.gold=<module>:<function>, or ")
    if found.stage.name not in METRICS["gold" if found.data.gold else "score"].keys:
        raise ConfigError(
            f"stage.methods.{title} runs stage={found.stage.name}, whose policy is not scored{without}: {remedy}"
            f"set stage.methods.{title}=null"
        )
