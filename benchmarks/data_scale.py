"""Large preference files, from the command to the first DPO step: rows per second and memory, first and second start.

    RLHF_TEST_MODELS=... RLHF_TEST_DATA=... python -m benchmarks.data_scale --rows 100000 1000000

Makes files of distinct pairs from HH-harmless and AlpacaEval (rows of at most 900 bytes, a number in each prompt) and a
random model of a few thousand parameters with SmolLM2's tokenizer, and runs `stage=dpo` for one step on each file,
twice, in a new cache. Memory is that of the process and its workers that no file backs, sampled every 0.1 s. Beside it,
TRL's own preparation (datasets' JSON reader and DPOTrainer, in one process, as by default, and in as many as ours) of
the first ``--trl-rows`` rows. Each part of the work (reading, dividing, surveying, tokenizing) is printed when it ends,
and each size is written to benchmarks/data_scale.json, which keeps the other sizes. Ten million rows need 20 GB in the
folder of temporary files (TMPDIR) and about 75 minutes of one core:

    python -m benchmarks.data_scale --rows 10000000 --trl-rows 0    # 0: without TRL
"""

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
FILES = ("hh_rlhf_harmless", "alpaca_eval_gpt4")
LONGEST = 900  # bytes of a row
MODEL = "SmolLM2-135M-Instruct"
MAX_LENGTH = 512
FEW = 20_000  # rows of the file that shows the time without rows


def pairs() -> Iterator[dict[str, Any]]:
    """Yield distinct pairs as conversations, without end."""
    folder = Path(os.environ.get("RLHF_TEST_DATA", "real_data"), "preference")
    rows = []
    for name in FILES:
        with gzip.open(folder / f"{name}.jsonl.gz") as file:
            rows += map(json.loads, file)
    kept = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
    kept = [row for row in kept if len(json.dumps(row)) <= LONGEST and isinstance(row["prompt"], list)]
    kept = [row for row in kept if row["chosen"] != row["rejected"]]
    for number in count():
        row = kept[number % len(kept)]
        last = row["prompt"][-1] | {"content": f"{number}. {row['prompt'][-1]['content']}"}
        yield row | {"prompt": [*row["prompt"][:-1], last]}


def write_pairs(path: Path, rows: int) -> None:
    """Write the first pairs to a file of JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row, _ in zip(pairs(), range(rows), strict=False):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def tiny_model(place: Path) -> None:
    """Save a random model of a few thousand parameters beside the embeddings, with a real tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(Path(os.environ.get("RLHF_TEST_MODELS", "models"), MODEL))
    shape = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(place)
    tokenizer.save_pretrained(place)


def memory(process: psutil.Process) -> float:
    """Return the resident memory of a process and its children that no file backs, in MiB (Linux)."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            status = Path(f"/proc/{one.pid}/status").read_text()
            total += int(status.split("RssAnon:")[1].split()[0])
        except (OSError, IndexError):  # it has ended
            continue
    return total / 1024


def part_of(meta: Path) -> str | None:
    """Return the part of the work whose table in the cache is complete; None for a part that takes no time."""
    told = json.loads(meta.read_text(encoding="utf-8"))["told"]
    if "read" in told:
        return "reading"
    if "cut" in told:
        return "tokenizing"
    if not told:
        return "dividing"
    return "surveying" if isinstance(told["value"], dict) else None


def measured(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a command; return its seconds, its largest memory, and the seconds at which each part of its work ended."""
    started, peak, known, parts = time.perf_counter(), 0.0, set(), {}
    cache = Path(environment.get("RLHF_CACHE", os.devnull))
    known |= set(cache.glob("[!.]*/meta.json"))
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(command, stdout=output, stderr=output, env=environment) as running:
            process = psutil.Process(running.pid)
            while running.poll() is None:
                try:
                    peak = max(peak, memory(process))
                except psutil.NoSuchProcess:
                    break
                for meta in set(cache.glob("[!.]*/meta.json")) - known:
                    known.add(meta)
                    if name := part_of(meta):
                        seconds = parts[name] = round(time.perf_counter() - started, 1)
                        print(f"{name}: ended after {seconds} s, at most {peak:.0f} MiB", flush=True)
                time.sleep(0.1)
        output.seek(0)
        if running.returncode:
            raise SystemExit(f"{' '.join(command)}\n{output.read()[-3000:]}")
    return {"seconds": round(time.perf_counter() - started, 1), "mib": round(peak), "ended": parts}


