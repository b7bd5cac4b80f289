"""The logs of a run, one line of JSON per entry; an interrupted run loses those after its last checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path

LEDGER = "ledger.jsonl"  # tokens of a few responses of each update of stage=ppo
LOGS = ("metrics.jsonl", "samples.jsonl", LEDGER)


def lines(work: Path) -> dict[str, int]:
    """Return the number of lines of each log in ``work``."""
    paths = [work / name for name in LOGS]
    return {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in paths if path.exists()}


def cut(work: Path, step: int, written: Mapping[str, int] | None) -> None:
    """Keep the first ``written`` lines of each log if they were counted, else the lines of steps up to ``step``.

    They are counted at a checkpoint, since a run logs its last step again at its end.
    """
    for name in lines(work):
        found = (work / name).read_text(encoding="utf-8").splitlines()
        kept = [line for line in found if _step(line) <= step] if written is None else found[: written.get(name, 0)]
        (work / name).write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _step(line: str) -> int:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return 2**63  # a line that a kill cut short
