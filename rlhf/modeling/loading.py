"""Policies, reward models and tokenizers from a run, a local folder, a GGUF file or the Hub.

The run of an adapter holds only the adapter. It is merged into the weights of its parent on loading, so that a stage
always starts from a plain model and attaches its own adapter: the reference is then that model with the adapter
switched off, and an adapter cannot be attached to a wrong base.
"""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftConfig, PeftModel
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from rlhf.config import Model, Settings
from rlhf.data import templates
from rlhf.errors import LineageError, ModelError
from rlhf.hardware import ranks
from rlhf.modeling import decoding, foreign
from rlhf.modeling.bases import ADAPTER, adapter_folder, ancestry, base_of, fetched, merged
from rlhf.modeling.vocabulary import match, set_padding, untie
from rlhf.runs.parents import Parent
from rlhf.storage.digests import tokenizer_record

Head = Literal["drawn", "zero", "refused"]  # how a classifier's head is made if its parent has none


def load_tokenizer(parent: Parent, model: Model) -> PreTrainedTokenizerBase:
    """Load the tokenizer of ``parent``, with a padding token and a chat template.

    String prompts become turns if the model or the settings have a chat template; see `_set_template`.

    Raises:
        ModelError: it cannot be found or read.
        LineageError: it differs from the one in the parent's run.json.
    """
    folder = adapter_folder(parent)
    if folder is not None and not any(folder.glob("tokenizer*")):  # as peft saves it
        return load_tokenizer(base_of(parent, folder), model)
    tokenizer = _pretrained(AutoTokenizer, parent, model)
    tokenizer.chat_template = templates.named(tokenizer.chat_template, f"{parent.role}={parent.path}")
    if tokenizer.eos_token_id is None and tokenizer.cls_token_id is None:  # encoders do not generate
        raise ModelError(
            f"{parent.role}={parent.path} has a tokenizer without an end of sequence, so responses would never end: "
            "name one as eos_token in its tokenizer_config.json"
        )
    if parent.manifest is None:
        set_padding(tokenizer, config(parent, model).get_text_config().vocab_size)
    elif recorded := parent.manifest.get("tokenizer"):
        found = tokenizer_record(tokenizer)
        for field, value in recorded.items():
            if found.get(field) != value:
                raise LineageError(
                    f"the tokenizer in {parent.model} has another {field} than {parent.path}/run.json says: "
                    f"run stage={parent.stage} again with overwrite=true"
                )
    _set_template(tokenizer, parent, model)
    tokenizer.padding_side = "right"
    # Long rows are cut and counted before they reach the model, so transformers' warning would be wrong.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def _set_template(tokenizer: PreTrainedTokenizerBase, parent: Parent, model: Model) -> None:
    """Set ``model.chat_template`` on a tokenizer without one; a file also replaces the template of a foreign model.

    ``plain`` is a stand-in without special tokens. It renders conversations, and strings only if the run was trained
    with it.
    """
    given = model.chat_template
    replaces = parent.manifest is None and given is not None and Path(given).is_file()
    if given is not None and (tokenizer.chat_template is None or replaces):
        tokenizer.chat_template = templates.chat_template(given)
        tokenizer.strings_are_turns = given != templates.STAND_IN
    else:
        untaught = parent.stage == "base" and tokenizer.chat_template == templates.chat_template(templates.STAND_IN)
        tokenizer.strings_are_turns = not untaught


def is_plain(parent: Parent, model: Model) -> bool:
    """Return whether the model was not trained on chat turns: a run of stage=base, or a model without a template."""
    if parent.manifest is not None:
        return parent.stage == "base"
    return load_tokenizer(parent, replace(model, chat_template=None)).chat_template is None


def check(parent: Parent, settings: Settings) -> None:
    """Check before a long computation that a parent can be loaded and has enough positions.

    Raises:
        ModelError: files are missing, truncated or do not fit each other.
        ConfigError: a setting allows rows that are longer than the model can read.
        LineageError: the base of an adapter has changed or is missing.
    """
    if not parent.is_local:  # on the Hub, or a run without weights
        return
    root = ancestry(parent)[0]
    architecture = config(root, settings.model)
    foreign.check(root, architecture)
    if settings.stage.name == "reward":
        foreign.can_score(architecture)
    if parent.role in ("policy", "teacher") or parent.role in getattr(settings.stage, "models", ()):
        foreign.fits(parent, architecture, settings)