def first_step(path: Path, folder: Path, processes: int) -> dict[str, Any]:
    """Run stage=dpo for one step."""
    command = [sys.executable, "-m", "rlhf", "stage=dpo", "experiment=none", f"data.path={path}", "model=local"]
    command += [f"model.path={folder / 'model'}", f"stage.policy={folder / 'model'}", f"checkpoints={folder / 'out'}"]
    command += ["stage.trainer.max_steps=1", f"stage.trainer.max_length={MAX_LENGTH}", "overwrite=true", "curves=[]"]
    command += ["data.preferences.held_out_limit=50", "eval_set.prompts=0", "stage.cache_reference=false"]
    command += ["stage.sample_prompts=0", f"data.processes={processes}"]
    return measured(command, os.environ | {"RLHF_CACHE": str(folder / "cache")})


def trl_side(path: str, model: str, processes: int) -> None:
    """Prepare a file with TRL and print rows per second."""
    import datasets
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(model)
    with tempfile.TemporaryDirectory() as folder:
        given = {"activation_checkpointing": False, "use_cpu": True, "report_to": "none"}
        given |= {"dataset_num_proc": processes if processes > 1 else None}
        args = DPOConfig(output_dir=folder, max_length=MAX_LENGTH, **given)
        started = time.perf_counter()
        rows = datasets.load_dataset("json", data_files=path, split="train", cache_dir=folder)
        DPOTrainer._prepare_dataset(SimpleNamespace(_tokenizer=tokenizer), rows, tokenizer, args, "train")
        print(len(rows) / (time.perf_counter() - started))


def trl_rate(path: Path, folder: Path, processes: int) -> float:
    """Return TRL's rows per second in a new process."""
    command = [sys.executable, "-m", "benchmarks.data_scale", "--trl", str(path), str(folder / "model"), str(processes)]
    return round(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]), 1)


def main() -> None:
    """Measure every size and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--trl-rows", type=int, default=FEW, help="0: without TRL")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--trl", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.trl:
        trl_side(given.trl[0], given.trl[1], int(given.trl[2]))
        return
    known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_model(folder / "model")
        few = folder / "few.jsonl"
        write_pairs(few, given.trl_rows or FEW)
        counts = {1, given.processes} if given.trl_rows else ()
        trl = {"rows": given.trl_rows} | {str(n): trl_rate(few, folder, n) for n in counts}
        for _ in range(2):  # the second start of a small file is the time without rows
            start = first_step(few, folder, given.processes)
        for rows in given.rows:
            path = folder / "rows.jsonl"
            write_pairs(path, rows)
            one = {"rows": rows, "date": date.today().isoformat(), "processes": given.processes}
            one |= {"mib of the file": round(path.stat().st_size / 2**20), "start": start["seconds"]}
            for begun in ("first start", "second start"):
                one |= {begun: first_step(path, folder, given.processes)}
                known = merged(known, one, trl)
                RESULT.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
                print("\n".join(table(known)), flush=True)


def merged(known: dict[str, Any], one: dict[str, Any], trl: dict[str, Any]) -> dict[str, Any]:
    """Return the result with one more size, and TRL's rates if they were measured."""
    sizes = [other for other in known.get("sizes", []) if other["rows"] != one["rows"]]
    machine = f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores"
    found = {"machine": machine, "sizes": sorted([*sizes, one], key=lambda size: size["rows"])}
    return found | {"trl": trl if trl["rows"] else known.get("trl")}


def table(result: dict[str, Any]) -> list[str]:
    """Return the result as a table."""
    rows = []
    for one in result["sizes"]:
        first, second = one["first start"], one.get("second start", {"seconds": None})
        rate = one["rows"] / (first["seconds"] - one["start"])
        rows.append((f"{one['rows']:,}", first["seconds"], f"{rate:,.0f}", first["mib"], second["seconds"]))
    heading = ["rows", "first start, s", "rows per second", "memory, MiB", "second start, s"]
    return [*markdown.table(heading, rows, str), "", f"TRL: {result['trl']}"]


if __name__ == "__main__":
    main()
