"""The workload of a stage: rows, tokens, and the passes over them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from rlhf.config import (
    AdapterKind,
    BaseStage,
    CriticKind,
    Dtype,
    KTOLoss,
    KTOStage,
    OnlineDPOStage,
    PPOStage,
    PreferenceStage,
    RAFTStage,
    Rankings,
    ScoredStage,
    Settings,
    TrainerStage,
)
from rlhf.config.plan import KINDS, PlanStage
from rlhf.config.rollout import Engine, OldLogprobs
from rlhf.data import load, templates
from rlhf.data.formats import Kind
from rlhf.data.render import encode, shared, text_ids
from rlhf.data.sources import source_name, source_of
from rlhf.data.tokens import RESPONSES
from rlhf.modeling import loading
from rlhf.modeling.from_scratch import new_tokenizer
from rlhf.planning.shapes import at_hand
from rlhf.runs.parents import hub_parent

STATED = "stated in stage.rows"
COUNTED = 5000  # rows to tokenize, sampled from larger data


@dataclass(frozen=True)
class Rows:
    """Lengths of training rows in tokens: of the prompt and each response, or of a whole text."""

    count: int
    lengths: list[tuple[int, ...]]
    source: str

    def sequences(self, longest: int | None) -> list[list[int]]:
        """Return the lengths of each row's sequences, prompt and response, truncated to ``longest``."""
        cut = longest or 10**9
        return [[min(prompt + response, cut) for response in responses or (0,)] for prompt, *responses in self.lengths]


def rows_of(settings: Settings, plan: PlanStage) -> Rows:
    """Return the rows that ``stage.rows`` states for the data, else count them.

    Raises:
        RlhfError: the data or a tokenizer are neither available nor stated.
    """
    kind = cast("Kind", KINDS[settings.stage.name])
    source = getattr(settings.data, source_name(kind))
    stated = [plan.rows[path] for path in source.paths if path in plan.rows]
    if settings.data.path is None and stated:
        [first, *_] = stated
        count = first["rows"] if source.limit is None else min(first["rows"], source.limit)
        responses = {"preferences": 2, "demonstrations": 1, "thumbs": 1}.get(kind, 0)
        count *= 2 if kind == "thumbs" else 1  # the stated rows are pairs
        return of_samples(settings, Rows(count, [(first["prompt"], *[first["response"]] * responses)], STATED))
    return of_samples(settings, counted(settings, kind))


def of_samples(settings: Settings, rows: Rows) -> Rows:
    """Return the rows that online DPO and RAFT make of their prompts, with responses of the maximum length."""
    stage = settings.stage
    if not isinstance(stage, OnlineDPOStage | RAFTStage):
        return rows
    responses = 2 if isinstance(stage, OnlineDPOStage) else 1
    lengths: list[tuple[int, ...]] = [(prompt, *[stage.max_response_length] * responses) for prompt, *_ in rows.lengths]
    return Rows(min(stage.prompts or rows.count, rows.count) * made(stage), lengths, rows.source)


def made(stage: OnlineDPOStage | RAFTStage) -> int:
    """Return the number of training rows per prompt, if all scores differ."""
    if isinstance(stage, RAFTStage) or stage.pairs is Rankings.best_worst:
        return 1
    return stage.samples - 1 if stage.pairs is Rankings.best else stage.samples * (stage.samples - 1) // 2


def counted(settings: Settings, kind: Kind) -> Rows:
    """Count rows with the policy's tokenizer, or with one trained like stage=base will train it."""
    tokenizer = tokenizer_of(settings) if source_of(settings.data, kind).paths else None  # `load` reports missing data
    rows = load(settings.data, kind, "train", settings.seed, tell=False)
    count = len(rows)
    if count > COUNTED:
        rows = rows.select(sorted(random.Random(settings.seed).sample(range(count), COUNTED)))
    if kind == "text":
        return Rows(count, [(len(ids) + 1,) for ids in text_ids(tokenizer, rows["text"])], "counted")
    templates.settle(tokenizer, rows["prompt"], settings.data.render)
    if kind == "prompts":
        limit = settings.stage_as(ScoredStage).max_prompt_length
        kept = [length for length in map(len, encode(tokenizer, rows["prompt"][:])) if length <= limit]
        return Rows(count, [(length,) for length in kept or [limit]], "counted")
    prompts = encode(tokenizer, rows["prompt"])
    wholes = [encode(tokenizer, rows["prompt"], rows[name]) for name in RESPONSES[kind]]
    lengths = []
    for prompt, *whole in zip(prompts, *wholes, strict=True):
        start = shared(prompt, *whole)
        lengths.append((start, *(len(ids) - start for ids in whole)))
    return Rows(count, lengths, "counted")


