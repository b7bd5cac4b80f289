"""What ``adapter`` asks for: LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685), on a base in four bits or not."""

from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from transformers import PreTrainedModel

from rlhf.config import Adapter, AdapterKind
from rlhf.config.library_errors import blame
from rlhf.console import console
from rlhf.errors import ConfigError, ModelError
from rlhf.modeling.vocabulary import is_tied, name_of, new_rows

ALL = "all-linear"  # peft's name for every linear layer but the head


def lora(adapter: Adapter, task: TaskType, model: PreTrainedModel) -> LoraConfig | None:
    """peft's configuration for ``adapter`` on ``model``; None where ``adapter`` is none.

    A reward model's head is trained whole and saved with the adapter.

    Raises:
        ConfigError: ``adapter.target_modules`` names an embedding that is the output head, too.
    """
    if adapter.kind is AdapterKind.none:
        return None
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        task_type=task,
        modules_to_save=["score"] if task is TaskType.SEQ_CLS else None,
    )
    embedding = name_of(model, model.get_input_embeddings())
    if is_tied(model) and adapter.target_modules != ALL and check_target_module_exists(config, embedding):
        raise ConfigError(
            f"adapter.target_modules={adapter.target_modules} names {embedding}, which is the output head, too, and "
            "merging would change both: leave it out"
        )
    if count := new_rows(model):
        told = f"the tokenizer has {count} tokens more than the model, and an adapter does not train their rows"
        console.print(f"{told}: adapter=none does", highlight=False, soft_wrap=True)
    return config


def adapt(model: PreTrainedModel, adapter: Adapter, task: TaskType) -> PreTrainedModel | PeftModel:
    """``model`` with a new adapter on top; the model itself where ``adapter`` is none.

    Raises:
        ConfigError: no module of the model is one that ``adapter.target_modules`` names, or one must not be.
    """
    config = lora(adapter, task, model)
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
