"""LoRA adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685), on a full-precision or a four-bit base."""

from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhf.config import Adapter, AdapterKind
from rlhf.config.library_errors import blame
from rlhf.console import console, plural
from rlhf.errors import ConfigError, ModelError
from rlhf.modeling.frozen_layers import layers_of
from rlhf.modeling.vocabulary import is_tied, name_of, new_rows

ALL = "all-linear"  # peft's name for all linear layers except the head


def lora(adapter: Adapter, task: TaskType, model: PreTrainedModel) -> LoraConfig | None:
    """Return peft's configuration for ``adapter`` on ``model``, or None if adapter=none.

    A reward model's head is trained in full and saved with the adapter.

    Raises:
        ConfigError: ``adapter.target_modules`` names an embedding that is tied to the output head.
    """
    if adapter.kind is AdapterKind.none:
        return None
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.target_modules if adapter.layers is None else upper(model, adapter),
        task_type=task,
        modules_to_save=["score"] if task is TaskType.SEQ_CLS else None,
    )
    embedding = name_of(model, model.get_input_embeddings())
    if is_tied(model) and adapter.target_modules != ALL and check_target_module_exists(config, embedding):
        raise ConfigError(
            f"adapter.target_modules={adapter.target_modules} names {embedding}, which is tied to the output head, and "
            "merging would change both: leave it out"
        )
    if count := new_rows(model):
        cause = f"the tokenizer has {plural(count, 'token')} more than the model, and an adapter trains none of them"
        console.print(f"{cause}: adapter=none does", highlight=False, soft_wrap=True)
    return config


def upper(model: PreTrainedModel, adapter: Adapter) -> list[str]:
    """Return the names of the modules that ``adapter.target_modules`` selects in the upper ``adapter.layers`` layers.

    Raises:
        ConfigError: the model has fewer layers, or they are not one list.
    """
    layers, count = layers_of(model), adapter.layers or 0
    if count > len(layers):
        raise ConfigError(f"adapter.layers={count} exceeds the {len(layers)} layers of the model: lower it")
    inside = {id(module) for layer in layers[len(layers) - count :] for module in layer.modules()}
    selected = LoraConfig(target_modules=adapter.target_modules)
    return [
        name
        for name, module in model.named_modules()
        if id(module) in inside
        and (
            isinstance(module, nn.Linear | Conv1D)
            if adapter.target_modules == ALL
            else check_target_module_exists(selected, name)
        )
    ]


def adapt(model: PreTrainedModel, adapter: Adapter, task: TaskType) -> PreTrainedModel | PeftModel:
    """Return ``model`` with a new adapter attached, or ``model`` if adapter=none.

    Raises:
        ConfigError: ``adapter.target_modules`` matches no module of the model, or one that cannot have an adapter.
    """
    config = lora(adapter, task, model)
    if config is None:
        return model
    with blame(f"adapter.target_modules={adapter.target_modules}"):
        return get_peft_model(model, config)


def quantization(adapter: Adapter) -> dict[str, Any]:
    """Return loading options for adapter=qlora (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), else {}.

    Raises:
        ModelError: torch finds no GPU, or bitsandbytes is not installed.
    """
    if adapter.kind is not AdapterKind.qlora:
        return {}
    if not torch.cuda.is_available():
        # On some CPUs bitsandbytes 0.50 packs the weights in eval mode, and gradients are wrong.
        raise ModelError("adapter=qlora needs a GPU and torch finds none: use adapter=lora")
    try:
        import bitsandbytes  # noqa: F401  # ty: ignore[import-not-found]  # an extra
    except ImportError:
        raise ModelError("adapter=qlora needs bitsandbytes: pip install 'rlhf[qlora]', or use adapter=lora") from None
    from transformers import BitsAndBytesConfig

    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": four_bit}
