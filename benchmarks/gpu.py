"""Speed, memory and utilization of our side of benchmarks.dpo, reward, ppo, rl and rollout on a GPU, without a network.

    python -m benchmarks.gpu                            # every piece of work at every shape, at most 80 minutes
    python -m benchmarks.gpu --shapes 135M --work dpo ppo
    python -m benchmarks.gpu --device cpu --small       # seconds: whether the command works

Weights are random, of SmolLM2-135M's shape and of Llama-3.2-1B's. They are float32 and multiplied in bfloat16, the
default of a stage on a GPU; sampling multiplies in float32. Each piece runs in a separate process, for at most eight
minutes. Utilization is the share of the FLOP/s of a large bfloat16 product, measured here, that useful tokens account
for: 6 N per trained token, 2 N per token that is only read or sampled. Tokens exclude padding; a shared prompt counts
for each of its responses. Writes benchmarks/gpu.json.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import ppo, ppo_models, sides

RESULT = Path(__file__).with_suffix(".json")
LIMIT = 8 * 60  # seconds
SAMPLED = {"prompt": [32, 128], "length": 128, "mean_length": 64, "temperature": 0.7, "learning_rate": 1e-5}
STAGE = {"stage": {"micro_batch_tokens": 16384}}
PAIRS = {"prompt": 256, "response": 128, "responses": 2}
# Piece of work -> the file of our side, and its specification without shape and batch.
WORK: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo": ("dpo_ours.py", PAIRS),
    "reward": ("reward_ours.py", PAIRS),
    "ppo": ("ppo_ours.py", SAMPLED | STAGE | {"epochs": 4, "minibatches": 1}),
    "rl": ("rl_ours.py", SAMPLED | STAGE | {"advantage": "rloo", "samples": 8, "shared_prefix": True}),
    "rollout": ("rollout_ours.py", SAMPLED),
}
# Shape -> prompts per step of each piece of work.
BATCHES = {
    "135M": {"dpo": 16, "reward": 16, "ppo": 256, "rl": 32, "rollout": 256},
    "1B": {"dpo": 8, "reward": 8, "ppo": 64, "rl": 16, "rollout": 128},
    "tiny": {"dpo": 2, "reward": 2, "ppo": 4, "rl": 2, "rollout": 4},
}
SMALL = {"prompt": 12, "response": 6}, {"prompt": [4, 8], "length": 6, "mean_length": 4}


def specification(work: str, shape: str, device: str) -> dict[str, Any]:
    """Return the specification of our side; rows of pairs have a fixed length, sampled ones are ragged."""
    paired = work in ("dpo", "reward")
    found = {"device": device, "autocast": device != "cpu", "shape": shape} | WORK[work][1]
    found |= {"prompts" if paired else "rows": BATCHES[shape][work]}
    if paired:
        sizes = dict(ppo_models.SHAPES[shape])
        found |= sizes | {"vocabulary": sizes.pop("vocab_size")}
    return found | (SMALL[not paired] if shape == "tiny" else {})


def useful(work: str, spec: dict[str, Any], tokens: float, parameters: int) -> float:
    """Return the FLOP of a step on ``tokens``; sampling, the reference and a reward model read them once more each."""
    if work == "ppo":
        return ppo.passes(spec, parameters, 0.0, tokens)
    each = {"dpo": 6 + 2, "reward": 6, "rl": 6 + 2 + 2, "rollout": 2 + 2}[work]
    return each * parameters * tokens


def measure(work: str, shape: str, device: str, rounds: int, peak: float) -> dict[str, Any]:
    """Return the medians over the rounds, or the reason why the piece did not end."""
    spec, name = specification(work, shape, device), f"{work}, {shape}"
    try:
        side = {name: sides.Side(WORK[work][0])}
        done = sides.interleave(side, spec, rounds, 1, os.cpu_count() or 1, LIMIT)[name]["rounds"]
    except sides.SideError as error:
        print(f"{name}: {error}", flush=True)
        return {"work": work, "shape": shape, "error": str(error)}
    seconds = statistics.median(one["seconds"] for one in done)
    tokens, samples = (statistics.mean(one[count] for one in done) for count in ("tokens", "samples"))
    flop = useful(work, spec, tokens, done[0].get("parameters") or ppo.parameters(shape))
    found = {
        "work": work,
        "shape": shape,
        "rounds": rounds,
        "seconds": round(seconds, 4),
        "samples_per_second": round(samples / seconds, 2),
        "tokens_per_second": round(tokens / seconds, 1),
        "peak_mib": round(max(one["peak"] for one in done) / 2**20, 1),
        "utilization": float(f"{flop / seconds / peak:.3g}"),
    }
    rate = f"{found['samples_per_second']} samples/s, {found['tokens_per_second']} tokens/s"
    print(f"{name}: {rate}, {found['peak_mib']} MiB, {found['utilization']:.1%} of the matrix peak", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=("135M", "1B"), default=["135M", "1B"])
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="one round at a tiny shape")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    on_gpu = given.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        sys.exit("--device=cuda but torch sees no GPU: use a machine with one, or --device cpu --small")
    shapes, rounds = (["tiny"], 1) if given.small else (given.shapes, given.rounds)
    size, dtype = (8192, "bfloat16") if on_gpu else (512, "float32")
    peak = sides.gemm_peak(size, dtype=dtype, device=given.device)
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    torch.cuda.empty_cache()
    rows = [measure(work, shape, given.device, rounds, peak) for shape in shapes for work in given.work]
    sides.record(given.output, {"device": name, "matrix_peak": peak, "rows": rows}, RESULT.stem)


if __name__ == "__main__":
    main()
