"""Memory and time of PPO: four full models, LoRA on four models, LoRA on one base model in four roles.

    RLHF_TEST_MODELS=... python -m benchmarks.ppo_memory            # both models, three processes for each way
    python -m benchmarks.ppo_memory --show                          # print the last results

Each measurement runs in a separate process; medians over the processes are reported. The baseline is the memory after
the imports and after sampling from and training a one-layer model, because the first call imports much. The code of
stage=ppo makes and trains the models: stories15M with its weights, and SmolLM2-135M with random weights, which need as
much memory. Writes benchmarks/ppo_memory.json.

The allocator of every process returns freed memory at once (MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ at
64 KiB, one arena). Otherwise the resident size would include memory that glibc keeps for reuse. This costs time in
every process.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
WAYS = {
    "full": ("adapter=none",),
    "four-model LoRA": ("adapter=lora", "stage.share_base_model=false"),
    "one-base LoRA": ("adapter=lora", "stage.share_base_model=true"),
}
# Prompts and responses have a fixed number of tokens, so that every way does the same work.
MODELS = {
    "stories15M": ("stories15M", {"batch_size": 8, "micro_batch_size": 4, "length": 32}),
    "SmolLM2-135M": ("SmolLM2-135M-Instruct", {"batch_size": 4, "micro_batch_size": 2, "length": 16}),
}
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
MOST = 0.4  # share of the memory of four full models


def composed(folder: Path, way: str, sizes: dict[str, int], updates: int):
    """Return the settings of stage=ppo for the policy and the reward model in ``folder``."""
    from hydra import compose, initialize_config_dir

    from rlhf.cli.main import register, settings_of
    from rlhf.storage.paths import bundled

    reward = "reward" if way == "full" else "reward-adapter"
    overrides = [
        "stage=ppo", "experiment=none", "model=local", f"model.path={folder}/policy", "model.dtype=float32",
        "hardware=cpu", f"stage.policy={folder}/policy", f"stage.reward={folder}/{reward}", "stage.gold=null",
        f"stage.updates={updates}", f"stage.batch_size={sizes['batch_size']}", "stage.epochs=1",
        f"stage.micro_batch_size={sizes['micro_batch_size']}", f"stage.max_prompt_length={sizes['length']}",
        f"stage.max_response_length={sizes['length']}", "stage.missing_eos=keep", *WAYS[way],
    ]  # fmt: skip
    register()
    with initialize_config_dir(config_dir=str(bundled("conf")), version_base="1.3"):
        return settings_of(compose(config_name="config", overrides=overrides))


def prepare(model: str, folder: Path) -> None:
    """Write a policy, a reward model, and the same reward model as an adapter on the policy."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    source = Path(os.environ["RLHF_TEST_MODELS"]) / MODELS[model][0]
    tokenizer = AutoTokenizer.from_pretrained(source)
    torch.manual_seed(0)
    if model == "stories15M":
        policy = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    else:
        policy = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source), dtype=torch.float32)
    policy.save_pretrained(folder / "policy")
    options = {"num_labels": 1, "dtype": torch.float32}
    reward = AutoModelForSequenceClassification.from_pretrained(folder / "policy", **options)
    reward.save_pretrained(folder / "reward")
    lora = LoraConfig(r=16, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    adapted = get_peft_model(reward, lora)
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "policy")
    adapted.save_pretrained(folder / "reward-adapter", save_embedding_layers=False)
    for name in ("policy", "reward", "reward-adapter"):
        tokenizer.save_pretrained(folder / name)


def measure(model: str, way: str, folder: Path, updates: int) -> dict:
    """Run PPO in this process; return the peak, the plan and the seconds of each update."""
    import torch

    from rlhf.hardware import memory
    from rlhf.modeling import loading
    from rlhf.planning import report
    from rlhf.planning.roles import plan
    from rlhf.ppo import PPOTrainer
    from rlhf.ppo.model_roles import assign
    from rlhf.rewards.build import Builder
    from rlhf.runs.parents import Parent

    settings = composed(folder, way, MODELS[model][1], updates)
    stage = settings.stage
    parents = {role: Parent(role, getattr(stage, role), None) for role in ("policy", "reward")}
    tokenizer = loading.load_tokenizer(parents["policy"], settings.model)
    roles = assign(settings, parents, tokenizer)
    planned = plan(settings, roles)
    warm_up()
    meter = memory.Meter(torch.device("cpu"))
    reward, normal = Builder(settings, parents, tokenizer, roles.reward_model).reward()
    prompts = [f"{number} " * stage.max_prompt_length for number in range(64)]  # longer than max_prompt_length
    trainer = PPOTrainer(
        roles.policy, roles.reference, roles.critic, tokenizer, reward, prompts, stage, seed=0, cpu=True,
        score_mean=normal.mean, score_std=normal.std,
    )  # fmt: skip
    seconds = []
    for update in range(updates):
        start = time.perf_counter()
        trainer.step(trainer.batch(update))
        seconds.append(round(time.perf_counter() - start, 3))
    report.show_ledger(f"{model}, {way}", planned, meter.device)
    found = memory.compare(f"{model}, {way}", planned.peak, meter.read())
    return planned.record() | found | {"seconds": seconds}


