"""A round of online DPO compared with TRL's experimental OnlineDPOTrainer on the same work.

    python -m benchmarks.online_dpo                        # about five minutes
    python -m benchmarks.online_dpo --shapes stories15M    # with RLHF_TEST_MODELS

Both sides do the same work: equal float32 weights, prompts, reward (a function of the text), two responses of up to 48
tokens to each of 64 prompts, and DPO on the pairs in 4 optimizer steps of 16 pairs, with a second model as the
reference. TRL samples before each step, ours before the round. A sample is a response; it is counted at the mean length
of both sides' prompts and responses.
"""

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import ppo, sides

RESULT = Path(__file__).with_suffix(".json")
COMMON = {"rows": 64, "batch": 16, "length": 48, "temperature": 0.7, "learning_rate": 1e-5, "mean_length": 24}
PROMPTS = {"prompts of 32 to 64 tokens": [32, 64], "prompts of 128 to 256 tokens": [128, 256]}
AIM = 3.0
SHAPES = ("256x4", "stories15M", "135M")


def measure(shape: str, prompts: str, rounds: int, warmup: int, **sizes: int) -> dict[str, Any]:
    """Measure both sides in turns."""
    spec = COMMON | {"shape": shape, "prompt": PROMPTS[prompts]} | sizes
    peer = f"trl {version('trl')}"
    both = {"ours": sides.Side("online_dpo_ours.py"), peer: sides.Side("online_dpo_trl.py")}
    results = sides.interleave(both, spec, rounds, warmup)
    ppo.of_one_length(results)
    row = sides.row(results, f"online DPO, {shape}, {prompts}", peer, AIM)
    sides.show(row)
    print(f"  memory {row['memory_ratio']} of TRL's", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["256x4"])
    parser.add_argument("--prompts", nargs="+", type=int, choices=(0, 1), default=[0, 1], help="short (0), long (1)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    arguments = parser.parse_args()
    rows = []
    for shape in arguments.shapes:
        if shape == "stories15M" and not ppo.available():
            print("stories15M is left out: RLHF_TEST_MODELS names no folder with it")
            continue
        chosen = [list(PROMPTS)[number] for number in arguments.prompts]
        rows += [measure(shape, prompts, arguments.rounds, arguments.warmup) for prompts in chosen]
    sides.record(RESULT, {"rows": rows, "sizes": COMMON})


if __name__ == "__main__":
    main()
