"""Speed of the conversion of preference pairs to token ids compared with TRL, and memory by number of rows.

    RLHF_TEST_MODELS=... RLHF_TEST_DATA=... python -m benchmarks.data
    python -m benchmarks.data --file my.jsonl --tokenizer org/model --rows 2000 --repeats 5 --stream 1000000

Both read the file, render every pair by the chat template and tokenize it for DPO, on one core, without a cache; they
take turns, and the medians are compared. Ours also writes its result to disk and is started again from there.
``--stream`` writes that many rows of pairs, and a tenth of them, and converts and splits each in a separate process:
memory that is not backed by a file must not grow with the rows. Writes benchmarks/data.json.
"""

import argparse
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import date
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rlhf.storage import markdown

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # per core

RESULT = Path(__file__).with_suffix(".json")
MAX_LENGTH = 1024
FILE = "preference/alpaca_eval_gpt4.jsonl.gz"
MODEL = "SmolLM2-135M-Instruct"


def source(path: Path) -> Any:
    from rlhf.config import Format, Source

    none = dict.fromkeys(("mix", "subset", "revision", "validation", "test", "limit", "held_out_limit"))
    return Source(path=str(path), format=Format.auto, train="train", drop_identical=True, **none)


def ours(path: Path, tokenizer: Any, folder: str) -> int:
    """Read, convert, check, render and tokenize, with the result in ``folder``. Return the number of rows."""
    from rlhf.config import Pairing, Rankings, Ties
    from rlhf.data.reading import read
    from rlhf.data.tokens import Form, tokenized

    pairing = Pairing(rankings=Rankings.all, ties=Ties.drop, score_ratio=1.0)
    rows = read(source(path), "preferences", "train", pairing=pairing, folder=folder, tell=False).rows
    made, _ = tokenized(rows, Form.pairs, tokenizer, MAX_LENGTH, folder)
    return len(made)


def of_trl(path: Path, tokenizer: Any, folder: str) -> int:
    """Read the file with `datasets` and prepare it with DPOTrainer. Return the number of rows."""
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    rows = load_dataset("json", data_files=str(path), split="train", cache_dir=folder)
    rows = rows.select_columns(["prompt", "chosen", "rejected"])
    given = {"activation_checkpointing": False, "use_cpu": True, "report_to": "none"}
    args = DPOConfig(output_dir=folder, max_length=MAX_LENGTH, **given)
    made = DPOTrainer._prepare_dataset(SimpleNamespace(_tokenizer=tokenizer), rows, tokenizer, args, "train")
    return len(made)


def timed(prepare: Callable[[Path, Any, str], int], path: Path, tokenizer: Any, folder: str) -> tuple[float, int]:
    started = time.perf_counter()
    rows = prepare(path, tokenizer, folder)
    return time.perf_counter() - started, rows


def side_by_side(path: Path, tokenizer: Any, repeats: int) -> dict[str, Any]:
    """Medians over ``repeats`` turns, each from nothing; rows per second and core."""
    seconds: dict[str, list[float]] = {"ours": [], "ours, second start": [], "trl": []}
    counts: set[int] = set()
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
            for name, prepare, folder in (("ours", ours, a), ("trl", of_trl, b), ("ours, second start", ours, a)):
                took, rows = timed(prepare, path, tokenizer, folder)
                seconds[name].append(took)
                counts.add(rows)
    [rows] = counts  # both keep the same rows
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rates = {name: round(rows / value, 1) for name, value in medians.items()}
    return {
        "rows": rows,
        "rows_per_second": rates,
        "seconds": {name: [round(s, 3) for s in v] for name, v in seconds.items()},
    }


