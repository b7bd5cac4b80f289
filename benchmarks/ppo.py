"""A PPO iteration compared with trl.experimental.ppo.PPOTrainer of trl 1.12.0, the last version that has one.

    python -m benchmarks.ppo                        # five minutes; the first call makes an environment for trl 1.12.0
    python -m benchmarks.ppo --rounds 5
    python -m benchmarks.ppo --ways "one base"      # writes ppo_ways.json
    RLHF_TEST_MODELS=... python -m benchmarks.ppo --shapes 256x4 stories15M 135M    # also stories15M

Both sides do the same work: equal float32 weights, the same prompts in each iteration, responses sampled from the
policy until EOS, a reward model, a critic, a reference, equal numbers of epochs and minibatches, full models in the
optimizer. Our variants are compared with the same peer: ``one base`` uses LoRA and one frozen base model in four
roles; ``critic on the policy`` sets stage.critic_kind=value_head; ``upper third`` has
adapters only on the upper third of the layers; ``bfloat16 products`` sets hardware.autocast=on, so
its numerics differ from the peer's float32. A sample is counted at the mean length of all sides' prompts and responses;
EOS is about equally likely at each step of each side.
TRL's peak memory includes a forward pass over all rows at once, its default for a batch of 64. With fewer rows in a
forward pass (micro_rows, read_rows of ppo_trl.py) the peak is lower and the time a few percent longer.
Utilization counts useful tokens, without padding: 6 N per token, model and epoch of training, 2 N per other pass.
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
# Ways that are measured one after the other: together they do not fit into memory.
APART = {
    "135M": ("four models", "one base", "one base, critic on the policy", "one base, critic on the policy, upper third")
}
WAYS = {
    "four models": {},
    "critic on the policy": {"head": True},
    "one base": {"share_base_model": True},
    "one base, critic on the policy": {"share_base_model": True, "head": True},
    "one base, critic on the policy, upper third": {"share_base_model": True, "head": True, "upper": 1 / 3},
    "four models, bfloat16 products": {"autocast": True},
    "critic on the policy, bfloat16 products": {"head": True, "autocast": True},
}
OURS = {"stage": {"micro_batch_tokens": 1024}}  # on a CPU as fast as 2048; less padding, half the activations
AIMS = {way: 6.0 if way.startswith("one base") else 3.0 for way in WAYS}
MEMORY = 0.4  # share of the peer's peak that one base may need


def passes(spec: dict[str, Any], parameters: int, response: float, tokens: float) -> float:
    """Return the useful FLOP per response as the algorithm requires them, the same for each implementation."""
    models = 1 if spec.get("head") else 2
    learning = models * 6 * parameters * tokens * spec["epochs"]
    reading = (2 + models) * 2 * parameters * tokens  # sampling, reference, reward model, separate critic
    return learning + reading


def of_one_length(results: sides.Results) -> None:
    """Count samples at the mean length of all sides: each side draws its own responses, and longer ones cost more."""
    rounds = [one for side in results.values() for one in side["rounds"]]
    length = sum(one["tokens"] for one in rounds) / sum(one["samples"] for one in rounds)
    for one in rounds:
        one["samples"] = one["tokens"] / length


def parameters(shape: str) -> int:
    """Return the number of parameters of the layers.

    Embeddings are looked up and do not count; the output layer, computed only for responses, is left out.
    """
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
    """Measure our ``ways`` and the peer in turns, so that all ways are compared with the same peer seconds."""
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
        print(f"  tokens per response: {lengths}; memory {row['memory_ratio']} of the peer's")
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["256x4"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="only these, recorded in ppo_ways.json")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--rows", type=int, help="responses per iteration, instead of each shape's number")
    parser.add_argument("--peer", help="an interpreter with trl 1.12.0, instead of a new environment")
    arguments = parser.parse_args()
    python = arguments.peer or sides.environment("trl-1.12.0", REQUIREMENTS)
    options = {} if arguments.rows is None else {"rows": arguments.rows, "micro_rows": min(arguments.rows, 16)}
    rows = []
    for shape in arguments.shapes:
        if shape == "stories15M" and not available():
            print("stories15M is left out: RLHF_TEST_MODELS names no folder with it")
            continue
        chosen = arguments.ways or APART.get(shape, WAYS)
        for ways in [[way] for way in chosen] if shape in APART else [list(chosen)]:
            rows += measure(shape, ways, python, arguments.rounds, arguments.warmup, options)
    found = {"rows": rows, "memory_aim": MEMORY, "sizes": {name: COMMON | SHAPES[name] for name in SHAPES}}
    sides.record(RESULT.with_name("ppo_ways.json") if arguments.ways else RESULT, found, RESULT.stem)


def available() -> bool:
    sys.path.append(str(sides.HERE))
    import ppo_models

    return ppo_models.folder().is_dir()


if __name__ == "__main__":
    main()
