"""The test suite and every stage in small on this machine's GPU, without a network: a table of the results.

    python -m benchmarks.gpu_stages                     # some 40 commands; a minute or two each without a GPU
    python -m benchmarks.gpu_stages --only ppo resume   # the checks whose names contain one of these words
    python -m benchmarks.gpu_stages --only suite --limit 580
    python -m benchmarks.gpu_stages --device cpu

Each check is a command in a separate process, with the embedded model, data and random weights. The chain comes first,
then LoRA, QLoRA if bitsandbytes can be imported, one base in several roles, bfloat16 weights, activation checkpointing,
a retry after memory ran out, a run that continues after SIGKILL, and two processes on one GPU, which exchange gradients
through gloo. Memory is limited to a share of the peak that the same command had before, so that it does run out; on a
CPU, an embedding of more tokens than that share raises the error. A row is written to benchmarks/gpu_stages.json when
its check ends. The exit code is 1 if a check failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import sides
from rlhf.runs.directory import partial, saved

RESULT = Path(__file__).with_suffix(".json")
RLHF = [sys.executable, "-m", "rlhf"]
LIMIT = 300  # seconds per check
SHARE = 0.6  # of the peak, when memory runs out
PEAK = "peak of memory: "
RETRIED = "out of memory: micro-batches now have at most"
COMMON = [
    "telemetry=false", "curves=[]", "eval_set.prompts=8", "eval_set.samples=2", "eval_set.max_response_length=8",
    *(f"data.{kind}.limit=200" for kind in ("text", "demonstrations", "preferences", "prompts")),
    *(f"data.{kind}.held_out_limit=16" for kind in ("text", "demonstrations", "preferences", "prompts")),
]  # fmt: skip
STEPS = ["stage.trainer.max_steps=4", "stage.trainer.logging_steps=1", "stage.sample_length=8"]
SHORT = ["stage.max_response_length=8"]
CARD = ["stage.bootstrap=20", "stage.tfidf_pairs=20"]
SAMPLED = ["stage.samples=3", "stage.max_response_length=8"]
PPO = ["stage.updates=2", "stage.batch_size=16", "stage.sample_length=8", "stage.save_every=1", *SHORT]
DPO = ["stage=dpo", *STEPS]
# In the order in which they need each other; the first eight are the chain.
CHAIN = {
    "base": STEPS, "sft": STEPS, "reward": [*STEPS, *CARD], "dpo": STEPS, "kto": STEPS, "ppo": PPO,
    "online_dpo": [*STEPS, *SAMPLED, "stage.rounds=1"], "raft": [*STEPS, *SAMPLED], "merge": [],
    "evaluate_reward": CARD, "sample": ["stage.prompts=8", *SHORT],
    "label": ["judge=reward", "judge.model={root}/almanac/reward"],
    "compare": ["stage.prompts=8", "stage.samples=2", "stage.bootstrap=50", *SHORT], "inspect": [],
    "export": ["stage.prompts=4", *SHORT], "plan": ["stage.probe_seconds=1"], "status": [],
}  # fmt: skip
PROGRESSION = ("base", "sft", "reward", "dpo", "ppo", "compare")
LARGE = ["stage.trainer.per_device_train_batch_size=64", "stage.trainer.per_device_eval_batch_size=4"]
LONG = ["stage=dpo", "stage.trainer.max_steps=40", "stage.trainer.save_steps=4", "stage.sample_prompts=0"]
BRANCH = ["stage.policy={root}/almanac/sft"]
REWARD = "stage.reward={root}/almanac/reward"
PRETRAINED = "model.pretrained={root}/almanac/base"
TWO = ["hardware.strategy=ddp", "hardware.processes=2"]
LORA = ["adapter=lora", *BRANCH]
ROLES = ["stage=ppo", "stage.reward={root}/lora/reward", "stage.share_base_model=true", *PPO]


class Outcome(NamedTuple):
    """Whether a check passed, with the last lines of its output or a number."""

    passed: bool
    told: str


Check = Callable[["Place"], Outcome]


class Place(NamedTuple):
    """The folder of the runs, the device, and the time limit of a check."""

    root: Path
    device: str
    limit: float

    def words(self, given: Sequence[str], name: str) -> list[str]:
        """Return the overrides of a command whose run is called ``name``."""
        hardware = "gpu" if self.device == "cuda" else "cpu"
        own = [word.replace("{root}", str(self.root)) for word in given]
        return [f"hardware={hardware}", f"checkpoints={self.root}", f"name={name}", *COMMON, *own]

    def run(self, command: Sequence[str]) -> Outcome:
        """Run a command, for at most ``limit`` seconds."""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=self.limit)
        except subprocess.TimeoutExpired:
            return Outcome(False, f"did not end in {self.limit:g} s")
        return Outcome(done.returncode == 0, (done.stdout + "\n" + done.stderr)[-3000:].strip())


class Stage(NamedTuple):
    """The check that a command of this package ends well; its run is called ``name``."""

    words: Sequence[str]
    name: str = "almanac"

    def __call__(self, place: Place) -> Outcome:
        return place.run([*RLHF, *place.words(self.words, self.name)])


def out_of_memory(place: Place) -> Outcome:
    """Train with less memory than the same command needs, and look for the sentence about smaller micro-batches."""
    words = [*DPO, *BRANCH, *LARGE]
    limited = [sys.executable, "-m", "benchmarks.gpu_stages", "--limited"]
    whole = place.run([*limited, "0", *place.words(words, "whole")])
    if not whole.passed or PEAK not in whole.told:
        return Outcome(False, whole.told)
    room = int(SHARE * int(whole.told.rpartition(PEAK)[2].split()[0]))
    less = place.run([*limited, str(room), *place.words(words, "less")])
    return Outcome(less.passed and RETRIED in less.told, less.told)


def resumed(place: Place) -> Outcome:
    """Kill a run after a checkpoint, continue it, and compare its weights with those of a run that was not killed."""
    words = [*LONG, *BRANCH]
    work = partial(place.root / "killed" / "dpo")
    with subprocess.Popen(
        [*RLHF, *place.words(words, "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path.cwd(),
        start_new_session=True,
    ) as running:  # fmt: skip
        ends = time.monotonic() + place.limit
        while running.poll() is None and time.monotonic() < ends and saved(work) is None:
            time.sleep(0.01)
        if running.poll() is not None:
            return Outcome(False, "ended before it was killed")
        os.killpg(running.pid, signal.SIGKILL)
    again = place.run([*RLHF, *place.words([*words, "resume=true"], "killed")])
    control = place.run([*RLHF, *place.words(words, "control")])
    if not (again.passed and control.passed):
        return Outcome(False, (control if again.passed else again).told)
    one, other = (
        json.loads((place.root / name / "dpo" / "run.json").read_text(encoding="utf-8"))["weights"]
        for name in ("killed", "control")
    )
    return Outcome(True, f"weights of the same bytes: {one == other}")


def suite(place: Place) -> Outcome:
    """Run the tests, one file per core."""
    options = ["-n", str(os.cpu_count()), "--dist", "loadfile", "-p", "no:cacheprovider"]
    return place.run([sys.executable, "-m", "pytest", *options])


def checks(device: str) -> Iterator[tuple[str, Check]]:
    """Yield each check with its name, in the order in which their runs need each other."""
    for name, words in CHAIN.items():
        yield name, Stage([f"stage={name}", *words])
    own = ", ".join(f"{name}: [{', '.join(map(repr, CHAIN[name]))}]" for name in PROGRESSION)
    yield "progression", Stage(["stage=progression", f"stage.overrides={{{own}}}"])  # all stages are up to date
    four = ["stage=ppo", *PPO, "stage.samples=4", "stage.advantage=rloo", *BRANCH, REWARD]
    yield "ppo, 4 responses per prompt", Stage(four, "four")
    head = ["stage=ppo", *PPO, "stage.critic_kind=value_head", *BRANCH, REWARD]
    yield "ppo, critic on the policy", Stage(head, "head")
    half = ["model.dtype=bfloat16", *BRANCH]
    yield "dpo, bfloat16 weights", Stage([*DPO, *half], "bfloat16")
    yield "ppo, bfloat16 weights", Stage(["stage=ppo", *PPO, *half, REWARD], "bfloat16")
    for kind in ["lora"] + (["qlora"] if device == "cuda" and find_spec("bitsandbytes") else []):
        adapter = [f"adapter={kind}", *BRANCH]
        yield f"reward, {kind}", Stage(["stage=reward", *STEPS, *CARD, *adapter], kind)
        yield f"dpo, {kind}", Stage([*DPO, *adapter], kind)
        own = [word.replace("/lora/", f"/{kind}/") for word in ROLES]
        yield f"ppo, {kind}, one base in four roles", Stage([*own, *adapter], kind)
    saving = "stage.trainer.activation_checkpointing=true"
    yield "sft, activation checkpointing", Stage(["stage=sft", *STEPS, saving, PRETRAINED], "checkpointing")
    yield "dpo, activation checkpointing", Stage([*DPO, saving, *BRANCH], "checkpointing")
    yield "dpo, out of memory", out_of_memory
    yield "dpo, resume after SIGKILL", resumed
    yield "sft, two processes", Stage(["stage=sft", *STEPS, *TWO, PRETRAINED], "two")
    yield "dpo, two processes", Stage([*DPO, *TWO, *BRANCH], "two")
    yield "ppo, two processes", Stage(["stage=ppo", *PPO, *TWO, *BRANCH, REWARD], "two")
    yield "suite", suite


def limited(room: int, words: list[str]) -> None:
    """Run a command with ``room`` bytes of a GPU's memory, or tokens at once on a CPU; 0: no limit. Print the peak."""
    import torch

    from rlhf.cli.main import main

    largest = 0
    if torch.cuda.is_available() and "hardware=cpu" not in words:
        if room:
            torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    else:
        forward = torch.nn.Embedding.forward

        def bounded(self: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
            nonlocal largest
            largest = max(largest, ids.numel())
            if room and ids.numel() > room:
                raise torch.OutOfMemoryError(f"{ids.numel()} tokens, {room} fit")
            return forward(self, ids)

        torch.nn.Embedding.forward = bounded
    sys.argv[1:] = words
    main()
    if torch.cuda.is_initialized():
        largest = torch.cuda.max_memory_reserved()
    print(f"{PEAK}{largest}", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--limited"]:
        return limited(int(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", help="parts of names; the chain up to ppo always runs, but for suite")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of a command")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    if given.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            sys.exit("--device=cuda but torch sees no GPU: use a machine with one, or --device cpu")
    needed = [] if given.only == ["suite"] else list(CHAIN)[:6]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), given.device, given.limit)
        for name, check in checks(given.device):
            if given.only and name not in needed and not any(word in name for word in given.only):
                continue
            started = time.perf_counter()
            passed, told = check(place)
            seconds = round(time.perf_counter() - started, 1)
            last = (told.splitlines() or [""])[-1]
            rows.append({"check": name, "passed": passed, "seconds": seconds, "told": last if passed else told})
            print(f"{'passed' if passed else 'FAILED'}  {name}, {seconds} s  {'' if passed else told}", flush=True)
            sides.record(given.output, {"device": given.device, "rows": rows}, RESULT.stem)
    sys.exit(not all(row["passed"] for row in rows))


if __name__ == "__main__":
    main()
