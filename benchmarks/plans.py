"""Plans of the classic setups, for docs/planning.md: memory and time of each stage on one and on eight 80 GB GPUs.

    python -m benchmarks.plans            # a minute; loads no weights and trains nothing
    python -m benchmarks.plans --show     # print the last plans

These are plans, not results: none of them was run on a GPU. Stages are composed from the experiments' presets. On eight
GPUs the batch size is unchanged, so each GPU accumulates an eighth of it. Writes benchmarks/plans.json, and the table
into docs/planning.md, between the lines that mark its place.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.plan_memory import composed
from benchmarks.sides import record as write
from benchmarks.table import place
from rlhf.hardware.memory import count, size
from rlhf.planning.estimate import Outlook, look_ahead, record
from rlhf.planning.remedies import Remedy, first, tried
from rlhf.planning.throughput import assumed, seconds
from rlhf.planning.workload import rows_of
from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "planning.md"
PLACE = "<!-- plans -->"
DEVICE = "a100-80gb"
GPUS = (1, 8)


class Setup(NamedTuple):
    title: str
    experiment: str
    model: str
    stages: tuple[str, ...]


TLDR = ("sft", "reward", "ppo")
SETUPS = (
    *(Setup(f"TL;DR, Pythia {one}", "tldr-pythia", f"pythia-{one.lower()}", TLDR) for one in ("1B", "2.8B", "6.9B")),
    Setup("UltraFeedback, Mistral 7B", "ultrafeedback-zephyr", "mistral-7b", ("sft", "dpo")),
    Setup("UltraFeedback, Llama 3.1 8B", "ultrafeedback-zephyr", "llama-3.1-8b", ("sft", "dpo")),
)


def row(setup: Setup, stage: str, gpus: int) -> dict[str, Any]:
    """Return the plan of a stage and, if it does not fit, of the first remedy that does."""
    plan = composed(["stage=plan", f"stage.device={DEVICE}", f"stage.gpus={gpus}"]).stage
    settings = composed([f"stage={stage}", f"experiment={setup.experiment}", f"model={setup.model}"])
    if stage != "ppo" and gpus > 1:
        trainer = settings.stage.trainer
        times = max(trainer["gradient_accumulation_steps"] // gpus, 1)
        rows = trainer["per_device_train_batch_size"] * trainer["gradient_accumulation_steps"] // (times * gpus)
        trainer = trainer | {"gradient_accumulation_steps": times, "per_device_train_batch_size": rows}
        settings = replace(settings, stage=replace(settings.stage, trainer=trainer))
    rows = rows_of(settings, plan)
    outlook = look_ahead(settings, plan, rows)
    remedy: Remedy | None = None
    taken: Outlook | None = outlook
    if not outlook.fits:
        remedy, taken = first(tried(outlook, plan, rows)) or (None, None)
    found = {"setup": setup.title, "stage": stage, "gpus": gpus, "plan": record(outlook)}
    if taken is None:
        return found | {"remedy": None, "taken": None, "gpu_hours": None, "pace": None}
    pace = assumed(taken, plan)
    hours = seconds(taken, pace) * gpus / 3600
    changes = [] if remedy is None else list(remedy.changes)
    return found | {"remedy": changes, "taken": record(taken), "gpu_hours": hours, "pace": pace.source}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table with a row for each stage and number of GPUs."""
    heading = [
        "setup",
        "stage",
        "GPUs",
        "GiB per GPU",
        "fits",
        "remedy",
        "GiB with remedy",
        "steps",
        "tokens",
        "GPU hours",
    ]
    lines = []
    for one in rows:
        plan, taken = one["plan"], one["taken"]
        fits = "yes" if plan["fits"] else "no"
        given = "" if plan["fits"] else "none found" if taken is None else " ".join(f"`{c}`" for c in one["remedy"])
        then = "" if plan["fits"] or taken is None else gib(taken["memory"]["peak"])
        hours = (
            "" if taken is None else f"{one['gpu_hours']:.2g}" if one["gpu_hours"] < 10 else f"{one['gpu_hours']:.0f}"
        )
        work = taken or plan
        cells = (one["setup"], one["stage"], one["gpus"], gib(plan["memory"]["peak"]), fits, given, then)
        lines.append((*cells, f"{work['steps']:,}", count(work["tokens"]), hours))
    return list(markdown.table(heading, lines, str))


def gib(number: int) -> str:
    return f"{number / 2**30:.0f}"


def publish(rows: list[dict[str, Any]]) -> None:
    """Write the table into docs/planning.md."""
    place(PAGE, PLACE, table(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the stored plans and make none")
    if parser.parse_args().show:
        print("\n".join(table(json.loads(RESULT.read_text())["rows"])))
        return
    rows = [row(setup, stage, gpus) for setup in SETUPS for stage in setup.stages for gpus in GPUS]
    print("\n".join(table(rows)))
    room = rows[0]["plan"]["room"]
    print(f"{size(room)} of each GPU can be used")
    write(RESULT, {"device": DEVICE, "rows": rows})
    publish(rows)


if __name__ == "__main__":
    main()
