"""Planned compared with measured peak memory of sft, reward, dpo and ppo, full and LoRA, for four model shapes.

    RLHF_TEST_MODELS=... python -m benchmarks.plan_memory          # all cases, each in a separate process: minutes
    python -m benchmarks.plan_memory --stages dpo --ways LoRA      # some cases; stored results of the others are kept
    python -m benchmarks.plan_memory --again                       # plan the stored cases with the current formulas
    python -m benchmarks.plan_memory --show                        # print the last results

Shapes: hidden 256 x 4 layers x 2k vocabulary with random weights; stories15M; SmolLM2-135M with random weights, which
need as much memory as trained ones; and hidden 384 x 6 layers x 8k vocabulary, on which no factor of the plan was
fitted. At the first shape also stage=base, SFT in bfloat16 and PPO with a value head as critic. Each process first runs
the same stage on a model with one layer, so that the memory of the libraries is allocated before the measurement. Then
it runs the stage for a few steps on rows of equal length and reads the peak at the end of training.

The CPU time that a probe predicts is compared with the CPU time of training: 60 steps of the embedded stage=base and of
SFT at the first shape, and 6 updates of PPO.

Except in the timed runs, the allocator returns freed memory at once, as in benchmarks/ppo_memory.py. Writes
benchmarks/plan_memory.json, and the tables into docs/planning.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.ppo_memory import ALLOCATOR
from benchmarks.sides import record
from benchmarks.table import place
from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "planning.md"
PLACE = "<!-- plans against measurements -->"
STAGES = ("base", "sft", "reward", "dpo", "ppo")
WAYS = {"full": "none", "LoRA": "lora", "bfloat16": "none", "head": "none"}  # head: PPO's critic on the policy
# Rows of a micro-batch (half of PPO's batch); words of a prompt and of a response.
SIZES = {
    "256x4x2k": {"rows": 8, "prompt": 100, "response": 60},
    "stories15M": {"rows": 4, "prompt": 60, "response": 40},
    "SmolLM2-135M": {"rows": 2, "prompt": 60, "response": 40},
    "384x6x8k": {"rows": 6, "prompt": 80, "response": 80},
}
# Models with random weights: hidden, intermediate, layers, heads, vocabulary.
MADE = {"256x4x2k": (256, 688, 4, 4, 2048), "384x6x8k": (384, 1024, 6, 6, 8192)}
TOLERANCE = 0.15
TIMED = ("base", "sft", "ppo")  # base trains the embedded model, the others TIMED_SHAPE
TIMED_SHAPE = "256x4x2k"
BESIDES = {
    ("256x4x2k", "base", "full"),
    ("256x4x2k", "sft", "bfloat16"),
    ("256x4x2k", "ppo", "head"),
}  # cases at one shape only
AFTERWARDS = ("report card", "held out")  # phases after training; not measured


class Measured(Exception):  # noqa: N818 - not an error: the stage has trained, later phases are not measured
    """Stop a stage after its peak is read."""


def prepare(shape: str, folder: Path) -> None:
    """Write a policy and a reward model of ``shape``, the same with a single layer, and rows to train on."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer, config = described(shape)
    one_layer = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for name, sizes in {"policy": {}, "tiny": one_layer | {"num_key_value_heads": 2, "head_dim": 8}}.items():
        torch.manual_seed(0)
        made = type(config)(**config.to_dict() | sizes)
        if shape == "stories15M" and not sizes:
            model = AutoModelForCausalLM.from_pretrained(source(shape), dtype=torch.float32)
        else:
            model = AutoModelForCausalLM.from_config(made, dtype=torch.float32)
        model.resize_token_embeddings(len(tokenizer)) if len(tokenizer) > made.vocab_size else None
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        config_of = AutoConfig.from_pretrained(folder / name, num_labels=1)
        reward = AutoModelForSequenceClassification.from_pretrained(
            folder / name, config=config_of, dtype=torch.float32
        )
        reward.save_pretrained(folder / f"{name}-reward")
        tokenizer.save_pretrained(folder / f"{name}-reward")
    adapters(folder)
    write_rows(folder, SIZES[shape])


