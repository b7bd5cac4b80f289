"""Compare speed and memory of our code and a peer's: each runs in a separate process, and they take turns.

A side is a Python file, run by the interpreter of its environment. It makes models and data from a specification,
untimed, and then does one piece of work per request; requests and results are lines of JSON:

    from sides import serve                       # this file; needs only the standard library

    def make(spec):                               # imports above do not count as memory
        ...
        def step(number):
            ...
            return {"samples": 16, "tokens": 4096, "losses": [...]}
        return step

    if __name__ == "__main__":
        serve(make)

``interleave`` starts the sides, warms them up and lets them take turns, so that other load on the machine affects both.
CPU seconds of the process per sample are compared round by round; on a GPU, wall-clock seconds.
"""

import contextlib
import gc
import hashlib
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
Step = Callable[[int], dict[str, Any]]
Results = dict[str, dict[str, Any]]


class Side(NamedTuple):
    """``file`` is in this folder, ``python`` is the interpreter that runs it, ``spec`` overrides the common one."""

    file: str
    python: str = sys.executable
    spec: Mapping[str, Any] = {}
    environment: Mapping[str, str] = {}


class SideError(RuntimeError):
    """A side ended; its error is on stderr."""


def serve(make: Callable[[dict[str, Any]], Step]) -> None:
    """Answer requests on stdin until it closes. The output of libraries is sent to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    gc.collect()
    before = resident()
    forget_peak()
    step = make(json.loads(sys.stdin.readline()))
    print(json.dumps({"before": before}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["forget"]:
            forget_peak()
        _wait()
        started, cpu = time.perf_counter(), time.process_time()
        done = step(request["number"])
        _wait()
        measured = {
            "seconds": time.perf_counter() - started,
            "cpu": time.process_time() - cpu,
            "peak": peak_above(before),
        }
        print(json.dumps(done | measured), file=answers, flush=True)


def interleave(
    sides: Mapping[str, Side], spec: Mapping[str, Any], rounds: int = 5, warmup: int = 1, threads: int = 1,
    limit: float | None = None, enough: float | None = None,
) -> Results:  # fmt: skip
    """Let ``sides`` take turns; return {name: {"rounds": [result of step with seconds, cpu and peak]}}.

    The order within a round alternates. Peak memory excludes the resident memory before models and data were made. A
    side that needs more than ``limit`` seconds in all is stopped; after ``enough`` seconds no further round begins.

    Raises:
        SideError: a side did not answer.
    """
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(_Process(name, side, spec, threads, limit)) for name, side in sides.items()
        }
        found: Results = {name: {"rounds": []} for name in sides}
        for number in range(warmup + rounds):
            if enough is not None and number > warmup and time.perf_counter() - started > enough:
                break
            order = list(running) if number % 2 == 0 else list(running)[::-1]
            for name in order:
                measured = running[name].ask({"number": number, "forget": number == warmup})
                if number >= warmup:
                    found[name]["rounds"].append(measured)
    return found


class _Process:
    def __init__(self, name: str, side: Side, spec: Mapping[str, Any], threads: int, limit: float | None):
        self.name = name
        environment = os.environ | dict.fromkeys(THREADS, str(threads)) | {"TOKENIZERS_PARALLELISM": "false"}
        # The checkout comes first, so that our side measures this code instead of an installed package.
        places = [str(HERE), str(HERE.parent)] if side.python == sys.executable else [str(HERE)]
        environment |= {"PYTHONPATH": os.pathsep.join(places)} | dict(side.environment)
        self.process = subprocess.Popen(
            [side.python, str(HERE / side.file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.timer = None if limit is None else threading.Timer(limit, self.process.kill)
        if self.timer is not None:
            self.timer.start()
        self.tell(dict(spec) | dict(side.spec))
        self.before = self.answer()["before"]

    def tell(self, line: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # answer() reports that it ended
            self.process.stdin.write(json.dumps(line) + "\n")
            self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.close()
            raise SideError(f"{self.name} ended with exit code {code}; its output is above")
        return json.loads(line)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.tell(request)
        return self.answer()

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.close()

    def close(self) -> None:
        """Close the pipes of a process that has ended, and stop its timer."""
        if self.timer is not None:
            self.timer.cancel()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


def _torch() -> Any:
    """Return PyTorch if a side has imported it and uses a GPU."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized() else None


def _wait() -> None:
    if (torch := _torch()) is not None:
        torch.cuda.synchronize()


def forget_peak() -> None:
    """Let the peak begin at the memory that is in use now."""
    if (torch := _torch()) is not None:
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # proc(5), clear_refs; on other systems the peak is since the start
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return _status("VmRSS") if Path("/proc/self/status").exists() else 0


def peak_above(before: int) -> int:
    """Return the peak in bytes: allocated by PyTorch on a GPU, else resident memory above ``before``."""
    if (torch := _torch()) is not None:
        return torch.cuda.max_memory_allocated()
    if Path("/proc/self/status").exists():
        return _status("VmHWM") - before
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) - before