def head(path: Path, rows: int, place: Path) -> Path:
    """The first ``rows`` lines of a file of JSON lines."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        place.write_bytes(b"".join(islice(file, rows)))
    return place


def write_pairs(path: Path, rows: int) -> None:
    """Pairs of some 600 bytes, every prompt another one."""
    words = "the quick brown fox jumps over the lazy dog and runs away " * 4
    with path.open("w", encoding="utf-8") as file:
        for n in range(rows):
            row = {
                "prompt": f"Question {n}: {words[:200]}",
                "chosen": f"{n} {words}",
                "rejected": f"{n + 1} {words[:150]}",
            }
            file.write(json.dumps(row) + "\n")


class AnonymousMemory(threading.Thread):
    """The largest resident memory that no file backs, in MiB, while the context lasts (Linux).

    Pages of tables on disk are not counted: the system takes them back when it needs them.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._done = 0.0, threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak, self.now())

    @staticmethod
    def now() -> float:
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) / 1024

    def __enter__(self) -> "AnonymousMemory":
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self.join()


def stream(path: Path, folder: str) -> dict[str, float]:
    """Load both sides of a file of pairs in this process: how much memory that takes beyond what it had before."""
    from rlhf.config import Pairing, Rankings, Ties
    from rlhf.data import load_source

    pairing = Pairing(rankings=Rankings.all, ties=Ties.drop, score_ratio=1.0)
    given = {"seed": 0, "holdout": 0.05, "pairing": pairing, "folder": folder, "tell": False}
    head_start = path.with_name("few.jsonl")
    write_pairs(head_start, 100)
    load_source(source(head_start), "preferences", "train", **given)  # imports are not measured
    with AnonymousMemory() as memory:
        before = memory.now()
        started = time.perf_counter()
        sizes = [len(load_source(source(path), "preferences", split, **given)) for split in ("train", "validation")]
        cold = time.perf_counter() - started
        started = time.perf_counter()
        load_source(source(path), "preferences", "train", **given)
        warm = time.perf_counter() - started
    return {
        "rows": sum(sizes),
        "mib": round(memory.peak - before, 1),
        "cold_seconds": round(cold, 1),
        "warm_seconds": round(warm, 1),
    }


def streamed(rows: int) -> list[dict[str, float]]:
    """`stream` of a tenth of the rows and of all of them, each in a new process."""
    found = []
    for count in (rows // 10, rows):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "pairs.jsonl")
            write_pairs(path, count)
            command = [sys.executable, "-m", "benchmarks.data", "--stream-file", str(path)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.append(json.loads(output.splitlines()[-1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path(os.environ.get("RLHF_TEST_DATA", "real_data"), FILE))
    parser.add_argument("--tokenizer", default=str(Path(os.environ.get("RLHF_TEST_MODELS", "models"), MODEL)))
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stream", type=int, default=1_000_000)
    parser.add_argument("--stream-file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stream_file is not None:
        print(json.dumps(stream(given.stream_file, str(given.stream_file.parent / "cache"))))
        return
    import datasets
    import transformers

    datasets.disable_progress_bars()
    tokenizer = transformers.AutoTokenizer.from_pretrained(given.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        path = head(given.file, given.rows, Path(folder, "rows.jsonl"))
        few = head(given.file, 20, Path(folder, "few.jsonl"))
        side_by_side(few, tokenizer, 1)  # imports are not measured
        compared = side_by_side(path, tokenizer, given.repeats)
    result = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}, one core",
        "file": given.file.name,
        "tokenizer": Path(given.tokenizer).name,
        **compared,
        "stream": streamed(given.stream),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n".join(table(result)))


def table(result: dict[str, Any]) -> list[str]:
    rates = [(name, f"{rate:,.0f}") for name, rate in result["rows_per_second"].items()]
    runs = [
        (f"{one['rows']:,}", f"{one['mib']:,}", one["cold_seconds"], one["warm_seconds"]) for one in result["stream"]
    ]
    heading = ["rows", "memory beyond the start, MiB", "seconds", "second start"]
    return [
        f"{result['rows']} pairs of {result['file']}, {result['tokenizer']}",
        "",
        *markdown.table(["", "rows per second and core"], rates, str),
        "",
        *markdown.table(heading, runs, str),
    ]


if __name__ == "__main__":
    main()
