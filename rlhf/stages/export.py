"""Write a run for other programs, read the export back, and compare it with the run.

    python -m rlhf stage=export                                                  # merged weights for transformers
    python -m rlhf stage=export stage.format=gguf stage.quantization=q8_0        # one file for llama.cpp
    python -m rlhf stage=export stage.format=ollama stage.run=checkpoints/almanac/sft
    python -m rlhf stage=export stage.format=gguf stage.weights=adapter          # a LoRA adapter for the base's file

An export that is another model than the run is refused. certificate.json and README.md have the comparison.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlhf.config import ExportFormat, ExportStage, Model, Quantization, Settings, Weights
from rlhf.console import console
from rlhf.data import load, templates
from rlhf.data.render import as_turns, encode, fitting_ids, question
from rlhf.errors import ConfigError
from rlhf.modeling import loading
from rlhf.modeling.bases import ancestry, base_of
from rlhf.modeling.generation import sampling_mode
from rlhf.publishing import (
    certificate,
    gguf_adapter,
    gguf_layout,
    gguf_reader,
    gguf_sentencepiece,
    gguf_tokenizer,
    gguf_weights,
    modelfile,
)
from rlhf.publishing.bundle import save_tokenizer
from rlhf.publishing.certificate import Agreement
from rlhf.rewards import RewardModel
from rlhf.runs.parents import Parent
from rlhf.runs.run import Run
from rlhf.storage.digests import file_digest, weights_digest
from rlhf.storage.json_files import write_json

CARD = """\
# {title}

Exported from `{run}` by `python -m rlhf stage=export`; {precision}. {use}

It was read back and compared with the run on its greedy answers to {prompts} prompts (`certificate.json`):

{table}