def tokenizer_of(settings: Settings) -> Any:
    """Return the tokenizer of the policy if it is available, else of the first model of the chain.

    Raises:
        ConfigError: the first model would be new, and the settings do not describe it.
        ModelError: it cannot be read.
    """
    policy = getattr(settings.stage, "policy", None)
    for path in (policy, settings.model.path):
        if path is not None and (parent := at_hand(path)) is not None:
            return loading.load_tokenizer(parent, settings.model)
    if settings.model.path is not None:
        id, _, revision = settings.model.path.partition("@")
        return loading.load_tokenizer(hub_parent("policy", id, revision or settings.model.revision), settings.model)
    architecture, template = settings.model.new("model.path=null")
    template = templates.chat_template(template)
    texts = load(settings.data, "text", "train", settings.seed, tell=False)["text"]
    return new_tokenizer(texts, architecture["vocabulary"], template)


def trainer_of(settings: Settings) -> dict[str, Any]:
    """Return ``stage.trainer`` of base, sft, reward, dpo or kto."""
    return settings.stage_as(TrainerStage).trainer


@dataclass(frozen=True)
class Work:
    """The work of a whole stage on all devices.

    ``steps``: of the optimizer. ``tokens``: of the data. With padding to the longest row of a micro-batch: ``trained``
    (forward and backward), ``read`` (forward only) and ``drawn`` tokens (sampled, ``rows`` responses at once).
    """

    steps: int
    tokens: int
    trained: int
    read: int = 0
    drawn: int = 0
    rows: int = 1
    batch: int = 1  # rows of a PPO batch on one device
    at_once: int = 1  # rows of a micro-batch on one device
    longest: int = 0  # tokens of the longest training row
    typical: int = 1  # tokens of a padded row, on average
    passed: int = 0  # tokens of a micro-batch in one forward pass
    scored: int = 0  # those whose outputs are used
    seen: int = 0  # tokens that branches of a tree attend to, including themselves; 0 without prefix sharing
    source: str = ""


def trained(settings: Settings, rows: Rows, devices: int, *, shares: bool = False) -> Work:
    """Return the work of base, sft, reward, dpo or kto.

    With ``shares`` a prompt is computed once for both responses, without padding. KTO's rows are planned as if each had
    its own prompt.
    """
    shares = shares and not isinstance(settings.stage, KTOStage)
    trainer, name = trainer_of(settings), settings.stage.name
    batch = trainer["per_device_train_batch_size"]
    if isinstance(settings.stage, BaseStage):
        length = settings.stage.block_length
        total = rows.count * sum(text for (text,) in rows.lengths) // len(rows.lengths)
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
        trees = [tree(row, trainer.get("max_length") or 10**9) for row in rows.lengths]
        padded = sum(tokens for tokens, _ in trees) / len(trees)
        largest, scored, seen = widest(rows, most)
        passed, scored, seen = batch * largest, batch * scored, batch * seen
    if name == "reward":
        scored = batch * each  # the last token of each row
    reads = 0
    if isinstance(settings.stage, PreferenceStage) and not settings.stage.reference_free:
        # By the reference, once if its log-probabilities are cached.
        reads = padded * (count if settings.stage.cache_reference else seen_rows)
    if isinstance(settings.stage, KTOStage) and settings.stage.loss is KTOLoss.kto:
        reads = 2 * reads + padded * seen_rows  # the mismatched responses, by the reference and by the policy
    return Work(
        steps=steps, tokens=int(seen_rows * mean), trained=int(seen_rows * padded), read=int(reads),
        at_once=batch * each, longest=most, typical=max(round(padded / each), 1), source=rows.source,
        passed=passed, scored=scored, seen=seen,
    )  # fmt: skip


