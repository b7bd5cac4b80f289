"""What ``adapter`` asks for: LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685), on a base in four bits or not."""

from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel

from rlhf.config import Adapter, AdapterKind
from rlhf.config.library_errors import blame
from rlhf.errors import ModelError


def lora(adapter: Adapter, task: TaskType) -> LoraConfig | None:
    """peft's configuration for ``adapter``; a reward model's head is trained whole and saved with the adapter."""
    if adapter.kind is AdapterKind.none:
        return None
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        task_type=task,
        modules_to_save=["score"] if task is TaskType.SEQ_CLS else None,
    )


def adapt(model: PreTrainedModel, adapter: Adapter, task: TaskType) -> PreTrainedModel | PeftModel:
    """``model`` with a new adapter on top; the model itself where ``adapter`` is none.

    Raises:
        ConfigError: no module of the model is one that ``adapter.target_modules`` names.
    """
    config = lora(adapter, task)
    if config is None:
        return model
    with blame(f"adapter.target_modules={adapter.target_modules}"):
        return get_peft_model(model, config)


def quantization(adapter: Adapter) -> dict[str, Any]:
    """Loading options for ``adapter=qlora`` (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), else none.

    Raises:
        ModelError: there is no GPU, or no bitsandbytes.
    """
    if adapter.kind is not AdapterKind.qlora:
        return {}
    if not torch.cuda.is_available():
        # On some processors bitsandbytes 0.50 packs the weights of a model in eval mode, and its gradients are wrong.
        raise ModelError("adapter=qlora needs a GPU and torch sees none: use adapter=lora")
    try:
        import bitsandbytes  # noqa: F401
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
