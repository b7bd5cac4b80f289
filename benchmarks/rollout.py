"""A rollout with log-probabilities and values, compared with transformers' generate, its scores and a pass for values.

    python -m benchmarks.rollout                    # all shapes
    python -m benchmarks.rollout --shapes 256x4 --rounds 5

Both sides have the same float32 weights, prompts, temperature and EOS. The peer is the loop that a trainer writes
around ``model.generate(output_scores=True)``. Utilization counts 2 N per useful token and model.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import sides
from benchmarks.ppo import COMMON, available, parameters

RESULT = Path(__file__).with_suffix(".json")
PEER = "transformers"
AIM = 3.0
SHAPES = {
    "256x4": {"rows": 64, "mean_length": 16},
    "stories15M": {"rows": 32, "mean_length": 16},
    "135M": {"rows": 16, "mean_length": 16},
}


def measure(shape: str, rounds: int, warmup: int, options: dict[str, Any]) -> dict[str, Any]:
    spec = COMMON | {"shape": shape} | SHAPES[shape] | options
    running = {"ours": sides.Side("rollout_ours.py"), PEER: sides.Side("rollout_transformers.py")}
    results = sides.interleave(running, spec, rounds, warmup)
    peak, size = sides.gemm_peak(), parameters(shape)

    def useful(name: str, seconds: float) -> float:
        done = results[name]["rounds"]
        tokens = sum(one["tokens"] for one in done) / sum(one["samples"] for one in done)
        return sides.utilization(2 * size, tokens, seconds, peak, trained=False)

    row = sides.row(results, f"rollout, {shape}", PEER, AIM, useful)
    row["responses"] = {
        name: round(sum(one["response"] for one in results[name]["rounds"]) / rounds, 1) for name in running
    }
    sides.show(row)
    print(f"  tokens per response: {', '.join(f'{name} {length}' for name, length in row['responses'].items())}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--rows", type=int, help="responses, instead of each shape's number")
    arguments = parser.parse_args()
    options = {} if arguments.rows is None else {"rows": arguments.rows}
    rows = []
    for shape in arguments.shapes:
        if shape == "stories15M" and not available():
            print("stories15M is left out: RLHF_TEST_MODELS names no folder with it")
            continue
        rows.append(measure(shape, arguments.rounds, arguments.warmup, options))
    sides.record(RESULT, {"rows": rows, "sizes": {name: COMMON | SHAPES[name] for name in SHAPES}})


if __name__ == "__main__":
    main()
