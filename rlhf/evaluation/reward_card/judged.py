"""The agreement of a judge with held-out pairs, and its report."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.data.rows import Row, prompt_key
from rlhf.evaluation.reward_card.pairs import LABELS, Part, ScoredPairs, parts, side
from rlhf.evaluation.statistics.kappa import Agreement, agreement
from rlhf.storage.json_files import write_json
from rlhf.storage.markdown import cell, table

DRAWS = 2000  # of the bootstrap

# (prompts, firsts, seconds) -> preferences for the first responses; None without a verdict.
Prefer = Callable[[Sequence, Sequence[str], Sequence[str]], list[float | None]]


def agree(rows: Sequence[Row], prefer: Prefer, seed: int) -> tuple[Agreement | None, dict[str, list[Part]]]:
    """Return the agreement of ``prefer`` with the pairs, None without a verdict, and its accuracy on parts of them."""
    chosen, rejected = side(rows, "chosen"), side(rows, "rejected")
    preferred = prefer(chosen.prompts, chosen.completions, rejected.completions)
    kept = [i for i, value in enumerate(preferred) if value is not None]
    found = agreement(preferred, [prompt_key(row) for row in rows], DRAWS, seed)
    if found is None:
        return None, {}
    with_verdict = [rows[i] for i in kept]
    values = np.array([preferred[i] for i in kept])
    sides = (side(with_verdict, name) for name in ("chosen", "rejected"))
    return found, parts(ScoredPairs(with_verdict, *sides, values, 1 - values))


def write(name: str, found: Agreement, by: dict[str, list[Part]], reported: dict[str, float], folder: Path) -> None:
    """Write metrics.json and report.md; ``reported`` are the counts and the cost of the judge."""
    record: dict[str, Any] = {"judge": name, "agreement": found.metrics(""), "cost": reported}
    record["parts"] = {title: {part.name: part.accuracy._asdict() for part in some} for title, some in by.items()}
    write_json(folder / "metrics.json", record)
    (folder / "report.md").write_text("\n".join(markdown(name, found, by, reported)) + "\n", encoding="utf-8")


def markdown(name: str, found: Agreement, by: dict[str, list[Part]], reported: dict[str, float]) -> Iterator[str]:
    """Yield the lines of the report; names are escaped."""
    yield f"# Agreement of the judge {cell(name)}\n"
    yield f"{found}. Intervals are 95 %: a bootstrap over prompts ({DRAWS} draws), for shares Wilson's; ties count half"
    yield "in shares.\n"
    yield from table(["count", "value"], [[key, f"{value:g}"] for key, value in reported.items()])
    for title, some in by.items():
        yield f"\n## Accuracy by {cell(LABELS.get(title, title))}\n"
        lines = [[part.name, str(part.accuracy), str(part.accuracy.count)] for part in some]
        yield from table(["", "accuracy", "pairs"], lines)