KL(run || export) is in nats per token of the answers. An export with a mean above {limit:g} is refused.
"""
USE = {
    ExportFormat.merged: "transformers, vLLM and TGI load the folder `model`.",
    ExportFormat.gguf: "`llama-cli -m {file}` talks to it.",
    ExportFormat.ollama: "`ollama create {title} -f Modelfile && ollama run {title}` talks to it.",
}

ADAPTER = (
    "`llama-cli -m BASE.gguf --lora {file}` talks to it, with the base that "
    "`python -m rlhf stage=export stage.run={base} stage.format=gguf` writes."
)


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Write the export with its certificate and card, and return the agreement with the run."""
    stage, parent = settings.stage_as(ExportStage), run["run"]
    model = parent.as_trained(settings.model)
    tokenizer = loading.load_tokenizer(parent, model)
    prompts = load(settings.data, "prompts", "validation", settings.seed)
    prompts = prompts.shuffle(seed=settings.seed).select(range(min(stage.prompts, len(prompts))))
    run.record_data("prompts", "validation", prompts)
    if parent.stage == "reward":
        return reward_model(settings, run, model, tokenizer, prompts["prompt"])
    split = (
        None if stage.format is ExportFormat.merged else check(settings, parent, model, tokenizer, prompts["prompt"])
    )
    folder = gguf_adapter.check(named(parent), parent) if stage.weights is Weights.adapter else None
    policy = loading.load_policy(parent, model, tokenizer).eval()
    title, base, whole = titled(parent), None, None
    if folder is not None and split is not None:
        base = base_of(parent, folder)
        file = run.work / f"{title}-lora-{stage.quantization.value}.gguf"
        whole = write_adapter(loading.load_policy(base, model, tokenizer), tokenizer, split, file, folder, title, run)
    elif split is None:
        file = run.model
        write_folder(policy, tokenizer, file)
    else:
        file = run.work / f"{title}-{stage.quantization.value}.gguf"
        write_gguf(policy, tokenizer, split, file, title, stage.quantization)
        if stage.format is ExportFormat.ollama:
            text = modelfile.modelfile(named(parent), file.name, tokenizer, gguf_weights.context_length(policy.config))
            (run.work / "Modelfile").write_text(text, encoding="utf-8")
    precision = "as trained" if split is None else stage.quantization.value
    if split is not None:
        run.record_output(file)
    theirs = read_back(policy, tokenizer, file, model, base)
    found = compare(policy, theirs, tokenizer, parent, prompts["prompt"], file, whole, stage)
    limit = certificate.limit(precision, policy.config.model_type)
    certificate.require_same(named(parent), found, precision, limit)
    for line in certificate.table(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    record(run, parent, file, precision, found, limit, stage)
    first = next(iter(found.values()))
    return {"kl_per_token": max(one.kl_mean for one in found.values()), "same_answer": first.same_answer}


def named(parent: Parent) -> str:
    """Return the setting that names the exported run, for errors."""
    return f"stage.run={parent.path}"


def titled(parent: Parent) -> str:
    """Return a name of the export: those of the chain and the stage, or the last part of the path."""
    manifest = parent.manifest
    return Path(parent.path).stem if manifest is None else f"{manifest['name']}-{manifest['stage']}".replace("/", "-")


def check(settings: Settings, parent: Parent, model: Model, tokenizer: Any, prompts: list) -> str:
    """Check that a GGUF file can be written, before the weights are loaded; return how its tokenizer splits text.

    Raises:
        ConfigError: the gguf package is not installed.
        ModelError: the architecture, the tokenizer or the chat template is not supported.
    """
    gguf_layout.library()
    gguf_weights.check(named(parent), loading.config(ancestry(parent)[0], model))
    split = gguf_tokenizer.check(named(parent), tokenizer)
    if split == gguf_sentencepiece.NAME:
        texts = [turn["content"] for prompt in prompts for turn in as_turns(prompt)]
        gguf_sentencepiece.check_texts(named(parent), gguf_tokenizer.portable(tokenizer), texts)
    if tokenizer.chat_template is not None:
        gguf_tokenizer.check_talks(named(parent), tokenizer, [as_turns(prompt) for prompt in prompts])
        if settings.stage_as(ExportStage).format is ExportFormat.ollama:
            modelfile.turns(named(parent), tokenizer)
    return split


def write_folder(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write whole weights as safetensors, and the tokenizer."""
    model.config.use_cache = True  # training disabled it; generation needs it
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def write_gguf(policy: Any, tokenizer: Any, split: str, file: Path, title: str, quantization: Quantization) -> None:
    """Write a GGUF file."""
    writer = gguf_weights.new_writer(file, policy.config, title, quantization)
    gguf_tokenizer.add_tokenizer(writer, tokenizer, policy.get_input_embeddings().num_embeddings, split)
    tell_other(gguf_weights.add_weights(writer, policy, quantization))
    gguf_weights.finish(writer)


def write_adapter(base: Any, tokenizer: Any, split: str, file: Path, folder: Path, title: str, run: Run) -> Path | None:
    """Write an adapter as a GGUF file; return that of its base, for llama.cpp if it is installed."""
    whole = None
    if find_spec("llama_cpp") is not None:
        run.scratch.mkdir(exist_ok=True)
        whole = run.scratch / "base.gguf"
        write_gguf(base, tokenizer, split, whole, "base", Quantization.f32)
    tell_other(
        gguf_adapter.write(file, base, folder, title, Quantization(run.manifest["settings"]["stage"]["quantization"]))
    )
    return whole


def tell_other(names: list[str]) -> None:
    """Print the number of matrices whose rows do not divide into blocks."""
    if names:
        cause = f"{len(names)} matrices are f16, since their rows are not multiples of {gguf_weights.BLOCK} weights"
        console.print(f"export: {cause}", markup=False, highlight=False, soft_wrap=True)


def compare(
    policy: Any,
    theirs: tuple[str, Any],
    tokenizer: Any,
    parent: Parent,
    prompts: list,
    file: Path,
    whole: Path | None,
    stage: ExportStage,
) -> dict[str, Agreement]:
    """Return program -> agreement of the export with the run, for that of ``theirs`` and, if installed, llama.cpp.

    ``whole`` is the GGUF file of the base, if ``file`` is an adapter.
    """
    talks = tokenizer.chat_template is not None and parent.stage != "base"
    tokenizer.strings_are_turns = talks
    prompts = [as_turns(prompt) if talks else question(prompt) for prompt in prompts]
    rows, _ = fitting_ids(tokenizer, prompts, stage.max_prompt_length)
    ends, pad, length = set(templates.end_ids(policy, tokenizer)), tokenizer.pad_token_id, stage.max_response_length
    with sampling_mode(policy):
        answered = certificate.answered(policy, rows, ends, pad, length)
        name, model = theirs
        found = {name: certificate.by_transformers(policy, model, answered, ends, pad, length)}
        if file.suffix == ".gguf":
            texts = [gguf_tokenizer.written(tokenizer, prompt) for prompt in prompts]
            tokens = list(zip(texts, encode(tokenizer, prompts), strict=True))
            files = (file, None) if whole is None else (whole, file)
            if (other := certificate.by_llama_cpp(policy, files, answered, tokens, talks, ends, length)) is not None:
                found["llama.cpp"] = other
            else:
                missing = "llama.cpp has not read the file, since llama-cpp-python is not installed"
                console.print(f"export: {missing}", markup=False, highlight=False, soft_wrap=True)
    return found


def read_back(policy: Any, tokenizer: Any, file: Path, model: Model, base: Parent | None) -> tuple[str, Any]:
    """Return the program that reads the export, and the model that it reads; an adapter is added to its base here."""
    if base is not None:
        return "transformers", gguf_adapter.apply(file, loading.load_policy(base, model, tokenizer).eval())
    if file.suffix == ".gguf" and gguf_reader.needed(policy.config.model_type):
        return "gguf", gguf_reader.gpt_neox(file).to(policy.dtype).eval()
    theirs = loading.load_policy(Parent("export", str(file), None), model, tokenizer).eval()
    if gguf_weights.rotary(policy.config).get("rope_type") == "llama3" and file.suffix == ".gguf":
        theirs.model.rotary_emb = policy.model.rotary_emb  # transformers reads no rope_freqs.weight; llama.cpp does
    return "transformers", theirs


def reward_model(settings: Settings, run: Run, model: Model, tokenizer: Any, prompts: list) -> dict[str, float]:
    """Write a reward model with its head, and compare its scores of the prompts.

    Raises:
        ConfigError: the format has no place for the head.
    """
    stage, parent = settings.stage_as(ExportStage), run["run"]
    if stage.format is not ExportFormat.merged:
        raise ConfigError(
            f"stage.format={stage.format.value} has no place for the head of a reward model, and {parent.path} is one: "
            "set stage.format=merged"
        )
    ours = loading.load_reward_model(parent, model, tokenizer, new_head="refused")
    for name, key, usual in (("score_mean", "scores/mean", 0.0), ("score_std", "scores/std", 1.0)):
        setattr(ours.config, name, (parent.manifest or {"metrics": {}})["metrics"].get(key, usual))
    write_folder(ours, tokenizer, run.model)
    theirs = loading.load_reward_model(Parent("export", str(run.model), None), model, tokenizer, new_head="refused")
    texts = [question(prompt) for prompt in prompts]  # any text has a score
    found = [RewardModel(one, tokenizer, max_length=None)(prompts, texts) for one in (ours, theirs)]
    difference = certificate.scores_agree(named(parent), *found)
    numbers = {"prompts": len(prompts), "largest_difference": difference}
    write_json(run.work / "certificate.json", origin(parent) | {"format": stage.format, "scores": numbers})
    return {"score_difference": difference}


def origin(parent: Parent) -> dict[str, Any]:
    """Return the entry of a certificate that identifies the run."""
    return {"run": parent.path, "stage": parent.stage, "weights": parent.digest}


def record(
    run: Run,
    parent: Parent,
    file: Path,
    precision: str,
    found: dict[str, Agreement],
    limit: float,
    stage: ExportStage,
) -> None:
    """Write certificate.json and README.md."""
    title = titled(parent)
    numbers = {reader: one._asdict() for reader, one in found.items()}
    exported = {"file": file.name, "sha256": file_digest(file) if file.is_file() else weights_digest(file)}
    form = {"format": stage.format, "precision": precision, "prompts": stage.prompts, "limit": limit}
    write_json(run.work / "certificate.json", origin(parent) | exported | form | {"readers": numbers})
    use = USE[stage.format].format(file=file.name, title=title)
    if stage.weights is Weights.adapter:
        use = ADAPTER.format(file=file.name, base=base_of(parent, Path(parent.model)).path)
    text = CARD.format(
        title=title, run=parent.path, precision=precision, use=use, prompts=stage.prompts, limit=limit,
        table="\n".join(certificate.table(found)),
    )  # fmt: skip
    (run.work / "README.md").write_text(text, encoding="utf-8")