def config(parent: Parent, model: Model) -> PretrainedConfig:
    """Return the architecture of ``parent``; an adapter has that of its base.

    Raises:
        ModelError: it cannot be found or read.
    """
    found = _pretrained(AutoConfig, ancestry(parent)[0], model)
    # Use model.attention or the default. The file's value is ignored, since it may name code to download and run.
    found._attn_implementation = None
    return found


def load_policy(parent: Parent, model: Model, tokenizer: PreTrainedTokenizerBase, **options: Any) -> PreTrainedModel:
    """Load the language model of ``parent`` as a plain model, adapters merged, in ``model.dtype``.

    Raises:
        ModelError: it cannot be found or read, or cannot decode with a cache.
    """
    policy, _ = _load(AutoModelForCausalLM, parent, model, options)
    decoding.check(policy)
    match(policy, tokenizer)
    return policy


def load_reward_model(
    parent: Parent, model: Model, tokenizer: PreTrainedTokenizerBase, *, new_head: Head = "drawn", **options: Any
) -> PreTrainedModel:
    """Load the backbone of ``parent`` with its own head of one output, or with a new head if it has none.

    A ``drawn`` head is from N(0, 1/(h+1)) with h the hidden size (Stiennon et al. 2020, appendix B.1,
    https://arxiv.org/abs/2009.01325), so that initial scores are small and of the same scale at every width. A ``zero``
    head is for a critic, whose initial values are then 0.

    Raises:
        ModelError: it cannot be found or read, or it has no head and a new one is ``refused``.
    """
    try:
        with _silent():  # a new head is intended; transformers would report missing weights
            reward, missing = _load(AutoModelForSequenceClassification, parent, model, options)
    except ModelError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ModelError(
            f"{parent.role}={parent.path} is a classifier with another number of outputs than the one of a reward "
            "model: use a run of stage=reward, or a classifier that was trained with num_labels=1"
        ) from error
    if new_head == "refused" and any(not name.startswith(f"{reward.base_model_prefix}.") for name in missing):
        raise ModelError(
            f"{parent.role}={parent.path} has no head that scores, only a new one of random weights could be put on "
            "it: use a run of stage=reward, or a classifier with one output"
        )
    if "score.weight" in missing and new_head == "zero":
        torch.nn.init.zeros_(reward.get_parameter("score.weight"))
    elif "score.weight" in missing:
        torch.nn.init.normal_(reward.get_parameter("score.weight"), std=1 / math.sqrt(reward.config.hidden_size + 1))
    match(reward, tokenizer)
    return reward


def load_adapted(parents: Sequence[Parent], model: Model, tokenizer: PreTrainedTokenizerBase) -> PeftModel | None:
    """Load reward runs that are adapters on one base: the base once, with adapters "0", "1", ...

    ``set_adapter`` selects the active adapter and head. None if a parent is not an adapter or the bases differ.
    """
    if any(parent.manifest is None or not (Path(parent.model) / ADAPTER).is_file() for parent in parents):
        return None
    folders = [Path(parent.model) for parent in parents]
    bases = [base_of(parent, folder) for parent, folder in zip(parents, folders, strict=True)]
    if len({base.digest for base in bases}) > 1:
        return None
    return load_members(bases[0], folders, model, tokenizer)


def load_members(base: Parent, folders: Sequence[Path], model: Model, tokenizer: PreTrainedTokenizerBase) -> PeftModel:
    """Load the reward model adapters in ``folders`` on one ``base``, as adapters "0", "1", ..."""
    model_with_adapters: Any = load_reward_model(base, model, tokenizer)
    for number, folder in enumerate(folders):
        config = PeftConfig.from_pretrained(str(folder))
        config.task_type = None
        if number == 0:
            model_with_adapters = PeftModel.from_pretrained(
                model_with_adapters, folder, adapter_name="0", config=config
            )
        else:
            model_with_adapters.load_adapter(folder, str(number), is_trainable=False)
    return model_with_adapters.requires_grad_(False)