def warm_up() -> None:
    """Sample from and train a model of a few thousand parameters, so that all imports are done."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tiny = LlamaForCausalLM(LlamaConfig(vocab_size=64, bos_token_id=None, eos_token_id=1, pad_token_id=0, **sizes))
    tiny = get_peft_model(tiny, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = torch.arange(2, 18).view(2, 8)
    tiny.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=True)
    tiny(input_ids=ids).logits.log_softmax(-1).sum().backward()
    torch.optim.AdamW([parameter for parameter in tiny.parameters() if parameter.requires_grad]).step()


def repeat(model: str, way: str, folder: Path, updates: int, repeats: int) -> dict:
    """Return medians over processes; the first update of each is a warm-up and is not timed."""
    runs = []
    for number in range(repeats):
        result = folder / f"{way}-{number}.json"
        command = [sys.executable, "-m", "benchmarks.ppo_memory", "--models", model, "--updates", str(updates)]
        subprocess.run(
            [*command, "--way", way, "--folder", str(folder), "--result", str(result)],
            env=os.environ | ALLOCATOR,
            check=True,
        )
        runs.append(json.loads(result.read_text()))
    return {
        "model": model,
        "way": way,
        "peak": int(statistics.median(run["measured"]["peak"] for run in runs)),
        "planned": runs[0]["planned"],
        "seconds": statistics.median(second for run in runs for second in run["seconds"][1:]),
        "runs": runs,
    }


def table(rows: list[dict]) -> list[str]:
    """Return a Markdown table with a row per model and way; shares are relative to four full models."""
    heading = ["model", "way", "peak (MiB)", "of full", "planned (MiB)", "error", "seconds per update"]
    lines = []
    whole = {row["model"]: row["peak"] for row in rows if row["way"] == "full"}
    for row in rows:
        peak, planned = row["peak"], row["planned"]
        share = f"{peak / whole[row['model']]:.0%}" if row["model"] in whole else "–"
        sizes = [f"{peak / 2**20:.0f}", share, f"{planned / 2**20:.0f}", f"{planned / peak - 1:+.0%}"]
        lines.append([row["model"], row["way"], *sizes, f"{row['seconds']:.2f}"])
    return list(markdown.table(heading, lines, str))


def checks(rows: list[dict]) -> dict[str, bool]:
    peaks = {(row["model"], row["way"]): row["peak"] for row in rows}
    return {
        f"{model}: one base takes at most {MOST:.0%} of four full models": peaks[model, "one-base LoRA"]
        <= MOST * peaks[model, "full"]
        for model, way in peaks
        if way == "full" and (model, "one-base LoRA") in peaks
    }


def show(rows: list[dict]) -> None:
    print("\n".join(table(rows)))
    for name, holds in checks(rows).items():
        print(f"{name}: {'yes' if holds else 'no'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=3, help="processes for each way")
    parser.add_argument("--updates", type=int, default=3, help="updates in each process; the first is not timed")
    parser.add_argument("--show", action="store_true", help="print the stored results and run nothing")
    for name in ("--way", "--folder", "--result"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.updates < 2:
        parser.error("--updates must be at least 2: the first update is not timed")
    if arguments.show:
        return show(json.loads(RESULT.read_text())["rows"])
    if arguments.way:
        found = measure(arguments.models[0], arguments.way, Path(arguments.folder), arguments.updates)
        Path(arguments.result).write_text(json.dumps(found))
        return None
    if "RLHF_TEST_MODELS" not in os.environ:
        parser.error("RLHF_TEST_MODELS must name a folder with stories15M and SmolLM2-135M-Instruct")
    rows = []
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as place:
            prepare(model, Path(place))
            rows += [repeat(model, way, Path(place), arguments.updates, arguments.repeats) for way in WAYS]
    show(rows)
    machine = {
        "date": date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "python": platform.python_version(),
    }
    command = "python -m benchmarks.ppo_memory " + " ".join(sys.argv[1:])
    result = {"command": command.strip(), "machine": machine, "sizes": {model: MODELS[model][1] for model in MODELS}}
    RESULT.write_text(json.dumps(result | {"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
