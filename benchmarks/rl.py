"""An iteration with K responses per prompt, without a critic, compared with TRL's GRPOTrainer and RLOOTrainer.

    python -m benchmarks.rl                        # about ten minutes
    python -m benchmarks.rl --shapes stories15M 135M --prompts 0    # writes rl_shapes.json; RLHF_TEST_MODELS

Both sides do the same work: equal float32 weights, prompts, reward (a function of the text), 16 prompts with 8
responses each of up to 48 tokens (2 prompts at the 135M shape), one epoch and one optimizer step, a reference, full
models. A sample is a response; it is counted at the mean length of all sides' prompts and responses. ``without
sharing`` sets stage.shared_prefix=off. The context of stories15M, 256 tokens, has no room for the long prompts.
"""

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import ppo, sides

RESULT = Path(__file__).with_suffix(".json")
COMMON = {"rows": 16, "samples": 8, "length": 48, "temperature": 0.7, "learning_rate": 1e-5, "mean_length": 24}
PROMPTS = {"prompts of 32 to 64 tokens": [32, 64], "prompts of 128 to 256 tokens": [128, 256]}
AIMS = {"prompts of 32 to 64 tokens": 3.5, "prompts of 128 to 256 tokens": 8.0}
SHAPES: dict[str, dict[str, Any]] = {"256x4": {}, "stories15M": {}, "135M": {"rows": 2}}
OURS = {"ours": {"shared_prefix": True}, "ours, without sharing": {"shared_prefix": False}}


def measure(shape: str, kind: str, prompts: str, rounds: int, warmup: int) -> list[dict[str, Any]]:
    """Measure our two ways and the peer in turns."""
    spec = COMMON | SHAPES[shape] | {"shape": shape, "prompt": PROMPTS[prompts], "advantage": kind}
    peer = f"trl {version('trl')}"
    running = {way: sides.Side("rl_ours.py", spec=options) for way, options in OURS.items()}
    results = sides.interleave(running | {peer: sides.Side("rl_trl.py")}, spec, rounds, warmup)
    ppo.of_one_length(results)
    found = []
    for way in OURS:
        name = f"{kind} iteration, {shape}, {prompts}" + way.removeprefix("ours")
        row = sides.row(results, name, peer, AIMS[prompts], ours=way)
        sides.show(row)
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["256x4"])
    parser.add_argument("--kinds", nargs="+", choices=("grpo", "rloo"), default=["grpo", "rloo"])
    parser.add_argument("--prompts", nargs="+", type=int, default=[0, 1], help="0: short ones, 1: long ones")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    arguments = parser.parse_args()
    rows = []
    for shape in arguments.shapes:
        if shape == "stories15M" and not ppo.available():
            print("stories15M is left out: RLHF_TEST_MODELS names no folder with it")
            continue
        for kind in arguments.kinds:
            for number in arguments.prompts:
                rows += measure(shape, kind, list(PROMPTS)[number], arguments.rounds, arguments.warmup)
    path = RESULT if arguments.shapes == ["256x4"] else RESULT.with_name("rl_shapes.json")
    sides.record(path, {"rows": rows, "sizes": {name: COMMON | SHAPES[name] for name in arguments.shapes}}, RESULT.stem)


if __name__ == "__main__":
    main()
