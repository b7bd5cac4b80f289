"""Estimate memory, steps and time of stages, and the first change that makes them fit. Nothing is trained.

    python -m rlhf stage=plan                        # the whole progression, on this machine
    python -m rlhf stage=plan experiment=tldr-pythia stage.stages=[sft,reward,ppo] stage.device=a100-80gb
    python -m rlhf stage=dpo hardware.plan=true      # one stage, here; exits with 1 if it does not fit

Weights are not read, only shapes. rlhf/cli/progression.py composes the settings of the stages.
"""

from collections.abc import Sequence
from dataclasses import replace

from rlhf.config import Settings
from rlhf.config.plan import PlanStage
from rlhf.console import console
from rlhf.planning import report
from rlhf.planning.estimate import Outlook, look_ahead
from rlhf.planning.remedies import tried
from rlhf.planning.throughput import Pace, pace_of
from rlhf.planning.workload import Rows, rows_of


def run(plan: PlanStage, composed: Sequence[Settings]) -> bool:
    """Print the plan of each of ``composed`` and return whether all of them fit.

    Raises:
        RlhfError: a model or data are neither available nor described by the settings.
    """
    found: list[tuple[Outlook, Pace | None]] = []
    data: list[Rows] = []
    for settings in composed:
        rows = rows_of(settings, plan)
        outlook = look_ahead(settings, plan, rows)
        found.append((outlook, pace_of(outlook, plan)))
        data.append(rows)
    if len(found) > 1:
        console.print(report.overview(found))
    for (outlook, pace), rows in zip(found, data, strict=True):
        console.print()
        report.show(outlook, pace)
        if not outlook.fits:
            stage = outlook.settings.stage.name
            report.show_remedies(stage, tried(outlook, replace(plan, probe=False), rows))
    return all(outlook.fits for outlook, _ in found)
