"""How much a stage has to do: rows, tokens, and the passes over them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.config import AdapterKind, CriticKind, Dtype, PPOStage, Settings
from rlhf.config.plan import KINDS, PlanStage
from rlhf.config.rollout import Engine, OldLogprobs
from rlhf.data import load, templates
from rlhf.data.render import encode, shared, text_ids
from rlhf.data.sources import source_of
from rlhf.data.tokens import RESPONSES
from rlhf.modeling import loading
from rlhf.modeling.from_scratch import new_tokenizer
from rlhf.planning.shapes import at_hand
from rlhf.runs.parents import hub_parent

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
    templates.settle(tokenizer, rows["prompt"], settings.data.render)
    if kind == "prompts":
        lengths = map(len, encode(tokenizer, rows["prompt"][:]))
        kept = [one for one in lengths if one <= settings.stage.max_prompt_length]  # the others are left out
        return Rows(count, [(one,) for one in kept or [settings.stage.max_prompt_length]], "counted")
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
            return loading.load_tokenizer(parent, settings.model)
    if settings.model.path is not None:
        id, _, revision = settings.model.path.partition("@")
        return loading.load_tokenizer(hub_parent("policy", id, revision or settings.model.revision), settings.model)
    template = loading.chat_template(settings.model.chat_template)
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
    batch: int = 1  # of PPO, rows on one device
    at_once: int = 1  # rows of a micro-batch on one device
    longest: int = 0  # tokens of the longest row, as it is trained on
    typical: int = 1  # tokens of a padded row, on average
    passed: int = 0  # tokens of a micro-batch that go through the layers at once
    scored: int = 0  # those of them that something is read at
    seen: int = 0  # tokens that branches of a tree attend to, themselves included; 0 where rows share nothing
    source: str = ""


def trained(settings: Settings, rows: Rows, devices: int, *, shares: bool = False) -> Work:
    """Of base, sft, reward and dpo: ``stage.trainer`` says how many rows make a step.

    With ``shares`` a prompt is computed once for both responses, without padding.
    """
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
    seen_rows = steps * step
    if trainer["max_steps"] <= 0:
        seen_rows = min(seen_rows, int(count * trainer["num_train_epochs"]))
    each = len(sequences[0])
    mean = sum(map(sum, sequences)) / len(sequences)
    grouped = trainer.get("train_sampling_strategy") == "group_by_length"
    padded = padding(sequences, batch, settings.seed, grouped) if len(sequences) > 1 else mean
    most = longest(settings, sequences, rows)
    passed, scored, seen = batch * each * most, batch * each * most, 0
    if shares:
        trees = [tree(one, trainer.get("max_length") or 10**9) for one in rows.lengths]
        padded = sum(one for one, _ in trees) / len(trees)
        largest, scored, seen = widest(rows, most)
        passed, scored, seen = batch * largest, batch * scored, batch * seen
    if name == "reward":
        scored = batch * each  # the last token of each row
    reads = 0
    if name == "dpo":  # by the reference, once where it is kept and at every step where not
        reads = padded * (count if settings.stage.cache_reference else seen_rows)
    return Work(
        steps=steps, tokens=int(seen_rows * mean), trained=int(seen_rows * padded), read=int(reads),
        at_once=batch * each, longest=most, typical=max(round(padded / each), 1), source=rows.source,
        passed=passed, scored=scored, seen=seen,
    )  # fmt: skip


def tree(lengths: tuple[int, ...], cut: int) -> tuple[int, int]:
    """Tokens of a prompt and its responses, the prompt's counted once; and those of the responses."""
    prompt = min(lengths[0], cut)
    responses = sum(min(one, cut - prompt) for one in lengths[1:])
    return prompt + responses, responses


def widest(rows: Rows, longest: int) -> tuple[int, int, int]:
    """Of the pair that takes most: its tokens, its responses' tokens, and what both attend to."""
    found = [tree(one, longest) for one in rows.lengths]
    if rows.source != "counted":
        prompt = min(rows.lengths[0][0], longest - 1)
        found = [tree((prompt, longest, longest), longest)]
    whole, responses = max(found)
    return whole, responses, responses + 2 * (whole - responses)


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
    tokens = rows if stage.micro_batch_tokens is None else max(stage.micro_batch_tokens // longest, 1)
    return min(rows, stage.micro_batch_size or rows, tokens)


def noted(settings: Settings) -> bool:
    """Whether log π_old is what was noted while decoding: of the policy itself, in float32."""
    rollout = settings.stage.rollout
    exact = settings.model.dtype is Dtype.float32 and settings.adapter.kind is not AdapterKind.qlora
    return rollout.logprobs is OldLogprobs.decoding and rollout.engine is Engine.transformers and exact


def sampled(settings: Settings, rows: Rows, devices: int) -> Work:
    """Of PPO: every response as long as it may be, which is the most that there can be to do."""
    stage: PPOStage = settings.stage
    prompt = sum(min(one, stage.max_prompt_length) for one, *_ in rows.lengths) / len(rows.lengths)
    counts = rows.source == "counted"
    widest = max(min(one, stage.max_prompt_length) for one, *_ in rows.lengths) if counts else stage.max_prompt_length
    episodes, response = stage.updates * stage.batch_size, stage.max_response_length
    judges = len([role for role in stage.inputs() if role not in ("policy", "critic")])
    # Reference and critic read each response once, and each reward model; the policy where its log-probabilities are
    # not those that it drew with; both learners in every epoch. A critic that is a head on the policy has no pass.
    critics = 0 if stage.critic_kind is CriticKind.value_head else 1
    passes = 1 + critics + judges + (not noted(settings))
    length = (widest if counts else prompt) + response
    local = -(-stage.batch_size // devices)
    at_once = rows_at_once(stage, -(-local // stage.minibatches), widest + response)
    return Work(
        steps=stage.updates * stage.epochs * stage.minibatches,
        tokens=int(episodes * (prompt + response)),
        trained=int(episodes * length * stage.epochs * (1 + critics)),
        read=int(episodes * length * passes),
        drawn=episodes * response,
        rows=min(stage.rollout.rows or local, local),
        batch=local,
        at_once=at_once,
        longest=widest + response,
        typical=round(length),
        source=rows.source,
        passed=at_once * (widest + response),
        scored=at_once * response,
    )
