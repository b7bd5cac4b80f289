"""The common work of both sides of dpo, reward and growth: TRL's trainers on the same weights and rows.

Does not import rlhf. A specification holds the shape or the ``weights`` of a model, the lengths of ``prompt`` and
``response`` in tokens (drawn within 10 % of them), the number of ``prompts`` per batch and of ``responses`` per prompt,
which are compared in all pairs.
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
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

Spec = dict[str, Any]
SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
LONGEST = 4096


class ReadyDPOTrainer(DPOTrainer):
    """A DPOTrainer for rows of token ids."""

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
    return auto.from_config(config, attn_implementation="sdpa")


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<eos>": 1} | {f"w{number}": number for number in range(2, size)}
    made = Tokenizer(WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def rows(spec: Spec, vocabulary: int, batches: int, whole: bool) -> list[dict[str, list[int]]]:
    """Return pairs of token ids; with ``whole``, each response includes the prompt."""
    draw = random.Random(0)

    def tokens(length: int) -> list[int]:
        count = length + draw.randint(-length // 10, length // 10)
        return [draw.randrange(2, vocabulary) for _ in range(count)]

    found = []
    for _ in range(batches * spec["prompts"]):
        prompt, responses = tokens(spec["prompt"]), [tokens(spec["response"]) for _ in range(spec["responses"])]
        for chosen, rejected in itertools.combinations(responses, 2):
            found.append(
                {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}
                if whole
                else {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
            )
    return found


def pairs_of(spec: Spec) -> int:
    """Return the number of pairs per batch."""
    return spec["prompts"] * spec["responses"] * (spec["responses"] - 1) // 2


def trainer(spec: Spec, kind: str, batches: int) -> Any:
    """Return TRL's trainer: "dpo" with a second model as the reference, or "reward"."""
    auto = AutoModelForCausalLM if kind == "dpo" else AutoModelForSequenceClassification
    policy = model(spec, auto)
    made = Dataset.from_list(rows(spec, policy.config.vocab_size, batches, kind == "reward"))
    arguments = {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": pairs_of(spec), "max_length": None,
        "learning_rate": 1e-5, "use_cpu": not torch.cuda.is_available(), "bf16": False, "report_to": "none",
        "activation_checkpointing": spec.get("checkpointing", False), "disable_tqdm": True, "save_strategy": "no",
        "dataloader_pin_memory": False, "train_sampling_strategy": "sequential",
    }  # fmt: skip
    parts = {"model": policy, "train_dataset": made, "processing_class": tokenizer(policy.config.vocab_size)}
    if kind == "reward":
        return RewardTrainer(args=RewardConfig(**arguments), **parts)
    return ReadyDPOTrainer(args=DPOConfig(**arguments), ref_model=model(spec, auto), **parts)


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
        done = {"samples": pairs_of(spec), "tokens": tokens, "padded": padded}
        return done | {"loss": loss.item(), "parameters": counted}

    return step