def save(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, parent: Parent | None) -> None:
    """Write weights as safetensors, and the tokenizer; for a model with an adapter on ``parent``, only the adapter.

    All processes of a run call this: shards are gathered, and the first process writes.
    """
    whole = gathered(model)
    base: Any = parent  # an adapter has one
    if ranks.is_main():
        if hasattr(model, "peft_config"):
            own = model.active_adapter  # a shared base also has the adapters of other roles
            model.peft_config[own].base_model_name_or_path = base.model
            # Embeddings are not trained; rows of new tokens are drawn again from the same seeds.
            model.save_pretrained(folder, save_embedding_layers=False, selected_adapters=[own], state_dict=whole)
        else:
            model.save_pretrained(folder, state_dict=whole)
        tokenizer.save_pretrained(folder)
    ranks.wait()


def gathered(model: torch.nn.Module) -> dict[str, Any] | None:
    """Return the full weights of a sharded model, in the first process; None if it is not sharded."""
    parameters = list(model.parameters())
    if any(isinstance(one, DTensor) for one in parameters):  # FSDP2
        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if any(hasattr(one, "ds_id") for one in parameters):  # DeepSpeed, ZeRO stage 3
        import deepspeed  # ty: ignore[import-not-found]  # an extra

        with deepspeed.zero.GatheredParameters(parameters):
            return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    return None


def _load(kind: Any, parent: Parent, model: Model, options: dict[str, Any]) -> tuple[PreTrainedModel, set[str]]:
    """Load ``parent`` with its adapters merged; return it and the names of weights that are new."""
    root, *adapters = ancestry(parent)
    architecture = config(root, model)
    if kind is AutoModelForSequenceClassification:
        foreign.can_score(architecture)
        architecture.num_labels = 1
    options = options | {"attn_implementation": model.attention, "dtype": getattr(torch, model.dtype.value)}
    options["config"] = architecture
    loaded, found = _pretrained(kind, root, model, output_loading_info=True, **options)
    if root.model.endswith(".gguf"):
        # The weights are dequantized on loading; the leftover config would prevent saving or loading them again.
        loaded.config.__dict__.pop("quantization_config", None)
        loaded.hf_quantizer = None
    foreign.complete(root, loaded, found)
    untie(loaded)
    missing = set(found["missing_keys"])
    if kind is AutoModelForSequenceClassification:
        exact_head(loaded, root, missing)
    for adapter in adapters:
        loaded, held = merged(loaded, adapter)
        missing -= held
    return loaded, missing


def exact_head(model: PreTrainedModel, parent: Parent, missing: set[str]) -> None:
    """Keep the head of a classifier in float32, with the values that ``parent`` has on disk.

    In half precision, steps at a learning rate of 1e-5 are lost to rounding.
    """
    names = [name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")]
    for name, head in model.named_children():
        if name != model.base_model_prefix:
            head.float().register_forward_pre_hook(_as_its_weights)
    if model.dtype is not torch.float32 and not parent.model.endswith(".gguf"):
        folder, parameters = fetched(parent, "config.json").parent, dict(model.named_parameters())
        with torch.no_grad():
            for name, value in foreign.weights(folder, [name for name in names if name not in missing]).items():
                parameters[name].copy_(value)


def _as_its_weights(head: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    weight = next(head.parameters(), None)
    if weight is None:
        return arguments
    return tuple(one.to(weight.dtype) if torch.is_tensor(one) else one for one in arguments)


@contextmanager
def _silent() -> Generator[None]:
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _pretrained(kind: Any, parent: Parent, model: Model, **options: Any) -> Any:
    """Call ``kind.from_pretrained``; any failure becomes a one-line error."""
    path = Path(parent.model)
    name: str = parent.model
    if path.suffix == ".gguf":
        name, options = str(path.parent), options | {"gguf_file": path.name}
    with foreign.reading(parent):
        return kind.from_pretrained(
            name, revision=parent.revision or "main", trust_remote_code=model.trust_remote_code, **options
        )
