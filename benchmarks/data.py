"""Speed of the conversion of preference pairs to token ids compared with TRL, on one core.

    RLHF_TEST_MODELS=... RLHF_TEST_DATA=... python -m benchmarks.data
    python -m benchmarks.data --file my.jsonl --tokenizer org/model --rows 2000 --repeats 5

Both read the file, render every pair by the chat template and tokenize it for DPO, on one core, without a cache; they
take turns, and the medians are compared. Ours also writes its result to disk and is started again from there.
benchmarks.data_scale has large files. Writes benchmarks/data.json.
"""

import argparse
import gzip
import json
import os
import platform
import statistics
import tempfile
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path(os.environ.get("RLHF_TEST_DATA", "real_data"), FILE))
    parser.add_argument("--tokenizer", default=str(Path(os.environ.get("RLHF_TEST_MODELS", "models"), MODEL)))
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
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
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n".join(table(result)))


def table(result: dict[str, Any]) -> list[str]:
    rates = [(name, f"{rate:,.0f}") for name, rate in result["rows_per_second"].items()]
    return [
        f"{result['rows']} pairs of {result['file']}, {result['tokenizer']}",
        "",
        *markdown.table(["", "rows per second and core"], rates, str),
    ]


if __name__ == "__main__":
    main()
