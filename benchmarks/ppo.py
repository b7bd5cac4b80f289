"""An iteration of PPO, ours against trl.experimental.ppo.PPOTrainer of trl 1.12.0, the last that has one.

    python -m benchmarks.ppo                        # some five minutes; makes an environment for trl at the first call
    python -m benchmarks.ppo --rounds 5
    RLHF_TEST_MODELS=... python -m benchmarks.ppo --shapes 256x4 stories15M 135M    # stories15M's weights too

Both sides do the same: the same weights in float32, the same prompts in each iteration, responses sampled from the
policy up to its end of sequence, a reward model, a critic, a reference, as many epochs and minibatches, whole
models in the optimizer. ``one base`` is ours with LoRA and one frozen base in four roles, and ``critic on the policy``
ours with stage.critic_kind=value_head, against the same peer; ``bfloat16 products`` with hardware.autocast=on, whose
numbers are not those of float32, as the peer's are. A sample is one of the mean length of all sides' prompts and
responses, and the end of sequence is about as likely at each step of each side.
TRL's peak memory is that of reading all rows at once, as it does by default for a batch of 64; with fewer rows in a
forward pass (micro_rows, read_rows of ppo_trl.py) it takes less, and some hundredths more time.
Utilisation counts useful tokens, without padding: 6 N a token and model and epoch, 2 N for every other pass.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import sides

RESULT = Path(__file__).with_suffix(".json")
PEER = "trl 1.12.0"
REQUIREMENTS = (
    "trl==1.12.0", "torch==2.13.0", "transformers==5.23.0", "accelerate==1.15.0", "datasets==5.2.0", "peft==0.21.2",
    "numpy==2.4.6",
)  # fmt: skip
COMMON = {"prompt": [16, 96], "length": 48, "epochs": 4, "minibatches": 1, "temperature": 0.7, "learning_rate": 1e-5}
SHAPES = {
    "256x4": {"rows": 64, "mean_length": 16, "micro_rows": 16},
    "stories15M": {"rows": 16, "mean_length": 16, "micro_rows": 8},
    "135M": {"rows": 4, "mean_length": 16, "micro_rows": 4, "epochs": 2, "length": 24, "prompt": [16, 48]},
}
# Ways that are measured one after the other: together they would not fit.
APART = {"135M": ("four models", "one base", "one base, critic on the policy")}
WAYS = {
    "four models": {},
    "critic on the policy": {"head": True},
    "one base": {"share_base_model": True},
    "one base, critic on the policy": {"share_base_model": True, "head": True},
    "four models, bfloat16 products": {"autocast": True},
    "critic on the policy, bfloat16 products": {"head": True, "autocast": True},
}
OURS = {"stage": {"micro_batch_tokens": 1024}}  # on a CPU as fast as 2048, with less padding and half the activations
AIMS = {way: 6.0 if way.startswith("one base") else 3.0 for way in WAYS}
MEMORY = 0.4  # of the peer's, on one base


def passes(spec: dict[str, Any], parameters: int, response: float, tokens: float) -> float:
    """FLOP of useful work a response: what a reader of the algorithm would count, whoever does it."""
    models = 1 if spec.get("head") else 2
    learning = models * 6 * parameters * tokens * spec["epochs"]
    reading = (2 + models) * 2 * parameters * tokens  # sampling, reference, reward model, and a critic of its own
    return learning + reading


def of_one_length(results: sides.Results) -> None:
    """Count samples of the mean length of all sides: each samples its own responses, and longer ones are more work."""
    rounds = [one for side in results.values() for one in side["rounds"]]
    length = sum(one["tokens"] for one in rounds) / sum(one["samples"] for one in rounds)
    for one in rounds:
        one["samples"] = one["tokens"] / length


def parameters(shape: str) -> int:
    """Of the layers and of the output, which is computed for responses alone; an upper bound for the critic."""
    sys.path.append(str(sides.HERE))
    import ppo_models
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(ppo_models.folder()) if shape == "stories15M" else None
    sizes = config.to_dict() if config is not None else ppo_models.SHAPES[shape]
    hidden, layers = sizes["hidden_size"], sizes["num_hidden_layers"]
    keys = hidden * sizes["num_key_value_heads"] // sizes["num_attention_heads"]
    return layers * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * sizes["intermediate_size"])


def measure(
    shape: str, ways: Sequence[str], python: str, rounds: int, warmup: int, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Our ``ways`` and the peer in turn, so that the peer's seconds are the same for all."""
    spec = COMMON | {"shape": shape} | SHAPES[shape] | options
    running = {way: sides.Side("ppo_ours.py", spec=OURS | WAYS[way]) for way in ways}
    results = sides.interleave(running | {PEER: sides.Side("ppo_trl.py", python)}, spec, rounds, warmup)
    of_one_length(results)
    peak, size = sides.gemm_peak(), parameters(shape)

    def useful(name: str, seconds: float) -> float:
        done = results[name]["rounds"]
        tokens = sum(one["tokens"] for one in done) / sum(one["samples"] for one in done)
        return passes(spec | WAYS.get(name, {}), size, 0.0, tokens) / seconds / peak

    found = []
    for way in ways:
        row = sides.row(results, f"PPO iteration, {shape}, {way}", PEER, AIMS[way], useful, ours=way)
        row["responses"] = {
            name: round(sum(one["response"] for one in results[name]["rounds"]) / rounds, 1) for name in (way, PEER)
        }
        sides.show(row)
        lengths = ", ".join(f"{name} {length}" for name, length in row["responses"].items())
        print(f"  tokens a response: {lengths}; memory {row['memory_ratio']} of the peer's")
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["256x4"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--rows", type=int, help="responses of an iteration, in the place of each shape's own")
    parser.add_argument("--peer", help="an interpreter that has trl 1.12.0, in the place of an environment of its own")
    arguments = parser.parse_args()
    python = arguments.peer or sides.environment("trl-1.12.0", REQUIREMENTS)
    options = {} if arguments.rows is None else {"rows": arguments.rows, "micro_rows": min(arguments.rows, 16)}
    rows = []
    for shape in arguments.shapes:
        if shape == "stories15M" and not available():
            print("stories15M is left out: RLHF_TEST_MODELS names no folder with it")
            continue
        for ways in [[way] for way in APART[shape]] if shape in APART else [list(WAYS)]:
            rows += measure(shape, ways, python, arguments.rounds, arguments.warmup, options)
    sides.record(
        RESULT, {"rows": rows, "memory_aim": MEMORY, "sizes": {name: COMMON | SHAPES[name] for name in SHAPES}}
    )


def available() -> bool:
    sys.path.append(str(sides.HERE))
    import ppo_models

    return ppo_models.folder().is_dir()


if __name__ == "__main__":
    main()
