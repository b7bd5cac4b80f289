"""Checks of models that this package did not train, made before a long computation, with one-line errors."""

import errno
import json
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.quantizers import AutoHfQuantizer

from rlhf.config import Settings, TrainedStage
from rlhf.config.library_errors import first_sentence
from rlhf.console import plural
from rlhf.errors import ConfigError, ModelError, RlhfError
from rlhf.runs.parents import Parent

INDEX = "model.safetensors.index.json"
POSITIONS = ("wpe", "embed_positions", "position_embeddings", "positions_embed")  # layers of learned positions


@contextmanager
def reading(parent: Parent) -> Generator[None]:
    """Turn any exception of a library that reads ``parent`` into a one-line error.

    Raises:
        ModelError: the files cannot be read.
    """
    try:
        yield
    except (RlhfError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        kind = "" if isinstance(error, OSError | ValueError | ImportError) else f"{type(error).__name__}: "
        raise ModelError(
            f"{parent.role}={parent.path} cannot be loaded ({kind}{first_sentence(error)}): use a run, a model folder "
            "with safetensors, or a Hub id that you can access"
        ) from error


def check(parent: Parent, config: PretrainedConfig) -> None:
    """Check that the weight files of ``parent`` are complete and fit ``config``, without reading the weights.

    Models on the Hub and GGUF files are checked when they are loaded.

    Raises:
        ModelError: a file is missing or truncated, the shape of a weight differs from ``config``, or the model is
            quantized by a package that is not installed.
    """
    folder = Path(parent.model)
    if parent.revision is not None or not folder.is_dir():
        return
    with reading(parent):
        quantization = getattr(config, "quantization_config", None)
        if quantization is not None:
            quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=True)
            quantizer.validate_environment(device_map=None, weights_only=True)
        shapes = stored(folder)
        model = None if quantization is not None or getattr(config, "auto_map", None) else outline(config)
    expected = {} if model is None else {name: list(value.shape) for name, value in model.state_dict().items()}
    for name, shape in shapes.items():
        if expected.get(name, shape) != shape:
            raise ModelError(
                f"{parent.role}={parent.path} cannot be loaded: {name} has the shape {shape}, and by config.json it is "
                f"{expected[name]}: use the config.json that belongs to these weights"
            )


def stored(folder: Path) -> dict[str, list[int]]:
    """Return name -> shape of the weights in ``folder``, from the headers of its files; truncated files raise."""
    shapes = {}
    for file in files(folder):
        with safe_open(file, framework="pt") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return shapes


def weights(folder: Path, names: Collection[str]) -> dict[str, torch.Tensor]:
    """Return the weights ``names`` that are in the files of ``folder``, in their saved dtype."""
    found = {}
    for file in files(folder):
        with safe_open(file, framework="pt") as tensors:
            found |= {name: tensors.get_tensor(name) for name in tensors.keys() if name in names}  # noqa: SIM118
    return found


def files(folder: Path) -> list[Path]:
    """Return the files in ``folder`` that hold weights.

    Raises:
        FileNotFoundError: a file of the index is missing.
    """
    whole = folder / "model.safetensors"
    if whole.is_file() or not (folder / INDEX).is_file():
        return [whole] if whole.is_file() else []
    names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{INDEX} names {name}, which is missing")
    return [folder / name for name in names]


def outline(config: PretrainedConfig) -> PreTrainedModel:
    """Return a model of this configuration without weights: a language model if possible, else a classifier."""
    causal = type(config) in AutoModelForCausalLM._model_mapping
    kind = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    with without_storage():
        return kind.from_config(config, attn_implementation=None)


@contextmanager
def without_storage() -> Generator[None]:
    """Create models without memory and initial values within the context; tied weights stay separate."""
    with init_empty_weights(), no_init_weights():
        yield


def can_score(config: PretrainedConfig) -> None:
    """Check that the architecture can be a reward model.

    Raises:
        ModelError: transformers has no classifier of this architecture.
    """
    known = type(config) in AutoModelForSequenceClassification._model_mapping
    if not known and "AutoModelForSequenceClassification" not in (getattr(config, "auto_map", None) or {}):
        raise ModelError(
            f"transformers has no classifier of the architecture {config.model_type}, so it cannot be a reward model, "
            "nor a separate critic: start from another model, or set stage.critic_kind=value_head for stage=ppo"
        )


def complete(parent: Parent, model: PreTrainedModel, found: dict[str, Any]) -> None:
    """Check that a loaded model has all weights of its files and no others.

    A classifier may have a new head and pooler; a language model must have all its weights.

    Raises:
        ModelError: transformers has initialized weights at random, or dropped layers.
    """
    prefix = f"{model.base_model_prefix}."
    language = model.get_output_embeddings() is not None
    missing = [n for n in found["missing_keys"] if language or (n.startswith(prefix) and ".pooler." not in n)]
    beyond = [name for name in found["unexpected_keys"] if name.startswith(prefix)]
    for names, problem in ((missing, "its files lack"), (beyond, "config.json has no place for")):
        if names:
            others = f" and {plural(len(names) - 1, 'other weight')}" if len(names) > 1 else ""
            what = f"{parent.role}={parent.path} is not whole, {problem} {min(names)}{others}"
            raise ModelError(f"{what}: use the published model, unchanged")


def positions(model: nn.Module) -> int | None:
    """Return how many tokens a model with learned positions can read, or None if positions are computed."""
    for name, module in getattr(model, "view", model).named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITIONS:
            first = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from there
            config = getattr(getattr(model, "view", model), "config", None)
            most = getattr(config, "max_position_embeddings", module.num_embeddings)
            return min(most, module.num_embeddings) - first
    return None


def fits(parent: Parent, config: PretrainedConfig, settings: Settings) -> None:
    """Check that the policy can read rows as long as the settings allow, which would otherwise fail during the run.

    Raises:
        ConfigError: the model has learned positions, and a setting allows rows of more tokens.
    """
    most = None if getattr(config, "auto_map", None) else positions(outline(config))
    if most is None:
        return
    if more := [setting for setting, tokens in asked(settings).items() if tokens is None or tokens > most]:
        raise ConfigError(
            f"{' and '.join(more)} is more than the {most} positions of {parent.role}={parent.path}, which cannot read "
            "longer rows: lower it"
        )


def asked(settings: Settings) -> dict[str, int | None]:
    """Return setting and value -> the tokens per row that it allows the policy to read and write; None: no limit."""
    stage: Any = settings.stage
    found: dict[str, int | None] = {}
    if "max_length" in getattr(stage, "trainer", {}):
        found[f"stage.trainer.max_length={stage.trainer['max_length']}"] = stage.trainer["max_length"]
    if hasattr(stage, "block_length"):
        found[f"stage.block_length={stage.block_length}"] = stage.block_length
    if getattr(stage, "ptx_coef", 0):
        found[f"stage.ptx_block_length={stage.ptx_block_length}"] = stage.ptx_block_length
    measured = stage.measured and settings.eval_set.prompts
    for prefix, limit in {"stage": stage, "eval_set": settings.eval_set if measured else None}.items():
        if hasattr(limit, "max_prompt_length"):
            both = {name: getattr(limit, name) for name in ("max_prompt_length", "max_response_length")}
            found[" + ".join(f"{prefix}.{name}={value}" for name, value in both.items())] = sum(both.values())
    if isinstance(stage, TrainedStage):  # after at least one token of a prompt
        found[f"stage.sample_length={stage.sample_length}"] = stage.sample_length + 1
    return found
