"""KTO steps compared with TRL's: both use TRL's trainer, equal weights and the same rows in the same order.

    RLHF_TEST_MODELS=... python -m benchmarks.kto

One thread, float32. Both sides compute the reference at every step; stage.cache_reference would spare ours that. Ours
encodes each prompt once for its responses in a batch, scores only responses, and keeps freed memory for reuse. Losses
are compared step by step. stories15M is read from RLHF_TEST_MODELS, and skipped if it is missing. Writes
benchmarks/kto.json.
"""

import os
from pathlib import Path
from typing import Any

from benchmarks import sides
from benchmarks.dpo import LONG, PAIRS, SHORT, SMALL, STORIES, compared, parser

RESULT = Path(__file__).with_suffix(".json")
# (title, target, rounds, specification of both sides, differences of the peer)
WORK: list[tuple[str, float | None, int, dict[str, Any], dict[str, Any]]] = [
    ("hidden 256 x 4, 256 / 64, from pairs", 2.0, 3, SMALL | LONG | PAIRS | {"prompts": 8}, {}),
    ("the same, TRL's defaults", 2.0, 3, SMALL | LONG | PAIRS | {"prompts": 8}, {"checkpointing": True}),
    ("hidden 256 x 4, 4 responses per prompt", 2.0, 3, SMALL | LONG | {"responses": 4, "prompts": 4}, {}),
    ("hidden 256 x 4, one thumb per prompt", 2.0, 3, SMALL | LONG | {"responses": 1, "prompts": 16}, {}),
    (f"{STORIES}, 60 / 120, from pairs", 2.0, 2, {"weights": STORIES, "prompts": 4} | SHORT | PAIRS, {}),
]


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = compared("kto", WORK, parser(__doc__, WORK).parse_args())
    sides.record(RESULT, {"rows": rows})


if __name__ == "__main__":
    main()
