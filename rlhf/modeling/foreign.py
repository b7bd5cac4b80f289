"""Models from elsewhere: what is wrong with a folder is said in one sentence, and before anything long is done."""

import errno
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.quantizers import AutoHfQuantizer

from rlhf.config import Settings, TrainedStage
from rlhf.config.library_errors import first_sentence
from rlhf.errors import ConfigError, ModelError, RlhfError
from rlhf.runs.parents import Parent

INDEX = "model.safetensors.index.json"
POSITIONS = ("wpe", "embed_positions", "position_embeddings", "positions_embed")  # layers of learned positions


@contextmanager
def reading(parent: Parent) -> Iterator[None]:
    """Tell whatever a library says about the files of ``parent`` as one sentence. It may be any exception.

    Raises:
        ModelError: a library cannot read them.
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
            f"{parent.role}={parent.path} cannot be loaded ({kind}{first_sentence(error)}): give a run, a model folder "
            "with safetensors, or a Hub id that you can reach and may read"
        ) from error


def check(parent: Parent, config: PretrainedConfig) -> None:
    """Look at the weights of ``parent``, a whole model, without reading them: files are whole and fit ``config``.

    What is on the Hub, or in one GGUF file, is looked at when it is loaded.

    Raises:
        ModelError: a file is missing or cut short, a weight has another shape than ``config`` gives it, or it is
            quantised by a package that is not installed.
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
                f"{expected[name]}: give the config.json that belongs to these weights"
            )


def stored(folder: Path) -> dict[str, list[int]]:
    """Name -> shape of the weights in ``folder``, from the heads of its files, which safetensors finds whole or not."""
    shapes = {}
    for file in files(folder):
        with safe_open(file, framework="pt") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return shapes


def weights(folder: Path, names: Collection[str]) -> dict[str, torch.Tensor]:
    """Those of ``names`` that are in the files of ``folder``, in the type that they were saved in."""
    found = {}
    for file in files(folder):
        with safe_open(file, framework="pt") as tensors:
            found |= {name: tensors.get_tensor(name) for name in tensors.keys() if name in names}  # noqa: SIM118
    return found


def files(folder: Path) -> list[Path]:
    """Those that a model's weights are in."""
    whole = folder / "model.safetensors"
    if whole.is_file() or not (folder / INDEX).is_file():
        return [whole] if whole.is_file() else []
    names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{INDEX} names {name}, which is not there")
    return [folder / name for name in names]


def outline(config: PretrainedConfig) -> PreTrainedModel:
    """A model of this configuration without weights: a language model where there is one, else a classifier."""
    causal = type(config) in AutoModelForCausalLM._model_mapping
    kind = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    with init_empty_weights():
        return kind.from_config(config, attn_implementation=None)


def can_score(config: PretrainedConfig) -> None:
    """
    Raises:
        ModelError: transformers has no classifier of this architecture.
    """
    known = type(config) in AutoModelForSequenceClassification._model_mapping
    if not known and "AutoModelForSequenceClassification" not in (getattr(config, "auto_map", None) or {}):
        raise ModelError(
            f"transformers has no classifier of the architecture {config.model_type}, so it cannot be a reward model, "
            "nor a critic of its own: start from another model, or give stage=ppo stage.critic_kind=value_head"
        )


def complete(parent: Parent, model: PreTrainedModel, found: dict[str, Any]) -> None:
    """Refuse a model some of whose weights were not in its files, or not in its configuration.

    A head and what lies before it may be new to a classifier; a language model has all its weights.

    Raises:
        ModelError: transformers has drawn weights at random, or dropped layers.
    """
    prefix = f"{model.base_model_prefix}."
    language = model.get_output_embeddings() is not None
    missing = [n for n in found["missing_keys"] if language or (n.startswith(prefix) and ".pooler." not in n)]
    beyond = [name for name in found["unexpected_keys"] if name.startswith(prefix)]
    for names, told in ((missing, "its files lack"), (beyond, "config.json has no place for")):
        if names:
            others = f" and {len(names) - 1} other weights" if len(names) > 1 else ""
            what = f"{parent.role}={parent.path} is not whole, {told} {min(names)}{others}"
            raise ModelError(f"{what}: give the model as it was published")


def positions(model: nn.Module) -> int | None:
    """How many tokens a model with learned positions can read; None where positions are computed."""
    for name, module in getattr(model, "view", model).named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITIONS:
            first = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from there
            config = getattr(getattr(model, "view", model), "config", None)
            most = getattr(config, "max_position_embeddings", module.num_embeddings)
            return min(most, module.num_embeddings) - first
    return None


def fits(parent: Parent, config: PretrainedConfig, settings: Settings) -> None:
    """Refuse lengths that the positions of a policy do not suffice for, which would end a run in its middle.

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
    """Setting and value -> how many tokens of a row it allows a stage's policy to read and write; None: any number."""
    stage, found = settings.stage, {}
    if "max_length" in getattr(stage, "trainer", {}):
        found[f"stage.trainer.max_length={stage.trainer['max_length']}"] = stage.trainer["max_length"]
    if hasattr(stage, "block_length"):
        found[f"stage.block_length={stage.block_length}"] = stage.block_length
    measured = stage.measured and settings.eval_set.prompts
    for prefix, limit in {"stage": stage, "eval_set": settings.eval_set if measured else None}.items():
        if hasattr(limit, "max_prompt_length"):
            both = {name: getattr(limit, name) for name in ("max_prompt_length", "max_response_length")}
            found[" + ".join(f"{prefix}.{name}={value}" for name, value in both.items())] = sum(both.values())
    if isinstance(stage, TrainedStage):  # behind one token of a prompt at least
        found[f"stage.sample_length={stage.sample_length}"] = stage.sample_length + 1
    return found
