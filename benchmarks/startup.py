"""Time from the command to the help, a completion, the message about a wrong setting, and the first step of training.

    RLHF_TEST_MODELS=... python -m benchmarks.startup

Our commands and TRL's take turns, each in a separate process; CPU seconds, including imports, and wall-clock seconds
are measured. The first step is one of DPO on the embedded pairs: `python -m rlhf stage=dpo`, whose first start reads
and tokenizes them and whose second start loads them from the cache. The peer is a short script that passes the same
pairs to TRL's DPOTrainer (benchmarks/startup_trl.py), with its cache. Each is stopped when its first step begins.
TRL's command line completes nothing, so a completion is compared with the import of Hydra.
Models: one of the embedded shape, and those found in RLHF_TEST_MODELS. Writes benchmarks/startup.json.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks import sides

HERE = Path(__file__).parent
RESULT = Path(__file__).with_suffix(".json")
PAIRS = HERE.parent / "preference_data" / "almanac" / "preferences" / "train.jsonl"
AGAINST = {"trl": "trl 1.16", "hydra": "import of hydra"}
LONGEST = 300.0  # seconds until a first step
MODELS = ("stories15M", "SmolLM2-135M-Instruct")
RLHF = [sys.executable, "-m", "rlhf"]
WORDS = [
    "experiment=none",
    "hardware=cpu",
    "stage.trainer.max_length=128",
    "stage.trainer.per_device_train_batch_size=16",
    "stage.cache_reference=false",  # as in TRL; a cache would be computed before the first step
]
COMMANDS = {
    "import": ([sys.executable, "-c", "import rlhf"], [sys.executable, "-c", "import trl"]),
    "completion": (  # as bash asks for it
        ["env", "COMP_LINE=rlhf stage=dpo stage.be", *RLHF, "-sc", "query=bash"],
        [sys.executable, "-c", "import hydra"],
    ),
    "help": ([*RLHF, "--help"], [sys.executable, "-m", "trl.cli.main", "--help"]),
    "mistake": (
        [*RLHF, "stage=dpo", "stage.bta=1"],
        [sys.executable, "-m", "trl.cli.main", "dpo", "--model_name_or_path", "x", "--bta", "1"],
    ),
}


def spent(process: psutil.Popen) -> float:
    """Return the CPU seconds of a process and of its finished children."""
    times = process.cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def whole(command: list[str]) -> dict[str, float]:
    """Time a command from its start to its end."""
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, capture_output=True, check=False)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"cpu": cpu, "seconds": time.perf_counter() - started}


def until(command: list[str], told: Path) -> dict[str, float]:
    """Time a command until it writes ``told``, then stop it.

    Raises:
        RuntimeError: it ended before that, or took too long.
    """
    told.unlink(missing_ok=True)
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = psutil.Popen(command, stdout=said, stderr=said)
        try:
            while not told.exists():
                if process.poll() is not None or time.perf_counter() - started > LONGEST:
                    said.seek(0)
                    raise RuntimeError(f"{command} made no step:\n{said.read()}")
                time.sleep(0.02)
            return {"cpu": spent(process), "seconds": time.perf_counter() - started}
        finally:
            with suppress(psutil.NoSuchProcess):
                process.kill()
            process.wait()


def plain(place: Path) -> Path:
    """Write the embedded pairs as plain text, so that models without a chat template can read them."""
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    texts = [{key: row[key][0]["content"] for key in ("prompt", "chosen", "rejected")} for row in rows]
    place.write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    return place


def first_steps(name: str, model: Path, pairs: Path, work: Path, rounds: int) -> list[dict[str, Any]]:
    """Return a row for the first start, with empty caches in every round, and a row for the second."""
    os.environ["RLHF_CACHE"] = str(work / "cache")
    told = work / "told"
    kept = ["stage=dpo", "name=startup", f"checkpoints={work / 'checkpoints'}", *WORDS]
    given = ["model=local", f"model.path={model}", f"stage.policy={model}", f"data.path={pairs}"]
    ours = [sys.executable, str(HERE / "startup_ours.py"), str(told), *kept, *given]
    theirs = [sys.executable, str(HERE / "startup_trl.py"), str(told), str(model), str(pairs), str(work / "trl")]
    found: dict[str, dict[str, list]] = {start: {"ours": [], "trl": []} for start in ("first", "second")}
    for _ in range(rounds):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        for start in found:
            for side, command in (("ours", ours), ("trl", theirs)):
                found[start][side].append(until(command, told))
                shutil.rmtree(work / "checkpoints", ignore_errors=True)
    return [row(f"until the first step of DPO, {name}, {start} start", measured) for start, measured in found.items()]


def row(work: str, measured: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return medians, and the ratios of the rounds, of ``ours`` and one of `AGAINST`."""
    [peer] = measured.keys() - {"ours"}
    ratios = [theirs["cpu"] / own["cpu"] for theirs, own in zip(measured[peer], measured["ours"], strict=True)]
    medians = {
        side: {clock: round(statistics.median(one[clock] for one in each), 2) for clock in ("cpu", "seconds")}
        for side, each in measured.items()
    }
    spread = [round(min(ratios), 2), round(max(ratios), 2)]
    found = {"work": work, "against": AGAINST[peer], "ratio": round(statistics.median(ratios), 2), "spread": spread}
    cpu = {side: f"{each['cpu']} s ({each['seconds']} s elapsed)" for side, each in medians.items()}
    print(f"{work}: ours {cpu['ours']}, {peer} {cpu[peer]}: {found['ratio']} times {spread}", flush=True)
    return found | {"rounds": len(ratios), "sides": medians}


def embedded(place: Path) -> Path:
    """Make a model of the embedded shape by one training step."""
    words = ["stage=base", "name=made", f"checkpoints={place}", "hardware=cpu", "stage.trainer.max_steps=1"]
    subprocess.run([*RLHF, *words], check=True, capture_output=True)
    return place / "made" / "base" / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=MODELS, help="folders in RLHF_TEST_MODELS")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    for name, (ours, theirs) in COMMANDS.items():
        turns = [(whole(ours), whole(theirs)) for _ in range(given.rounds)]
        peer = "hydra" if name == "completion" else "trl"
        rows.append(row(name, {"ours": [turn[0] for turn in turns], peer: [turn[1] for turn in turns]}))
    with tempfile.TemporaryDirectory() as folder:
        models = {"embedded shape": embedded(Path(folder) / "made")}
        for name in given.models:
            if (path := Path(os.environ.get("RLHF_TEST_MODELS", "")) / name).is_dir():
                models[name] = path
            else:
                print(f"{name} is not in RLHF_TEST_MODELS: left out")
        for name, path in models.items():
            rows += first_steps(name, path, plain(Path(folder) / "pairs.jsonl"), Path(folder) / "work", given.rounds)
    sides.record(RESULT, {"rows": rows})


if __name__ == "__main__":
    main()
