"""Scores of a reward model compared with transformers' text-classification pipeline, padded as RewardBench calls it.

    python -m benchmarks.scoring

Several responses per prompt: pairs, best of 4 (RewardBench 2) and 8 (reinforcement learning). The same texts, weights
and one thread; both sides tokenize. The scores must agree to 1e-4.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import sides
from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
TARGET, ALIKE = 3.0, 1e-4
SPEC: dict[str, Any] = {"hidden": 256, "layers": 4, "response": [16, 48], "batch": 64}
# Prompts, their lengths in tokens, and responses to each.
SETS = ((24, (128, 256), 2), (12, (128, 256), 4), (6, (128, 256), 8), (6, (512, 768), 4))
HEADINGS = ("texts", "times faster", "spread", "memory, relative", "largest difference of a score")


def measure(texts: tuple[int, tuple[int, int], int], rounds: int, spec: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the table.

    Raises:
        AssertionError: the scores differ.
    """
    prompts, (least, most), responses = texts
    spec = SPEC | spec | {"prompts": prompts, "prompt": [least, most], "responses": responses}
    scorers = {name: sides.Side("scoring_side.py", spec={"scorer": name}) for name in ("ours", "pipeline")}
    results = sides.interleave(scorers, spec, rounds)
    ours, theirs = (results[name]["rounds"][0]["scores"] for name in scorers)
    off = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    assert off <= ALIKE, f"the scores differ by {off:.1e}"
    work = f"{responses} responses to {prompts} prompts of {least} to {most} tokens"
    row = sides.row(results, work, "pipeline", TARGET) | {"difference": off}
    sides.show(row)
    return row


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows in Markdown."""
    lines = [
        [
            row["work"],
            row["ratio"],
            " to ".join(map(str, row["spread"])),
            row["memory_ratio"],
            f"{row['difference']:.0e}",
        ]
        for row in rows
    ]
    return list(markdown.table(HEADINGS, lines, str))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a test of the script")
    given = parser.parse_args()
    spec = {"hidden": 16, "layers": 1, "response": [2, 4]} if given.tiny else {}
    texts = ((2, (8, 12), 3),) if given.tiny else SETS
    rows = [measure(one, given.rounds, spec) for one in texts]
    sides.record(RESULT, {"rows": rows})
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