def repeated(settings: Settings, work: Work, rows: Rows) -> Work:
    """Return the work of all rounds of online DPO, or of RAFT with its control, with that of sampling and scoring."""
    stage = settings.stage
    if not isinstance(stage, OnlineDPOStage | RAFTStage):
        return work
    rounds, times = (stage.rounds,) * 2 if isinstance(stage, OnlineDPOStage) else (1, 1 + stage.control)
    drawn = rows.count // made(stage) * stage.samples * rounds
    return replace(
        work,
        steps=work.steps * times,
        tokens=work.tokens * times,
        trained=work.trained * times,
        read=work.read * times + drawn * work.longest * bool(stage.reward),
        drawn=drawn * stage.max_response_length,
        rows=min(stage.batch_size, drawn),
    )


def tree(lengths: tuple[int, ...], cut: int) -> tuple[int, int]:
    """Return the tokens of a prompt and its responses, counting the prompt once, and those of the responses."""
    prompt = min(lengths[0], cut)
    responses = sum(min(response, cut - prompt) for response in lengths[1:])
    return prompt + responses, responses


def widest(rows: Rows, longest: int) -> tuple[int, int, int]:
    """Return the tokens of the largest pair, those of its responses, and those that the responses attend to."""
    trees = [tree(row, longest) for row in rows.lengths]
    if rows.source != "counted":
        prompt = min(rows.lengths[0][0], longest - 1)
        trees = [tree((prompt, longest, longest), longest)]
    whole, responses = max(trees)
    return whole, responses, responses + 2 * (whole - responses)


def longest(settings: Settings, sequences: Sequence[Sequence[int]], rows: Rows) -> int:
    """Return the length of the longest row to plan for: of counted rows, else the maximum that is allowed."""
    limit = trainer_of(settings).get("max_length") if settings.stage.name != "base" else None
    return max(map(max, sequences)) if rows.source == "counted" or limit is None else limit


def padding(sequences: Sequence[Sequence[int]], batch: int, seed: int, grouped: bool) -> float:
    """Return the mean tokens per row when batches of ``batch`` rows in random order are padded."""
    order = list(sequences)
    random.Random(seed).shuffle(order)
    if grouped:
        order.sort(key=max)
    parts = [order[start : start + batch] for start in range(0, len(order), batch)]
    return sum(len(part) * len(part[0]) * max(map(max, part)) for part in parts) / len(order)


def rows_at_once(stage: PPOStage, rows: int, longest: int) -> int:
    """Return the rows of a micro-batch, limited by rows and by tokens if these are set."""
    tokens = rows if stage.micro_batch_tokens is None else max(stage.micro_batch_tokens // longest, 1)
    return min(rows, stage.micro_batch_size or rows, tokens)


def noted(settings: Settings) -> bool:
    """Whether log π_old is recorded while decoding, which requires float32 and the transformers engine."""
    rollout = settings.stage_as(PPOStage).rollout
    exact = settings.model.dtype is Dtype.float32 and settings.adapter.kind is not AdapterKind.qlora
    return rollout.logprobs is OldLogprobs.decoding and rollout.engine is Engine.transformers and exact


def sampled(settings: Settings, rows: Rows, devices: int) -> Work:
    """Return the work of PPO if every response has the maximum length, which is an upper bound."""
    stage = settings.stage_as(PPOStage)
    prompts = [min(length, stage.max_prompt_length) for length, *_ in rows.lengths]
    prompt, counts = sum(prompts) / len(prompts), rows.source == "counted"
    widest = max(prompts) if counts else stage.max_prompt_length
    episodes, response = stage.updates * stage.rows, stage.max_response_length
    # Reference, critic and each reward model read each response once; so does the policy, unless its log-probabilities
    # are recorded while decoding; both learners in every epoch. A critic that is a head on the policy has no pass.
    critics = int(stage.has_critic and stage.critic_kind is CriticKind.separate)
    passes = 1 + critics + len(stage.scoring) + (not noted(settings))
    length = (widest if counts else prompt) + response
    local = -(-stage.rows // devices)
    at_once = rows_at_once(stage, -(-local // stage.minibatches), widest + response)
    steps = stage.updates * stage.epochs * stage.minibatches
    text = steps * stage.ptx_batch_size * stage.ptx_block_length if stage.ptx_coef else 0
    return Work(
        steps=steps,
        tokens=int(episodes * (prompt + response)),
        trained=int(episodes * length * stage.epochs * (1 + critics)) + text,
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
