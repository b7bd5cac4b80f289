"""DPO steps compared with TRL's: both use TRL's trainer, equal weights and the same rows in the same order.

    RLHF_TEST_MODELS=... python -m benchmarks.dpo

One thread, float32. Both sides compute the reference at every step; stage.cache_reference would spare ours that. Ours
encodes each prompt once, scores only responses, and keeps freed memory for reuse. Losses are compared step by step.
stories15M is read from RLHF_TEST_MODELS, and skipped if it is missing. Writes benchmarks/dpo.json.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks import sides

RESULT = Path(__file__).with_suffix(".json")
SMALL = {
    "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocabulary": 2048,
}  # fmt: skip
SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocabulary": 49152,
}  # fmt: skip
STORIES = "stories15M"
LONG, SHORT = {"prompt": 256, "response": 64}, {"prompt": 60, "response": 120}
HALF = {"prompt": 128, "response": 32}  # short rows: steps of the larger model are slow
PAIRS = {"responses": 2}
# (title, target, rounds, specification of both sides, differences of the peer)
WORK: list[tuple[str, float | None, int, dict[str, Any], dict[str, Any]]] = [
    ("hidden 256 x 4, 256 / 64", 2.5, 4, SMALL | LONG | PAIRS | {"prompts": 8}, {}),
    ("the same, TRL's defaults", 3.0, 3, SMALL | LONG | PAIRS | {"prompts": 8}, {"checkpointing": True}),
    ("hidden 256 x 4, 4 responses in 6 pairs", 6.0, 3, SMALL | LONG | {"responses": 4, "prompts": 2}, {}),
    (f"{STORIES}, 200 / 60", 3.5, 3, {"weights": STORIES, "prompt": 200, "response": 60, "prompts": 4} | PAIRS, {}),
    (f"{STORIES}, 60 / 120", 1.8, 3, {"weights": STORIES, "prompts": 4} | SHORT | PAIRS, {}),
    ("SmolLM2-135M's shape, 128 / 32", None, 2, SMOLLM2 | HALF | PAIRS | {"prompts": 1}, {}),
]


def parser(description: str, work: list[tuple]) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, help="number of rounds, instead of the default of each piece of work")
    made.add_argument("--work", type=int, nargs="*", default=range(len(work)), help="numbers of pieces of work, from 0")
    return made


def compared(kind: str, work: list[tuple], given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each piece of work whose model is available.

    DPO's reference adds a forward pass to forward and backward; KTO has two more, of mismatched responses.
    """
    peak, passes, found = sides.gemm_peak(), {"dpo": 8 / 6, "kto": 12 / 6}.get(kind, 1), []
    for name, target, rounds, spec, otherwise in (work[number] for number in given.work):
        if spec.get("weights"):
            place = Path(os.environ.get("RLHF_TEST_MODELS", "")) / spec["weights"]
            if not place.is_dir():
                print(f"{name}: {spec['weights']} is not in RLHF_TEST_MODELS, left out")
                continue
            spec = spec | {"weights": str(place)}
        both = {"ours": sides.Side(f"{kind}_ours.py"), "trl 1.16": sides.Side(f"{kind}_trl.py", spec=otherwise)}
        results = sides.interleave(both, spec, given.rounds or rounds)
        turns = list(zip(*(results[side]["rounds"] for side in both), strict=True))

        def useful(_: str, seconds: float, one: dict[str, Any] = turns[0][0]) -> float:
            return sides.utilization(one["parameters"], one["tokens"] / one["samples"], seconds, peak / passes)

        row = sides.row(results, f"{kind}: {name}", "trl 1.16", target, useful)
        row["loss_differs_by"] = max(abs(own["loss"] - theirs["loss"]) / abs(theirs["loss"]) for own, theirs in turns)
        row["padding_of_trl"] = round(1 - turns[0][1]["tokens"] / turns[0][1]["padded"], 3)
        sides.show(row)
        print(
            f"  losses differ by {row['loss_differs_by']:.1e} at most, memory {row['memory_ratio']} of TRL's",
            flush=True,
        )
        found.append(row)
    return found


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = compared("dpo", WORK, parser(__doc__, WORK).parse_args())
    sides.record(RESULT, {"rows": rows})


if __name__ == "__main__":
    main()
