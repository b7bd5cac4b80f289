"""Answers of stage=chat compared with transformers' generate and TextIteratorStreamer: first token and memory.

    RLHF_TEST_MODELS=... python -m benchmarks.chat

Each answer is given in a new process on one thread, and the sides take turns. Measured are CPU seconds from the message
to the first token, and the peak of resident memory during the answer above that with loaded weights. Both take the most
likely tokens, which must be the same. Models: those found in RLHF_TEST_MODELS, or folders of --models.
Writes benchmarks/chat.json.
"""

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks import sides
from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
MODELS = ("stories15M", "SmolLM2-135M-Instruct")
PROMPTS = {"stories15M": (32, 192)}
USUAL = (64, 512, 1536)  # tokens of the prompts
FIRST, MEMORY = 1.2, 0.5  # aims: relative to transformers
HEADINGS = (
    "model", "tokens of the prompt", "first token, relative", "spread", "memory, relative", "MiB, ours / theirs"
)  # fmt: skip


def measure(model: Path, prompt: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Return a row of the table.

    Raises:
        AssertionError: the answers differ.
    """
    spec = {"model": str(model), "prompt": prompt, "tokens": tokens}
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "transformers": []}
    for number in range(rounds):
        for name in list(found)[:: 1 if number % 2 == 0 else -1]:
            side = {name: sides.Side("chat_side.py", spec={"side": name})}
            found[name] += sides.interleave(side, spec, rounds=1, warmup=0)[name]["rounds"]
    texts = {one["text"] for each in found.values() for one in each}
    assert len(texts) == 1, f"the answers differ: {texts}"
    pairs = list(zip(found["ours"], found["transformers"], strict=True))
    first = [own["first"] / other["first"] for own, other in pairs]
    medians = {
        side: {key: statistics.median(one[key] for one in each) for key in ("first", "overhead")}
        for side, each in found.items()
    }
    return {
        "model": model.name,
        "prompt": prompt,
        "tokens": tokens,
        "rounds": rounds,
        "first_token": round(statistics.median(first), 2),
        "spread": [round(min(first), 2), round(max(first), 2)],
        "memory": round(medians["ours"]["overhead"] / medians["transformers"]["overhead"], 2),
        "aims": {"first_token": FIRST, "memory": MEMORY},
        "sides": {
            side: {"first_seconds": round(one["first"], 4), "mib": round(one["overhead"] / 2**20, 1)}
            for side, one in medians.items()
        },
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows in Markdown."""
    lines = [
        [
            row["model"],
            row["prompt"],
            row["first_token"],
            " to ".join(map(str, row["spread"])),
            row["memory"],
            " / ".join(str(side["mib"]) for side in row["sides"].values()),
        ]
        for row in rows
    ]
    return list(markdown.table(HEADINGS, lines, str))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="*", help="folders")
    parser.add_argument("--prompts", nargs="*", type=int, help="tokens of the prompts")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of an answer")
    given = parser.parse_args()
    place = Path(os.environ.get("RLHF_TEST_MODELS", "models"))
    models = [Path(name) for name in given.models or (place / name for name in MODELS)]
    rows = []
    for model in (model for model in models if model.is_dir()):
        for prompt in given.prompts or PROMPTS.get(model.name, USUAL):
            rows.append(measure(model, prompt, given.tokens, given.rounds))
            print(rows[-1], flush=True)
    sides.record(RESULT, {"rows": rows})
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
