"""A side of benchmarks.growth: steps of DPO whose lengths, responses or prompts grow, each with its memory peak."""

import ctypes
import gc
import time
from pathlib import Path

from preference_work import steps, trainer
from sides import serve


def status(field):
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def make(spec):
    if spec["shared"]:
        from rlhf.preference.prefix_sharing import Sharing

    def measured(number):
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        started = time.process_time()
        done = step[number % len(step)](number)
        return done | {"spent": time.process_time() - started, "above": status("VmHWM") - before}

    step = {}
    for number, point in enumerate(spec["points"]):
        made = trainer(spec | point, "dpo", 1)
        if spec["shared"]:
            for model in (made.model, made.ref_model):
                Sharing(model)
        step[number] = steps(made, spec | point, 1)
    step[0](0)
    return measured


if __name__ == "__main__":
    serve(make)
