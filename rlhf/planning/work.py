"""How much a stage has to do: rows, tokens, and the passes over them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf import models
from rlhf.config import CriticKind, PPOStage, Settings
from rlhf.config.plan import KINDS, PlanStage
from rlhf.data import load
from rlhf.data.render import encode, prompt_ids, text_ids
from rlhf.data.sources import source_of
from rlhf.data.tokens import RESPONSES, shared
from rlhf.parents import hub_parent
from rlhf.planning.shapes import at_hand
from rlhf.scratch import new_tokenizer

COUNTED = 5000  # rows that are tokenised; the lengths of more are drawn from theirs


@dataclass(frozen=True)
class Rows:
    """Lengths in tokens of what a stage trains on: of each row its prompt, then each response; of text the whole."""

    count: int
    lengths: list[tuple[int, ...]]
    source: str

    def sequences(self, longest: int | None) -> list[list[int]]:
        """Of each row the lengths of what a model reads: prompt and response, cut at ``longest``."""
        cut = longest or 10**9
        return [[min(prompt + one, cut) for one in responses or (0,)] for prompt, *responses in self.lengths]


def rows_of(settings: Settings, plan: PlanStage) -> Rows:
    """Counted where data and a tokenizer are at hand, else as ``stage.rows`` states.

    Raises:
        RlhfError: the data, or a tokenizer to count them with, are neither at hand nor stated.
    """
    kind = KINDS[settings.stage.name]
    source = getattr(settings.data, kind)
    stated = [plan.rows[path] for path in source.paths if path in plan.rows]
    if settings.data.path is None and stated:
        [one, *_] = stated
        count = one["rows"] if source.limit is None else min(one["rows"], source.limit)
        responses = {"preferences": 2, "demonstrations": 1}.get(kind, 0)
        return Rows(count, [(one["prompt"], *[one["response"]] * responses)], "stated in stage.rows")
    return counted(settings, kind)


def counted(settings: Settings, kind: str) -> Rows:
    """The rows themselves, by the tokenizer of the policy, or one trained as stage=base will train it."""
    tokenizer = tokenizer_of(settings) if source_of(settings.data, kind).paths else None  # loading says what is missing
    rows = load(settings.data, kind, "train", settings.seed, tell=False)
    count = len(rows)
    if count > COUNTED:
        rows = rows.select(sorted(random.Random(settings.seed).sample(range(count), COUNTED)))
    if kind == "text":
        return Rows(count, [(len(ids) + 1,) for ids in text_ids(tokenizer, rows["text"])], "counted")
    if kind == "prompts":
        most = settings.stage.max_prompt_length
        return Rows(count, [(len(prompt_ids(tokenizer, one, most)),) for one in rows["prompt"]], "counted")
    prompts = encode(tokenizer, rows["prompt"])
    wholes = [encode(tokenizer, rows["prompt"], rows[name]) for name in RESPONSES[kind]]
    lengths = []
    for prompt, *whole in zip(prompts, *wholes, strict=True):
        start = shared(prompt, *whole)
        lengths.append((start, *(len(ids) - start for ids in whole)))
    return Rows(count, lengths, "counted")


def tokenizer_of(settings: Settings) -> Any:
    """That of the policy where it is at hand, else of the model that the chain begins with.

    Raises:
        ModelError: it cannot be read.
    """
    policy = getattr(settings.stage, "policy", None)
    for path in (policy, settings.model.path):
        if path is not None and (parent := at_hand(path)) is not None:
            return models.load_tokenizer(parent, settings.model)
    if settings.model.path is not None:
        id, _, revision = settings.model.path.partition("@")
        return models.load_tokenizer(hub_parent("policy", id, revision or settings.model.revision), settings.model)
    template = models.chat_template(settings.model.chat_template)
    texts = load(settings.data, "text", "train", settings.seed, tell=False)["text"]
    return new_tokenizer(texts, settings.model.architecture["vocabulary"], template)


@dataclass(frozen=True)
class Work:
    """Of the whole stage, over all devices.

    ``steps`` are the optimiser's. Tokens of the data, and with padding to the longest row of a micro-batch: trained
    (forward and backward), read (forward alone), and drawn one at a time, ``rows`` responses at once.
    """

    steps: int
    tokens: int
    trained: int
    read: int = 0
    drawn: int = 0
    rows: int = 1
    at_once: int = 1  # rows of a micro-batch on one device
    longest: int = 0  # tokens of the longest row, as it is trained on
    typical: int = 1  # tokens of a padded row, on average
    source: str = ""


def trained(settings: Settings, rows: Rows, devices: int) -> Work:
    """Of base, sft, reward and dpo: ``stage.trainer`` says how many rows make a step."""
    trainer, name = settings.stage.trainer, settings.stage.name
    batch = trainer["per_device_train_batch_size"]
    if name == "base":
        length = settings.stage.block_length
        total = rows.count * sum(one for (one,) in rows.lengths) // len(rows.lengths)
        sequences, count = [[length]], max(total // length, 1)
    else:
        sequences, count = rows.sequences(trainer.get("max_length")), rows.count
    step = batch * trainer["gradient_accumulation_steps"] * devices
    steps = int(trainer["max_steps"])
    if steps <= 0:
        steps = max(int(-(-count // step) * trainer["num_train_epochs"]), 1)
    seen = min(steps * step, int(count * trainer["num_train_epochs"])) if trainer["max_steps"] <= 0 else steps * step
    each = len(sequences[0])
    mean = sum(map(sum, sequences)) / len(sequences)
    grouped = trainer.get("train_sampling_strategy") == "group_by_length"
    padded = padding(sequences, batch, settings.seed, grouped) if len(sequences) > 1 else mean
    reads = padded if name == "dpo" else 0
    return Work(
        steps=steps, tokens=int(seen * mean), trained=int(seen * padded), read=int(seen * reads),
        at_once=batch * each, longest=longest(settings, sequences, rows), typical=max(round(padded / each), 1),
        source=rows.source,
    )  # fmt: skip


def longest(settings: Settings, sequences: Sequence[Sequence[int]], rows: Rows) -> int:
    """The row that memory must suffice for: one of those that are at hand, else one of the length that is allowed."""
    limit = settings.stage.trainer.get("max_length") if settings.stage.name != "base" else None
    found = max(map(max, sequences))
    return found if rows.source == "counted" or limit is None else limit


def padding(sequences: Sequence[Sequence[int]], batch: int, seed: int, grouped: bool) -> float:
    """Tokens of a row on average when ``batch`` rows are padded to the longest of them, in a random order."""
    order = list(sequences)
    random.Random(seed).shuffle(order)
    if grouped:
        order.sort(key=max)
    parts = [order[start : start + batch] for start in range(0, len(order), batch)]
    return sum(len(part) * len(part[0]) * max(map(max, part)) for part in parts) / len(order)


def rows_at_once(stage: PPOStage, rows: int, longest: int) -> int:
    """Of a micro-batch, bound by rows and by tokens where either is given."""
    tokens = getattr(stage, "micro_batch_tokens", None)
    least = [rows, stage.micro_batch_size or rows, max((tokens or rows * longest) // longest, 1)]
    return min(least)


def sampled(settings: Settings, rows: Rows, devices: int) -> Work:
    """Of PPO: every response as long as it may be, which is the most that there can be to do."""
    stage: PPOStage = settings.stage
    prompt = sum(min(one, stage.max_prompt_length) for one, *_ in rows.lengths) / len(rows.lengths)
    counts = rows.source == "counted"
    widest = max(min(one, stage.max_prompt_length) for one, *_ in rows.lengths) if counts else stage.max_prompt_length
    episodes, response = stage.updates * stage.batch_size, stage.max_response_length
    judges = len([role for role in stage.inputs() if role not in ("policy", "critic")])
    # Policy, reference and critic read each response once, and each reward model; both learners in every epoch. A
    # critic that is a head on the policy has no pass of its own.
    critics = 0 if stage.critic_kind is CriticKind.head else 1
    length = (widest if counts else prompt) + response
    local = -(-stage.batch_size // devices)
    return Work(
        steps=stage.updates * stage.epochs * stage.minibatches,
        tokens=int(episodes * (prompt + response)),
        trained=int(episodes * length * stage.epochs * (1 + critics)),
        read=int(episodes * length * (2 + critics + judges)),
        drawn=episodes * response,
        rows=local,
        at_once=rows_at_once(stage, -(-local // stage.minibatches), widest + response),
        longest=widest + response,
        typical=round(length),
        source=rows.source,
    )
