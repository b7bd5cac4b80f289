"""Time of an iteration of our PPO at the shapes of benchmarks.ppo, by phase and by kind of operator.

    python -m benchmarks.ppo_profile                        # six minutes; writes ppo_profile.json
    python -m benchmarks.ppo_profile --ways "one base"      # writes ppo_profile_ways.json

Phases are timed in one iteration. Operators are timed in the next one by torch's profiler, which slows down the code
between them. ``the_least`` is the time of the useful floating-point operations (benchmarks.ppo) at the rate of a square
matrix product: a lower bound for every program that makes these passes in this precision.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import ppo, rl, sides

RESULT = Path(__file__).with_suffix(".json")
GRPO = "GRPO, prompts of 32 to 64 tokens"  # the iteration of benchmarks.rl
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::addmm_", "aten::mkldnn_linear", "mkldnn::"),
    "attention": ("aten::_scaled_dot_product",),
    "optimizer": ("aten::_fused_adam", "Optimizer"),
}
PHASES = {"sampling and scoring": "draw", "log-probabilities and values": "evaluate", "learning": "improve"}


def kind_of(operator: str) -> str:
    return next((kind for kind, begins in KINDS.items() if operator.startswith(begins)), "other operators")


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Collect in ``spent`` the CPU seconds of each phase of PPOTrainer.step."""
    from rlhf.ppo import trainer
    from rlhf.ppo.collector import Collector
    from rlhf.ppo.learner import Learner

    def around(name: str, whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            started = time.process_time()
            try:
                return whole(*arguments, **named)
            finally:
                spent[name] = spent.get(name, 0.0) + time.process_time() - started

        return call

    places: dict[str, Any] = {"draw": Collector, "evaluate": trainer, "improve": Learner}
    kept = {name: getattr(place, name) for name, place in places.items()}
    for name, place in places.items():
        setattr(place, name, around(name, kept[name]))
    try:
        yield
    finally:
        for name, place in places.items():
            setattr(place, name, kept[name])


def profile(shape: str, way: str, **options: Any) -> dict[str, Any]:
    """Return the shares of an iteration and its distance from the lower bound."""
    sys.path.append(str(sides.HERE))
    import ppo_ours
    import rl_ours
    import torch

    torch.set_num_threads(1)
    if way == GRPO:
        spec = rl.COMMON | rl.OURS["ours"] | {"shape": shape, "prompt": [32, 64], "advantage": "grpo"} | options
    else:
        spec = ppo.COMMON | {"shape": shape} | ppo.SHAPES.get(shape, {}) | ppo.OURS | ppo.WAYS[way] | options
    step, spent = (rl_ours if way == GRPO else ppo_ours).make(spec), {}
    step(0)
    with timed(spent):
        started = time.process_time()
        done = step(1)
        whole = time.process_time() - started
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as found:
        started = time.perf_counter()
        step(2)
        profiled = time.perf_counter() - started
    kinds: dict[str, float] = {}
    products = flops = 0.0
    for event in found.key_averages():
        kind, seconds = kind_of(event.key), event.self_cpu_time_total / 1e6
        kinds[kind] = kinds.get(kind, 0.0) + seconds
        if kind == "matrix products" and event.flops:
            products, flops = products + seconds, flops + event.flops
    kinds["between operators"] = max(profiled - sum(kinds.values()), 0.0)
    peak = sides.gemm_peak()
    tokens = done["tokens"] / done["samples"]
    if way == GRPO:  # each prompt once, in sampling, reference and update
        tokens = done["response"] + (tokens - done["response"]) / spec["samples"]
        each = (2 + 2 + 6) * ppo.parameters(shape) * tokens
    else:
        each = ppo.passes(spec, ppo.parameters(shape), 0.0, tokens)
    least = done["samples"] * each / peak
    return {
        "work": f"{'' if way == GRPO else 'PPO '}iteration, {shape}, {way}",
        "cpu_seconds": round(whole, 2),
        "the_least": round(least, 2),
        "phases": {name: round(spent[key] / whole, 3) for name, key in PHASES.items()},
        "kinds": {kind: round(seconds / profiled, 3) for kind, seconds in kinds.items()},
        "products_of_peak": round(flops / products / peak, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=ppo.SHAPES, default="256x4")
    parser.add_argument("--ways", nargs="+", choices=[*ppo.WAYS, GRPO], help="recorded in ppo_profile_ways.json")
    arguments = parser.parse_args()
    rows = []
    for way in arguments.ways or [*ppo.WAYS, GRPO]:
        rows.append(profile(arguments.shape, way))
        print(rows[-1], flush=True)
    sides.record(RESULT.with_name("ppo_profile_ways.json") if arguments.ways else RESULT, {"rows": rows}, RESULT.stem)


if __name__ == "__main__":
    main()
