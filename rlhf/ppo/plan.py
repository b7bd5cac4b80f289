"""What stage=ppo will take of memory: which models there are, and what each role does with how many tokens."""

import os
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from accelerate import init_empty_weights
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from rlhf import models
from rlhf.config import Adapter, AdapterKind, CriticKind, Dtype, PPOStage, Settings
from rlhf.decoding import READ_AT_ONCE
from rlhf.generate import seeded
from rlhf.memory import FLOAT32, NF4, Line, Plan, Shape, adam, cache, kept, passing, vocabulary_wide
from rlhf.parents import Parent
from rlhf.ppo.roles import OneBase, Separate, judges
from rlhf.ppo.shared import shell_of

WIDTHS = {Dtype.float32: 4, Dtype.bfloat16: 2, Dtype.float16: 2}
SCORED = 64  # texts that a RewardModel reads at once


class Size(NamedTuple):
    """Of a language model: parameters and their bytes, the largest one's, and the parameters of a new adapter."""

    shape: Shape
    parameters: int
    weights: int
    largest: int
    adapter: int


def measure(config: PretrainedConfig, adapter: Adapter, dtype: Dtype) -> Size:
    """From the architecture alone: the model is made on the meta device, where tensors have shapes and no storage."""
    width = WIDTHS[dtype]
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    sizes = [parameter.numel() for parameter in model.parameters()]
    parameters, largest = sum(sizes), max(sizes)
    packed = 0
    if adapter.kind is AdapterKind.qlora:  # transformers leaves the output layer as it is
        layers = (module for module in model.base_model.modules() if isinstance(module, nn.Linear))
        packed = sum(layer.weight.numel() for layer in layers)
    weights = int((parameters - packed) * width + packed * NF4)
    with seeded(0), init_empty_weights():
        adapted = models.adapt(model, adapter, models.TaskType.CAUSAL_LM)
    added = sum(value.numel() for value in adapted.parameters()) - parameters
    return Size(Shape.of(config), parameters, weights, largest * width, added)


def stored(parent: Parent) -> int:
    """Parameters of the adapter ``parent``, from the header of its file."""
    with safe_open(models.adapter_folder(parent) / "adapter_model.safetensors", framework="pt") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping


