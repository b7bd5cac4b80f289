"""Speed, memory and utilization of our code and TRL's on a GPU, without a network: dpo, reward, ppo, rl, rollout.

    python -m benchmarks.gpu                            # every piece of work at every shape, at most eight minutes each
    python -m benchmarks.gpu --shapes 135M --work dpo ppo --limit 240
    python -m benchmarks.gpu --device cpu --small       # a minute: whether the command works

Weights are random, of SmolLM2-135M's shape and of Llama-3.2-1B's. They are float32 and multiplied in bfloat16, the
default of a stage on a GPU; our sampling multiplies in float32. Both sides of a piece run in separate processes on one
GPU and take turns, for at most ``--limit`` seconds. The peer is the installed TRL with its best settings: its fused
head, which is in Triton on a GPU; FlashAttention and Liger's kernels if they can be imported. TRL's last PPO trainer is
in trl 1.12.0: --ppo-peer names an interpreter that has it, without one PPO has no peer. A rollout is compared with
transformers' generate with a static cache, which it compiles on a GPU.
Utilization is the share of the FLOP/s of a large bfloat16 product, measured here, that useful tokens account for: 6 N
per trained token, 2 N per token that is only read or sampled. Tokens exclude padding; a shared prompt counts for each
of its responses. A row is written to benchmarks/gpu.json when its piece ends, and replaces an earlier one.
"""

import argparse
import json
import os
import statistics
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import ppo, ppo_models, sides

RESULT = Path(__file__).with_suffix(".json")
LIMIT = 8 * 60  # seconds
SAMPLED = {"prompt": [32, 128], "length": 128, "mean_length": 64, "temperature": 0.7, "learning_rate": 1e-5}
STAGE = {"stage": {"micro_batch_tokens": 16384}}
PAIRS = {"prompt": 256, "response": 256, "responses": 2}
FOUR = PAIRS | {"responses": 4}
# Piece of work -> the files of our side and of the peer, and the common specification without shape and batch.
WORK: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dpo": ("dpo_ours.py", "dpo_trl.py", PAIRS),
    "dpo, 4 responses": ("dpo_ours.py", "dpo_trl.py", FOUR),
    "reward": ("reward_ours.py", "reward_trl.py", PAIRS),
    "reward, 4 responses": ("reward_ours.py", "reward_trl.py", FOUR),
    "ppo": ("ppo_ours.py", "ppo_trl.py", SAMPLED | STAGE | {"epochs": 4, "minibatches": 1}),
    "rl": ("rl_ours.py", "rl_trl.py", SAMPLED | STAGE | {"advantage": "rloo", "samples": 8, "shared_prefix": True}),
    "rollout": ("rollout_ours.py", "rollout_transformers.py", SAMPLED),
}
# Shape -> prompts per step of each piece of work.
BATCHES = {
    "135M": {"dpo": 16, "dpo, 4 responses": 4, "reward": 16, "reward, 4 responses": 4, "ppo": 256, "rl": 32,
             "rollout": 256},
    "1B": {"dpo": 8, "dpo, 4 responses": 2, "reward": 8, "reward, 4 responses": 2, "ppo": 64, "rl": 16, "rollout": 64},
    "tiny": {"dpo": 2, "dpo, 4 responses": 1, "reward": 2, "reward, 4 responses": 1, "ppo": 4, "rl": 2, "rollout": 4},
}  # fmt: skip
SMALL = {"prompt": 12, "response": 6}, {"prompt": [4, 8], "length": 6, "mean_length": 4}
LEAST = 60  # seconds that must be left to measure our side again without a peer that failed


def specification(work: str, shape: str, device: str) -> dict[str, Any]:
    """Return the specification of both sides; rows of pairs have a fixed length, sampled ones are ragged."""
    paired = work.startswith(("dpo", "reward"))
    found = {"device": device, "autocast": device != "cpu", "shape": shape} | WORK[work][2]
    found |= {"prompts" if paired else "rows": BATCHES[shape][work]}
    if paired:
        sizes = dict(ppo_models.SHAPES[shape])
        found |= sizes | {"vocabulary": sizes.pop("vocab_size")}
    return found | (SMALL[not paired] if shape == "tiny" else {})


def best(work: str, shape: str, device: str) -> dict[str, Any]:
    """Return the settings of the peer that are not those of its defaults."""
    found: dict[str, Any] = {}
    if device == "cuda" and find_spec("flash_attn") is not None and work != "rollout":  # float32 has no FlashAttention
        found["attention"] = "flash_attention_2"
    if device == "cuda" and find_spec("liger_kernel") is not None and work != "rollout":
        found["liger"] = True
    if work == "rollout":
        found["cache"] = "static"
    if work == "ppo":
        found |= {"micro_rows": min(BATCHES[shape]["ppo"], 16), "read_rows": min(BATCHES[shape]["ppo"], 64)}
    return found


