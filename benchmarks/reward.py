"""Reward model steps compared with TRL's: both use TRL's trainer, equal weights and the same rows in the same order.

    RLHF_TEST_MODELS=... python -m benchmarks.reward

One thread, float32. Ours encodes each prompt once for all its responses, computes the end of the last layer only for
the last tokens, and keeps freed memory for reuse. Losses are compared step by step. stories15M is read from
RLHF_TEST_MODELS, and skipped if it is missing. Writes benchmarks/reward.json.
"""

import os
from pathlib import Path
from typing import Any

from benchmarks import sides
from benchmarks.dpo import HALF, LONG, PAIRS, SMALL, SMOLLM2, STORIES, compared, parser

RESULT = Path(__file__).with_suffix(".json")
WORK: list[tuple[str, float | None, int, dict[str, Any], dict[str, Any]]] = [
    ("hidden 256 x 4, 256 / 64", 1.8, 5, SMALL | LONG | PAIRS | {"prompts": 8}, {}),
    ("the same, TRL's defaults", None, 3, SMALL | LONG | PAIRS | {"prompts": 8}, {"checkpointing": True}),
    ("hidden 256 x 4, 4 responses in 6 pairs", 6.0, 3, SMALL | LONG | {"responses": 4, "prompts": 2}, {}),
    (f"{STORIES}, 200 / 60", None, 3, {"weights": STORIES, "prompt": 200, "response": 60, "prompts": 4} | PAIRS, {}),
    ("SmolLM2-135M's shape, 128 / 32", None, 2, SMOLLM2 | HALF | PAIRS | {"prompts": 1}, {}),
]


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = compared("reward", WORK, parser(__doc__, WORK).parse_args())
    sides.record(RESULT, {"rows": rows})


if __name__ == "__main__":
    main()