def adapters(folder: Path) -> None:
    """Write the same reward models as adapters on the policies, so that PPO with LoRA shares one base model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    for name in ("policy", "tiny"):
        options = {"r": 16, "target_modules": "all-linear", "task_type": "SEQ_CLS", "modules_to_save": ["score"]}
        reward = AutoModelForSequenceClassification.from_pretrained(folder / name, num_labels=1)
        adapted = get_peft_model(reward, LoraConfig(**options))
        adapted.peft_config["default"].base_model_name_or_path = str(folder / name)
        adapted.save_pretrained(folder / f"{name}-adapter", save_embedding_layers=False)
        AutoTokenizer.from_pretrained(folder / name).save_pretrained(folder / f"{name}-adapter")


def source(shape: str) -> Path:
    names = {"stories15M": "stories15M", "SmolLM2-135M": "SmolLM2-135M-Instruct"}
    return Path(os.environ["RLHF_TEST_MODELS"]) / names[shape]


def described(shape: str) -> tuple[Any, Any]:
    """Return the tokenizer, with a padding token, and the configuration."""
    from transformers import AutoConfig, LlamaConfig

    from rlhf.data import load, templates
    from rlhf.modeling import loading
    from rlhf.modeling.from_scratch import new_tokenizer
    from rlhf.runs.parents import Parent

    settings = composed(["stage=sft"])
    if shape not in MADE:
        tokenizer = loading.load_tokenizer(Parent("policy", str(source(shape)), None), settings.model)
        return tokenizer, AutoConfig.from_pretrained(source(shape))
    texts = load(settings.data, "text", "train", 0, tell=False)["text"]
    hidden, inner, layers, heads, vocabulary = MADE[shape]
    tokenizer = new_tokenizer(texts, vocabulary, templates.chat_template("almanac"))
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": heads}
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return tokenizer, LlamaConfig(vocab_size=max(len(tokenizer), vocabulary), **sizes, **ids)


def write_rows(folder: Path, sizes: dict[str, int]) -> None:
    """Write rows of equal length: three-digit numbers, which all these tokenizers split alike."""

    def words(count: int, first: int) -> str:
        return " ".join(str(100 + (first + 7 * i) % 900) for i in range(count // 4))

    rows = []
    for i in range(80):
        chosen, rejected = words(sizes["response"], 3 * i), words(sizes["response"], 5 * i + 1)
        rows.append({"prompt": words(sizes["prompt"], i), "chosen": chosen, "rejected": rejected})
    texts = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    for name, lines in {"pairs": rows, "demonstrations": texts}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def composed(overrides: list[str]) -> Any:
    from hydra import compose, initialize_config_dir

    from rlhf.cli.main import register, settings_of
    from rlhf.storage.paths import bundled

    register()
    with initialize_config_dir(config_dir=str(bundled("conf")), version_base="1.3"):
        return settings_of(compose(config_name="config", overrides=overrides))


def overrides(stage: str, way: str, folder: Path, model: str, sizes: dict[str, int]) -> list[str]:
    """Return the overrides that run a stage on ``model`` for a few steps."""
    rows = "demonstrations" if stage == "sft" else "pairs"
    dtype = "bfloat16" if way == "bfloat16" else "float32"
    given = [
        f"stage={stage}", "experiment=none", "name=planned", "model=local", f"model.path={folder / model}",
        f"checkpoints={folder / model}-runs", "hardware=cpu", f"adapter={WAYS[way]}", "data=local",
        f"data.path={folder / rows}.jsonl", "data.holdout=0.1", f"stage.policy={folder / model}",
        "stage.sample_prompts=0", f"model.dtype={dtype}",
    ]  # fmt: skip
    if stage == "base":  # texts of the package, cut into rows of equal length
        given = [one for one in given if not one.startswith(("data.path", "data=", "experiment"))]
        given += ["data=almanac", "experiment=none", f"stage.block_length={sizes['prompt'] + sizes['response']}"]
    if stage == "ppo":
        reward = f"{model}-adapter" if way == "LoRA" else f"{model}-reward"
        more = {"reward": folder / reward, "updates": 2, "epochs": 1, "batch_size": 2 * sizes["rows"]}
        more |= {"micro_batch_size": sizes["rows"], "max_prompt_length": sizes["prompt"]}
        more |= {"critic_kind": "value_head"} if way == "head" else {}
        more |= {"max_response_length": sizes["response"], "missing_eos": "keep", "normalize_scores": "false"}
        return [*given, *(f"stage.{key}={value}" for key, value in more.items())]
    rows_of = ("per_device_train_batch_size", "per_device_eval_batch_size")
    trainer = {"max_steps": 3, **dict.fromkeys(rows_of, sizes["rows"])}
    return [*given, *(f"stage.trainer.{key}={value}" for key, value in trainer.items())]


def measure(shape: str, stage: str, way: str, folder: Path) -> dict[str, Any]:
    """Run a stage in this process; return its plan and its peak memory at the end of training."""
    import torch

    from rlhf.hardware import memory
    from rlhf.stages import execute
    from rlhf.training import loop

    found = planned(shape, stage, way, folder)
    sizes, train, meters = SIZES[shape], loop.train, []

    def train_and_read(*arguments: Any, **options: Any) -> Any:
        train(*arguments, **options)
        raise Measured(meters[0].read().peak)

    def read_instead(title: str, plan: Any, measured: Any) -> Any:
        raise Measured(measured.peak)

    loop.train, memory.compare = train_and_read, read_instead
    for model in ("tiny", "policy"):
        meters[:] = [memory.Meter(torch.device("cpu"))]
        one = composed(overrides(stage, way, folder, model, sizes))
        try:
            execute(one, Path(one.checkpoints) / "planned" / stage)
        except Measured as measured:
            [peak] = measured.args
    case = {"shape": shape, "stage": stage, "way": way, "date": date.today().isoformat()}
    return case | {"peak": peak} | found


def planned(shape: str, stage: str, way: str, folder: Path) -> dict[str, Any]:
    """Return the plan of a case and its highest phase up to the end of training."""
    from rlhf.planning.estimate import look_ahead, record

    plan = composed(["stage=plan", f"stage.stages=[{stage}]"]).stage
    found = record(look_ahead(composed(overrides(stage, way, folder, "policy", SIZES[shape])), plan))
    phases = {name: one for name, one in found["memory"]["phases"].items() if name not in AFTERWARDS}
    highest = max(phases, key=lambda name: phases[name]["total"])
    return {"planned": phases[highest]["total"], "phase": highest, "plan": found}


def timed(stage: str, folder: Path) -> dict[str, Any]:
    """Train in this process; return the predicted and the measured CPU seconds of training."""
    from rlhf.planning.estimate import look_ahead
    from rlhf.planning.probe import probe
    from rlhf.planning.throughput import seconds
    from rlhf.ppo import PPOTrainer
    from rlhf.stages import execute
    from rlhf.training import loop

    plan = composed(["stage=plan"]).stage
    given = overrides(stage, "full", folder, "policy", SIZES[TIMED_SHAPE])
    if stage == "base":
        given = ["stage=base", f"checkpoints={folder}/embedded", "hardware=cpu", "stage.sample_prompts=0"]
    longer = "stage.updates=6" if stage == "ppo" else "stage.trainer.max_steps=60"
    settings = composed([*given, longer])
    outlook = look_ahead(settings, plan)
    predicted = seconds(outlook, probe(outlook, plan.probe_seconds, time.process_time))
    ppo_trains = PPOTrainer.train

    def train_and_time(trainer: Any, *arguments: Any, **options: Any) -> Any:
        start = time.process_time()
        ppo_trains(trainer, *arguments, **options) if stage == "ppo" else trainer.train()
        raise Measured(time.process_time() - start)

    loop.train, PPOTrainer.train = train_and_time, train_and_time
    try:
        execute(settings, Path(settings.checkpoints) / "timed" / stage)
    except Measured as measured:
        [real] = measured.args
    return {"stage": stage, "predicted": predicted, "real": real, "steps": outlook.work.steps}


def cases(shape: str, stages: Sequence[str], ways: Sequence[str]) -> list[tuple[str, str]]:
    """Return the stages and ways that are measured at ``shape``."""
    both = [(stage, way) for stage in stages for way in ways]
    return [(a, b) for a, b in both if (a != "base" and b in ("full", "LoRA")) or (shape, a, b) in BESIDES]


def table(rows: list[dict[str, Any]]) -> list[str]:
    heading = ["shape", "stage", "way", "peak (MiB)", "planned (MiB)", "error", "peak phase"]
    lines = []
    for row in rows:
        peak, planned = row["peak"], row["planned"]
        sizes = [f"{peak / 2**20:.0f}", f"{planned / 2**20:.0f}", f"{planned / peak - 1:+.0%}"]
        lines.append([row["shape"], row["stage"], row["way"], *sizes, row["phase"]])
    return list(markdown.table(heading, lines, str))


def times(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        off = row["predicted"] / row["real"] - 1
        lines.append([row["stage"], row["steps"], f"{row['predicted']:.1f}", f"{row['real']:.1f}", f"{off:+.0%}"])
    return list(markdown.table(["stage", "steps", "predicted (CPU seconds)", "measured", "error"], lines, str))


def show(rows: list[dict[str, Any]], clocked: list[dict[str, Any]]) -> None:
    print("\n".join([*table(rows), "", *times(clocked), ""]))
    off = [abs(row["planned"] / row["peak"] - 1) for row in rows]
    print(f"within {TOLERANCE:.0%}: {sum(one <= TOLERANCE for one in off)} of {len(off)}; largest error {max(off):.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--show", action="store_true", help="print the stored results and run nothing")
    parser.add_argument("--untimed", action="store_true", help="skip the timed runs, which need an idle machine")
    parser.add_argument(
        "--again", action="store_true", help="plan the stored cases again after a change of formulas; measure nothing"
    )
    for name in ("--folder", "--result", "--timed"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.show:
        return show(stored("rows"), stored("times"))
    if arguments.folder:
        folder = Path(arguments.folder)
        found = (
            timed(arguments.timed, folder)
            if arguments.timed
            else measure(arguments.shapes[0], arguments.stages[0], arguments.ways[0], folder)
        )
        Path(arguments.result).write_text(json.dumps(found))
        return None
    if "RLHF_TEST_MODELS" not in os.environ:
        parser.error("RLHF_TEST_MODELS must name a folder with stories15M and SmolLM2-135M-Instruct")
    rows, clocked = [], []
    for shape in arguments.shapes:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            prepare(shape, folder)
            for stage, way in cases(shape, arguments.stages, arguments.ways):
                if arguments.again:
                    rows += [row | planned(shape, stage, way, folder) for row in of_case(shape, stage, way)]
                    continue
                rows.append(apart(folder, ALLOCATOR, "--shapes", shape, "--stages", stage, "--ways", way))
                print(table(rows[-1:])[-1], flush=True)
            if shape == TIMED_SHAPE and not (arguments.untimed or arguments.again):
                clocked = [apart(folder, {}, "--timed", stage) for stage in TIMED]
    rows, clocked = beside(rows), clocked or stored("times")
    show(rows, clocked)
    record(RESULT, {"tolerance": TOLERANCE, "sizes": SIZES, "rows": rows, "times": clocked})
    publish(rows, clocked)
    return None


def publish(rows: list[dict[str, Any]], clocked: list[dict[str, Any]]) -> None:
    """Write both tables into docs/planning.md."""
    place(PAGE, PLACE, [*table(rows), *(["", *times(clocked)] if clocked else [])])


def of_case(shape: str, stage: str, way: str) -> list[dict[str, Any]]:
    return [row for row in stored("rows") if (row["shape"], row["stage"], row["way"]) == (shape, stage, way)]


def beside(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``rows`` and the stored results of all other cases, in order."""
    found = {(row["shape"], row["stage"], row["way"]): row for row in [*stored("rows"), *rows]}
    return [found[key] for key in ((a, b, c) for a in SIZES for b in STAGES for c in WAYS) if key in found]


def stored(name: str) -> list[dict[str, Any]]:
    return json.loads(RESULT.read_text()).get(name, []) if RESULT.exists() else []


def apart(folder: Path, environment: dict[str, str], *case: str) -> dict[str, Any]:
    """Run ``measure`` or ``timed`` in a separate process."""
    result = folder / "result.json"
    command = [sys.executable, "-m", "benchmarks.plan_memory", *case]
    log = (folder / "log").open("w")
    done = subprocess.run(
        [*command, "--folder", str(folder), "--result", str(result)],
        env=os.environ | environment | {"RLHF_CACHE": str(folder / "cache")},
        stdout=log,
        stderr=log,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(case)} failed:\n" + (folder / "log").read_text()[-3000:])
    return json.loads(result.read_text())


if __name__ == "__main__":
    main()
