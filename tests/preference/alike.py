"""TRL's trainers with and without shared prefixes, with the same weights and rows in the same order."""

import copy
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, TaskType
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

from rlhf.preference.head import FIELDS
from rlhf.preference.prefix_sharing import sharing

VOCABULARY = 40
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip


class ReadyDPOTrainer(DPOTrainer):
    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def tiny(kind: str = "llama", auto: Any = AutoModelForCausalLM, **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = SIZES | ({"num_labels": 1} if auto is AutoModelForSequenceClassification else {})
    model = auto.from_config(AutoConfig.for_model(kind, **sizes | options), attn_implementation="sdpa")
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "wte" not in name:
            torch.nn.init.normal_(parameter, std=0.2)  # far from a uniform distribution
    return model.eval()


def tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<eos>": 1} | {f"w{number}": number for number in range(2, VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="<eos>"
    )


def drawn(generator: torch.Generator, low: int, high: int) -> list[int]:
    count = int(torch.randint(low, high + 1, (), generator=generator))
    return torch.randint(2, VOCABULARY, (count,), generator=generator).tolist()


def pairs(count: int, whole: bool = False) -> Dataset:
    """Return rows of token ids; with ``whole`` in RewardTrainer's format, with the prompt in both responses."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(count):
        prompt = drawn(generator, 9, 20)
        chosen, rejected = drawn(generator, 1, 9), drawn(generator, 1, 9)
        rows.append(
            {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}
            if whole
            else {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        )
    return Dataset.from_list(rows)


def lora(task: TaskType) -> LoraConfig:
    return LoraConfig(r=4, lora_dropout=0.0, target_modules=["q_proj", "v_proj", "up_proj"], task_type=task)


def arguments(kind: type, steps: int, **options: Any) -> Any:
    given = {
        "per_device_train_batch_size": 3, "learning_rate": 1e-3, "max_length": None, "activation_checkpointing": False,
        "max_steps": steps, "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True,
        "save_strategy": "no", "output_dir": tempfile.mkdtemp(), "dataloader_pin_memory": False,
    }  # fmt: skip
    return kind(**given | options)


def dpo(
    steps: int,
    adapter: bool = False,
    own_reference: bool = True,
    architecture: dict[str, Any] | None = None,
    **options: Any,
) -> DPOTrainer:
    model = tiny(**architecture or {})
    return ReadyDPOTrainer(
        model=model,
        ref_model=None if adapter or not own_reference else copy.deepcopy(model),
        args=arguments(DPOConfig, steps, **options),
        train_dataset=pairs(12),
        eval_dataset=pairs(4),
        processing_class=tokenizer(),
        peft_config=lora(TaskType.CAUSAL_LM) if adapter else None,
    )


def reward(steps: int, adapter: bool = False, **options: Any) -> RewardTrainer:
    return RewardTrainer(
        model=tiny(auto=AutoModelForSequenceClassification),
        args=arguments(RewardConfig, steps, **options),
        train_dataset=pairs(12, whole=True),
        eval_dataset=pairs(4, whole=True),
        processing_class=tokenizer(),
        peft_config=lora(TaskType.SEQ_CLS) if adapter else None,
    )


def trained(make: Callable[..., Any], shared: bool, *given: Any, **options: Any) -> tuple[list[float], dict, Any]:
    """Return the losses of all steps, the evaluation metrics, and the first step's gradients by parameter."""
    trainer = make(*given, **options)
    losses, gradients = [], {}
    step = trainer.training_step

    def noted(model: Any, *rest: Any) -> torch.Tensor:
        loss = step(model, *rest)
        losses.append(loss.item())
        if len(losses) == 1:
            gradients.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        return loss

    trainer.training_step = noted
    fields = (*FIELDS, "log_sum_sq_probs") if options.get("use_weighting") else FIELDS
    models = trainer.model, getattr(trainer, "ref_model", None)
    with sharing(*models, fields=fields) if shared else nullcontext():
        trainer.train()
        metrics = trainer.evaluate()
    times = ("runtime", "per_second", "num_tokens", "epoch")
    return losses, {key: value for key, value in metrics.items() if not any(part in key for part in times)}, gradients
