"""Log-probabilities and entropies of tokens, from hidden states tile by tile, from all logits, and by TRL's fused head.

    python -m benchmarks.logprobs

``hidden`` is rlhf/preference/head.py, which projects as many states as it keeps logits of; ``logits`` is
rlhf/modeling/logprobs.py on the logits of all states, as PPO calls it. One thread, float32, forward and backward, and
the forward pass without a gradient. ``replaced`` in the file has the times of a separate kernel on hidden states, which
was not faster than the kernel on logits and was deleted.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import sides
from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
SHAPES = ((2048, 256, 2048), (2048, 576, 49152), (512, 2048, 32000))  # rows, hidden size, vocabulary
PEERS = ("logits", "trl")
HEADINGS = ("rows x hidden x vocabulary", "pass", "against", "times faster", "spread", "MiB, ours", "MiB, peer")


def measure(shape: tuple[int, int, int], backward: bool, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each peer of "hidden"."""
    spec = dict(zip(("rows", "hidden", "vocabulary"), shape, strict=True)) | {"backward": backward}
    kernels = {name: sides.Side("logprobs_side.py", spec={"kernel": name}) for name in ("hidden", *PEERS)}
    results = sides.interleave(kernels, spec, rounds)
    sums = [results[name]["rounds"][0]["sum"] for name in kernels]
    assert max(sums) - min(sums) <= 1e-5 * abs(sums[0]), f"the kernels differ: {sums}"
    work = f"{' x '.join(map(str, shape))}, {'forward and backward' if backward else 'forward'}"
    rows = [sides.row(results, work, peer, None, ours="hidden") for peer in PEERS]
    for row in rows:
        sides.show(row)
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows in Markdown."""
    lines = []
    for row in rows:
        least, most = row["spread"]
        sizes = [f"{row['sides'][name]['peak_mib']:,.0f}" for name in ("hidden", row["against"])]
        lines.append([*row["work"].split(", "), row["against"], row["ratio"], f"{least} to {most}", *sizes])
    return list(markdown.table(HEADINGS, lines, str))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", help="as in 512x2048x32000; the default is all")
    given = parser.parse_args()
    shapes = SHAPES if given.shapes is None else [tuple(map(int, shape.split("x"))) for shape in given.shapes]
    rows = [row for shape in shapes for backward in (True, False) for row in measure(shape, backward, given.rounds)]
    before = json.loads(RESULT.read_text(encoding="utf-8"))["replaced"] if RESULT.exists() else []
    sides.record(RESULT, {"rows": rows, "replaced": before})
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
