"""The common work of both sides of dpo, kto, reward and growth: TRL's trainers on the same weights and rows.

Does not import rlhf. A specification holds the shape or the ``weights`` of a model, the lengths of ``prompt`` and
``response`` in tokens (drawn within 10 % of them), the number of ``prompts`` per batch and of ``responses`` per prompt,
which are compared in all pairs; for KTO, the first is desirable. ``attention`` is transformers' implementation, sdpa by
default; ``liger`` replaces norms, rotary embeddings and MLPs by Liger's kernels.
"""

import itertools
import random
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer

Spec = dict[str, Any]
SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
LONGEST = 4096


class ReadyDPOTrainer(DPOTrainer):
    """A DPOTrainer for rows of token ids."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class ReadyKTOTrainer(KTOTrainer):
    """A KTOTrainer for rows of token ids."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def model(spec: Spec, auto: Any) -> Any:
    """Return a model with the same weights at every call."""
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "eos_token_id": 1}
    if spec.get("weights"):
        options = special | ({"num_labels": 1} if auto is AutoModelForSequenceClassification else {})
        return auto.from_pretrained(spec["weights"], dtype=torch.float32, **options)
    shape = {name: spec[name] for name in SHAPE} | {"vocab_size": spec["vocabulary"], "tie_word_embeddings": True}
    config = LlamaConfig(**shape | special, num_labels=1, max_position_embeddings=LONGEST)
    with torch.device(spec.get("device", "cpu")):
        made = auto.from_config(config, attn_implementation=spec.get("attention", "sdpa"))
    if spec.get("liger"):
        from transformers.integrations.liger import apply_liger_kernel

        apply_liger_kernel(made, {"fused_linear_cross_entropy": False})  # TRL has a fused head
    return made


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<eos>": 1} | {f"w{number}": number for number in range(2, size)}
    made = Tokenizer(WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def rows(spec: Spec, vocabulary: int, batches: int, kind: str) -> list[dict[str, Any]]:
    """Return pairs of token ids; for "reward", each response includes the prompt; for "kto", single responses."""
    draw = random.Random(0)

    def tokens(length: int) -> list[int]:
        count = length + draw.randint(-length // 10, length // 10)
        return [draw.randrange(2, vocabulary) for _ in range(count)]

    found = []
    for _ in range(batches * spec["prompts"]):
        prompt, responses = tokens(spec["prompt"]), [tokens(spec["response"]) for _ in range(spec["responses"])]
        if kind == "kto":
            labels = (len(found) // len(responses) % 2 == 0, *[False] * (len(responses) - 1))
            named = {"prompt_ids": prompt}
            found += [named | {"completion_ids": one, "label": up} for one, up in zip(responses, labels, strict=True)]
            continue
        for chosen, rejected in itertools.combinations(responses, 2):
            found.append(
                {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}
                if kind == "reward"
                else {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
            )
    size, shift = rows_of(spec, kind), spec["responses"]
    for start in range(0, len(found) if kind == "kto" else 0, size):  # the response to another prompt of the batch
        batch = found[start : start + size]
        for row, other in zip(batch, batch[-shift:] + batch[:-shift], strict=True):
            row["KL_completion_ids"] = other["completion_ids"]
    return found


def rows_of(spec: Spec, kind: str) -> int:
    """Return the number of pairs, or of KTO's responses, per batch."""
    responses = spec["prompts"] * spec["responses"]
    return responses if kind == "kto" else responses * (spec["responses"] - 1) // 2


def trainer(spec: Spec, kind: str, batches: int) -> Any:
    """Return TRL's trainer: "dpo" or "kto" with a second model as the reference, or "reward"."""
    auto = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
    policy = model(spec, auto)
    made = Dataset.from_list(rows(spec, policy.config.vocab_size, batches, kind))
    arguments = {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": rows_of(spec, kind), "max_length": None,
        "learning_rate": 1e-5, "use_cpu": spec.get("device", "cpu") == "cpu", "report_to": "none",
        "bf16": spec.get("autocast", False),
        "activation_checkpointing": spec.get("checkpointing", False), "disable_tqdm": True, "save_strategy": "no",
        "dataloader_pin_memory": False, "train_sampling_strategy": "sequential",
    }  # fmt: skip
    parts = {"model": policy, "train_dataset": made, "processing_class": tokenizer(policy.config.vocab_size)}
    if kind == "reward":
        return RewardTrainer(args=RewardConfig(**arguments), **parts)
    kinds: tuple[Any, Any] = (KTOConfig, ReadyKTOTrainer) if kind == "kto" else (DPOConfig, ReadyDPOTrainer)
    return kinds[1](args=kinds[0](**arguments), ref_model=model(spec, auto), **parts)


def steps(trainer: Any, spec: Spec, batches: int) -> Callable[[int], dict[str, Any]]:
    """Return a function that makes an optimizer step on the next batch and returns the loss."""
    trainer.create_optimizer_and_scheduler(1000)
    trainer.current_gradient_accumulation_steps = 1
    found = list(itertools.islice(trainer.get_train_dataloader(), batches))
    parameters = list(trainer.model.parameters())
    table = trainer.model.get_input_embeddings().weight
    head = trainer.model.get_output_embeddings()
    tied = head is not None and head.weight is table
    counted = sum(parameter.numel() for parameter in parameters) - (0 if tied else table.numel())

    def step(number: int) -> dict[str, Any]:
        batch = found[number % batches]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = trainer.training_step(trainer.model, dict(batch))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        tokens, padded = int(batch["attention_mask"].sum()), batch["input_ids"].numel()
        done = {"samples": trainer.args.per_device_train_batch_size, "tokens": tokens, "padded": padded}
        return done | {"loss": loss.item(), "parameters": counted}

    return step