def environment(name: str, requirements: Sequence[str]) -> str:
    """Return the interpreter of a virtual environment with ``requirements``; pip fills it at the first call."""
    digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    place = cache / "rlhf-benchmarks" / f"{name}-{digest}"
    python, whole = place / "bin" / "python", place / "whole"
    if not whole.exists():
        print(f"making an environment of {name} in {place}", file=sys.stderr)
        venv.create(place, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *requirements], check=True)
        whole.touch()
    return str(python)


def per_sample(results: Results, name: str, clock: str = "cpu") -> list[float]:
    """Return the seconds per sample of each round; ``clock`` is "cpu" or "seconds"."""
    return [round_[clock] / round_["samples"] for round_ in results[name]["rounds"]]


def ratio(results: Results, peer: str, ours: str = "ours", clock: str = "cpu") -> tuple[float, float, float]:
    """Return the speedup over ``peer``: median, minimum and maximum over the rounds."""
    pairs = zip(per_sample(results, peer, clock), per_sample(results, ours, clock), strict=True)
    ratios = [theirs / own for theirs, own in pairs]
    return statistics.median(ratios), min(ratios), max(ratios)


def peak(results: Results, name: str) -> int:
    """Return the largest peak over the rounds, in bytes."""
    return max(round_["peak"] for round_ in results[name]["rounds"])


def gemm_peak(size: int = 2048, repeats: int = 5, dtype: str = "float32", device: str = "cpu") -> float:
    """Return the FLOP/s of a square matrix product on the current number of threads, or on a GPU.

    It is the reference of utilization.
    """
    import torch

    a, b = (torch.rand(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    took = []
    for _ in range(repeats + 1):
        _wait()
        started = clock()
        a @ b
        _wait()
        took.append(clock() - started)
    return 2 * size**3 / min(took[1:])


def utilization(parameters: int, tokens: int, seconds: float, peak: float, trained: bool = True) -> float:
    """Return the share of ``peak`` FLOP/s that useful tokens account for: 6 N per trained token, 2 N per other one.

    ``parameters`` excludes embeddings that are looked up; Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, section
    2.1. The products of attention, which grow with the length, are left out.
    """
    return (6 if trained else 2) * parameters * tokens / seconds / peak


def row(
    results: Results,
    work: str,
    peer: str,
    target: float | None,
    useful: Callable[[str, float], float] | None = None,
    ours: str = "ours",
) -> dict[str, Any]:
    """Return a line of the table in docs/results.md. ``useful``: (side, CPU seconds per sample) -> utilization."""
    middle, least, most = ratio(results, peer, ours)
    found: dict[str, Any] = {
        "work": work,
        "against": peer,
        "ratio": round(middle, 2),
        "spread": [round(least, 2), round(most, 2)],
        "wall_ratio": round(ratio(results, peer, ours, "seconds")[0], 2),
        "target": target,
        "rounds": len(results[ours]["rounds"]),
        "memory_ratio": round(peak(results, ours) / peak(results, peer), 2),
        "sides": {},
    }
    for name in (ours, peer):
        each = statistics.median(per_sample(results, name))
        rounds = results[name]["rounds"]
        tokens = sum(r["tokens"] for r in rounds) / sum(r["samples"] for r in rounds)
        found["sides"][name] = {
            "samples_per_cpu_second": round(1 / each, 3),
            "tokens_per_cpu_second": round(tokens / each, 1),
            "peak_mib": round(peak(results, name) / 2**20, 1),
            "utilization": None if useful is None else round(useful(name, each), 3),
        }
    return found


def show(found: Mapping[str, Any]) -> None:
    """Print a row."""
    target = "" if found["target"] is None else f", aim {found['target']}"
    least, most = found["spread"]
    print(f"{found['work']}, compared with {found['against']}: {found['ratio']} times [{least}, {most}]{target}")
    for name, side in found["sides"].items():
        used = "" if side["utilization"] is None else f", {side['utilization']:.1%} of the matrix peak"
        rate = f"{side['samples_per_cpu_second']} samples/s, {side['tokens_per_cpu_second']} tokens/s"
        print(f"  {name}: {rate} (CPU seconds), {side['peak_mib']} MiB{used}")


def machine() -> dict[str, Any]:
    """Return the machine of a measurement."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}


def record(path: Path, found: Mapping[str, Any], module: str | None = None) -> None:
    """Write ``found`` with date, machine and command; ``module`` is the benchmark, by default the name of the file."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("torch", "transformers", "trl", "peft")}
    # Paths of interpreters and models depend on the machine and are shortened to their names.
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = " ".join(["python", "-m", f"benchmarks.{module or path.stem}", *map(shlex.quote, words)])
    head = {"command": command, "date": date.today().isoformat(), "machine": machine(), "versions": packages}
    path.write_text(json.dumps(head | dict(found), indent=1) + "\n", encoding="utf-8")