def sides_of(work: str, shape: str, device: str, ppo_peer: str | None) -> dict[str, sides.Side]:
    """Return our side, and that of the peer if there is one."""
    ours, theirs, _ = WORK[work]
    found = {"ours": sides.Side(ours)}
    settings = best(work, shape, device)
    if work == "ppo":
        return found | ({} if ppo_peer is None else {ppo.PEER: sides.Side(theirs, ppo_peer, settings)})
    name = "transformers" if work == "rollout" else "trl"
    return found | {f"{name} {version(name)}": sides.Side(theirs, spec=settings)}


def useful(work: str, spec: dict[str, Any], tokens: float, parameters: int) -> float:
    """Return the FLOP of a step on ``tokens``; sampling, the reference and a reward model read them once more each."""
    if work == "ppo":
        return ppo.passes(spec, parameters, 0.0, tokens)
    each = {"dpo": 6 + 2, "reward": 6, "rl": 6 + 2 + 2, "rollout": 2 + 2}[work.partition(",")[0]]
    return each * parameters * tokens


def measure(
    work: str,
    shape: str,
    device: str,
    rounds: int,
    peak: float,
    limit: float = LIMIT,
    ppo_peer: str | None = None,
) -> dict[str, Any]:
    """Return the medians over the rounds of each side; ``error`` of a side that did not end."""
    spec, started = specification(work, shape, device), time.perf_counter()
    running = sides_of(work, shape, device, ppo_peer)
    found: dict[str, Any] = {"work": work, "shape": shape, "sides": {}}
    cores = os.cpu_count() or 1
    try:
        results = sides.interleave(running, spec, rounds, 1, cores, limit, limit / 2)
    except sides.SideError as error:
        found["error"], left = str(error), limit - (time.perf_counter() - started)
        print(f"{work}, {shape}: {error}", flush=True)
        if str(error).startswith("ours ") or left < LEAST:
            return found
        try:  # our numbers, without the peer
            results = sides.interleave({"ours": running["ours"]}, spec, rounds, 1, cores, left, left / 2)
        except sides.SideError as again:
            return found | {"error": f"{error}; {again}"}
    for name, side in results.items():
        found["sides"][name] = _side(work, spec, side["rounds"], peak)
        print(f"{work}, {shape}, {name}: {_shown(found['sides'][name])}", flush=True)
    if len(results) == 2:
        peer = next(name for name in results if name != "ours")
        if work in ("ppo", "rl", "rollout"):
            ppo.of_one_length(results)
        middle, least, most = sides.ratio(results, peer, clock="seconds" if device == "cuda" else "cpu")
        memory = sides.peak(results, "ours") / sides.peak(results, peer)
        found |= {"ratio": round(middle, 2), "spread": [round(least, 2), round(most, 2)], "memory": round(memory, 2)}
        print(f"{work}, {shape}: {found['ratio']} times {peer} {found['spread']}, memory {found['memory']}", flush=True)
    return found


def _side(work: str, spec: dict[str, Any], done: list[dict[str, Any]], peak: float) -> dict[str, Any]:
    seconds = statistics.median(one["seconds"] for one in done)
    tokens, samples = (statistics.mean(one[count] for one in done) for count in ("tokens", "samples"))
    flop = useful(work, spec, tokens, done[0].get("parameters") or ppo.parameters(spec["shape"]))
    return {
        "rounds": len(done),
        "seconds": round(seconds, 4),
        "samples_per_second": round(samples / seconds, 2),
        "tokens_per_second": round(tokens / seconds, 1),
        "peak_mib": round(max(one["peak"] for one in done) / 2**20, 1),
        "utilization": float(f"{flop / seconds / peak:.3g}"),
    }


def _shown(side: dict[str, Any]) -> str:
    rate = f"{side['samples_per_second']} samples/s, {side['tokens_per_second']} tokens/s"
    return f"{rate}, {side['peak_mib']} MiB, {side['utilization']:.1%} of the matrix peak"


def merged(path: Path, device: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a file that were measured on the same device, with ``row`` in the place of an earlier one."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = known.get("rows", []) if known.get("device") == device else []
    return [one for one in rows if (one["work"], one["shape"]) != (row["work"], row["shape"])] + [row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=("135M", "1B"), default=["135M", "1B"])
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=LIMIT, help="most seconds of a piece of work at one shape")
    parser.add_argument("--ppo-peer", help="an interpreter with trl 1.12.0")
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
    for shape in shapes:
        for work in given.work:
            row = measure(work, shape, given.device, rounds, peak, given.limit, given.ppo_peer)
            rows = merged(given.output, name, row)
            sides.record(given.output, {"device": name, "matrix_peak": peak, "rows": rows}, RESULT.stem)


if __name__ == "__main__":
    main()
