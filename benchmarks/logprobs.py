"""Log-probabilities and entropies of tokens by both kernels: from hidden states, and from logits.

    python -m benchmarks.logprobs

``rlhf/preference/head.py`` projects hidden states itself, tile by tile, and runs in DPO on a CPU in float32.
``rlhf/modeling/logprobs.py`` reads the logits of any model on any device, and divides them by a temperature; entropies
have a gradient, too. One thread, float32, forward and backward, and the forward pass without a gradient.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import sides
from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
SHAPES = ((2048, 256, 2048), (2048, 576, 49152), (512, 2048, 32000))  # rows, hidden size, vocabulary
HEADINGS = ("rows x hidden x vocabulary", "pass", "logits / hidden, time", "spread", "MiB, hidden", "MiB, logits")


def measure(shape: tuple[int, int, int], backward: bool, rounds: int) -> dict[str, Any]:
    """Return a row for one shape; "ours" is the kernel that reads hidden states."""
    spec = dict(zip(("rows", "hidden", "vocabulary"), shape, strict=True)) | {"backward": backward}
    kernels = {name: sides.Side("logprobs_side.py", spec={"kernel": name}) for name in ("hidden", "logits")}
    results = sides.interleave(kernels, spec, rounds)
    one, other = (results[name]["rounds"][0]["sum"] for name in kernels)
    assert abs(one - other) <= 1e-5 * abs(other), f"the kernels differ: {one} and {other}"
    work = f"{' x '.join(map(str, shape))}, {'forward and backward' if backward else 'forward'}"
    row = sides.row(results, work, "logits", None, ours="hidden")
    sides.show(row)
    return row


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows in Markdown."""
    lines = []
    for row in rows:
        least, most = row["spread"]
        sizes = [f"{row['sides'][name]['peak_mib']:,.0f}" for name in ("hidden", "logits")]
        lines.append([*row["work"].split(", "), row["ratio"], f"{least} to {most}", *sizes])
    return list(markdown.table(HEADINGS, lines, str))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", help="as in 512x2048x32000; the default is all")
    given = parser.parse_args()
    shapes = SHAPES if given.shapes is None else [tuple(map(int, shape.split("x"))) for shape in given.shapes]
    rows = [measure(shape, backward, given.rounds) for shape in shapes for backward in (True, False)]
    sides.record(RESULT, {"rows": rows})
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