class Work(NamedTuple):
    """Bytes of activations of each role at work; with ``rank`` it is adapters that learn."""

    stage: PPOStage
    size: Size
    width: int
    rank: int | None

    @property
    def _length(self) -> int:
        return self.stage.max_prompt_length + self.stage.max_response_length

    @property
    def _rows(self) -> int:
        """Of a batch, on each rank."""
        return -(-self.stage.batch_size // int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def _part(self) -> int:
        """Rows of a micro-batch, all of them as long as can be."""
        bounds = [-(-self._rows // self.stage.minibatches)]
        if self.stage.micro_batch_size is not None:
            bounds.append(self.stage.micro_batch_size)
        if self.stage.micro_batch_tokens is not None:
            bounds.append(max(self.stage.micro_batch_tokens // self._length, 1))
        return min(bounds)

    def _learning(self) -> int:
        """Layers of a micro-batch, one of them at work; trained whole, the gradient of the largest matrix is added."""
        tokens = self._part * self._length
        whole = self.size.largest if self.rank is None else 0
        return (
            kept(self.size.shape, tokens, self.width, self.rank) + passing(self.size.shape, tokens, self.width) + whole
        )

    def policy(self) -> int:
        """Learning or sampling, whichever takes more.

        One tensor is as wide as the vocabulary: the logits of responses, whose place their gradient takes; while
        sampling there are three of one token a row: logits, divided by the temperature, and cumulated.
        """
        shape, drawn = self.size.shape, min(self.stage.rollout.rows or self._rows, self._rows)
        learning = self._learning() + vocabulary_wide(shape, self._part * self.stage.max_response_length, 1)
        sampling = cache(shape, drawn, self._length, self.width) + vocabulary_wide(shape, drawn, 3)
        return max(learning, sampling + passing(shape, min(drawn * self._length, READ_AT_ONCE), self.width))

    def reference(self) -> int:
        """Logits of responses."""
        shape, tokens = self.size.shape, self._part * self.stage.max_response_length
        return passing(shape, self._part * self._length, self.width) + vocabulary_wide(shape, tokens, 1)

    def critic(self) -> int:
        return self._learning()

    def reward_model(self) -> int:
        return passing(self.size.shape, scored(self._rows, self._length), self.width)


def scored(rows: int, length: int) -> int:
    """Tokens of a pass of a RewardModel, all of its rows of this length."""
    return min(min(SCORED, rows) * length, max(READ_AT_ONCE, length))


def plan(settings: Settings, roles: OneBase | Separate) -> Plan:
    """The plan of the stage, from configurations and the headers of files; nothing is loaded."""
    lines = _shared(settings, roles) if isinstance(roles, OneBase) else _separate(settings, roles)
    return Plan(list(lines), reads=models.device(settings.hardware).type == "cpu")


def _shared(settings: Settings, roles: OneBase) -> Iterator[Line]:
    dtype = settings.model.dtype
    size = measure(models.config(roles.base, settings.model), settings.adapter, dtype)
    work = Work(settings.stage, size, WIDTHS[dtype], settings.adapter.rank)
    kind = "4 bits" if settings.adapter.kind is AdapterKind.qlora else dtype.value
    yield Line("shared base", size.parameters, 0, kind, size.weights, 0, 0, 0)
    worn = {parent.digest: stored(parent) for chain in roles.chains.values() for parent in chain}
    if held := sum(worn.values()):
        yield Line("its runs' adapters", held, 0, "float32", held * FLOAT32, 0, 0, 0)
    head = size.shape.hidden
    yield learner("policy", size.adapter, size.adapter * FLOAT32, size.adapter, FLOAT32, work.policy())
    yield Line("reference", 0, 0, "", 0, 0, 0, work.reference())
    if settings.stage.critic_kind is CriticKind.head:
        yield on_trunk(size)
    else:
        added = size.adapter + head
        yield learner("critic", added, added * FLOAT32, added, FLOAT32, work.critic())
    for role in judges(roles.parents):
        if role in roles.chains:
            yield Line(role, head, 0, "float32", head * FLOAT32, 0, 0, work.reward_model())
        else:
            yield _judge(settings, role, roles.parents[role])


def _separate(settings: Settings, roles: Separate) -> Iterator[Line]:
    adapter, dtype = settings.adapter, settings.model.dtype
    width, whole = WIDTHS[dtype], adapter.kind is AdapterKind.none
    moments = width if whole else FLOAT32
    config = models.config(roles.parents["policy"], settings.model)
    size = measure(config, adapter, dtype)
    work = Work(settings.stage, size, width, None if whole else adapter.rank)
    added, trained = size.adapter, size.parameters if whole else size.adapter
    weights = size.weights + added * FLOAT32
    yield learner("policy", size.parameters + added, weights, trained, moments, work.policy())
    copy = (size.parameters, 0, dtype.value, size.weights) if whole else (0, 0, "", 0)
    yield Line("reference", *copy, 0, 0, work.reference())
    if settings.stage.critic_kind is CriticKind.head:
        yield on_trunk(size)
    else:
        yield _critic(settings, roles)
    for role in judges(roles.parents):
        yield _judge(settings, role, roles.parents[role])


def _critic(settings: Settings, roles: Separate) -> Line:
    """A model of its own, with an adapter or whole."""
    adapter, dtype = settings.adapter, settings.model.dtype
    width, whole = WIDTHS[dtype], adapter.kind is AdapterKind.none
    moments = width if whole else FLOAT32
    config = models.config(roles.parents[roles.start], settings.model)
    size, own = measure(config, adapter, dtype), classifies(config)
    work = Work(settings.stage, size, width, None if whole else adapter.rank)
    added, trained = (0, own) if whole else (size.adapter + size.shape.hidden,) * 2
    weights = size.weights + (own - size.parameters) * width + added * FLOAT32
    return learner("critic", own + added, weights, trained, moments, work.critic())


def on_trunk(size: Size) -> Line:
    """A head on the policy: what it computes with is the policy's."""
    own = size.shape.hidden + 1
    return learner("critic", own, own * FLOAT32, own, FLOAT32, 0)


def classifies(config: PretrainedConfig) -> int:
    """Parameters of a classifier of one output: a head in the place of the output layer."""
    return sum(parameter.numel() for parameter in shell_of(config).parameters())


def learner(role: str, parameters: int, weights: int, trained: int, width: int, activations: int) -> Line:
    """A role that is trained: a gradient and two moments of each of its parameters, in their type."""
    kind = {4: "float32", 2: "half"}[width]
    return Line(role, parameters, trained, kind, weights, trained * width, adam(trained, width), activations)


def _judge(settings: Settings, role: str, parent: Parent) -> Line:
    """A reward model of its own, adapters merged, not quantised."""
    config, dtype = models.config(parent, settings.model), settings.model.dtype
    parameters, width = classifies(config), WIDTHS[dtype]
    work = Work(settings.stage, Size(Shape.of(config), parameters, 0, 0, 0), width, None)
    return Line(role, parameters, 0, dtype.value, parameters * width, 0, 0, work.reward_model())
