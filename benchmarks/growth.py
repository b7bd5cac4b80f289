"""Time and memory of a DPO step compared with TRL's as prompts, responses per prompt and batches grow, in one figure.

    python -m benchmarks.growth

One thread, a small model with random weights, the same rows on both sides. k responses per prompt make
k (k - 1) / 2 pairs, as TRL reads rankings. Each point is the minimum over the rounds. Memory is the peak during a step
minus the resident memory before it; freed memory is returned to the system before each step. Writes
benchmarks/growth.json and docs/figures/growth.png.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks import sides

RESULT = Path(__file__).with_suffix(".json")
FIGURE = RESULT.parents[1] / "docs" / "figures" / "growth.png"
MODEL = {
    "hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocabulary": 2048,
}  # fmt: skip
POINT = {"prompt": 256, "response": 64, "responses": 2, "prompts": 2}
SERIES = {
    "prompt": ("prompt length (tokens)", (64, 128, 256, 512, 1024, 2048)),
    "responses": ("responses per prompt, all pairs", (2, 3, 4, 6, 8)),
    "prompts": ("prompts per batch", (1, 2, 4, 8, 16)),
}
COLORS = {"ours": "#0072b2", "trl 1.16": "#d55e00"}  # safe for color-blind readers; Okabe and Ito 2008


def measured(rounds: int) -> list[dict[str, Any]]:
    points = [{"grows": name, **POINT, name: value} for name, (_, values) in SERIES.items() for value in values]
    both = {
        "ours": sides.Side("growth_side.py", spec={"shared": True}),
        "trl 1.16": sides.Side("growth_side.py", spec={"shared": False}),
    }
    results = sides.interleave(both, MODEL | {"points": points}, rounds * len(points), 0)
    found = []
    for number, point in enumerate(points):
        line: dict[str, Any] = dict(point)
        for side in both:
            turns = results[side]["rounds"][number :: len(points)]
            line[side] = {
                "cpu": round(min(turn["spent"] for turn in turns), 4),
                "mib": round(min(turn["above"] for turn in turns) / 2**20, 1),
            }
        found.append(line)
        print(f"{point}: " + ", ".join(f"{side} {line[side]['cpu']} s, {line[side]['mib']} MiB" for side in both))
    return found


def draw(points: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(10, 5.4), sharex="col", constrained_layout=True)
    for column, (name, (label, values)) in enumerate(SERIES.items()):
        shown = [point for point in points if point["grows"] == name]
        for row, (quantity, unit) in enumerate({"cpu": "CPU seconds per step", "mib": "peak memory (MiB)"}.items()):
            panel = axes[row][column]
            for side, color in COLORS.items():
                heights = [point[side][quantity] for point in shown]
                panel.plot(values, heights, "o-", color=color, label=side, markersize=4)
            panel.set(ylim=(0, None), xticks=values if name != "prompt" else (64, 512, 1024, 2048))
            panel.spines[["top", "right"]].set_visible(False)
            if row:
                panel.set_xlabel(label)
            if not column:
                panel.set_ylabel(unit)
    axes[0][0].legend(frameon=False)
    fixed = "fixed otherwise: 256 prompt tokens, 2 responses of 64 tokens, 2 prompts"
    figure.suptitle(f"One DPO step, hidden size 128, 2 layers; {fixed}", fontsize=10)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    points = measured(given.rounds)
    draw(points, FIGURE)
    sides.record(RESULT, {"rows": points})


if __name__ == "__main__":
    main()
