"""Timing of a few steps on this machine, with random weights in the planned architecture."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from rlhf.config import PPOStage, ScoredStage
from rlhf.console import plural
from rlhf.hardware.device import torch_device
from rlhf.modeling import adapters
from rlhf.modeling.generation import sample, seeded
from rlhf.planning.estimate import Outlook
from rlhf.planning.ppo import separate_critic
from rlhf.planning.throughput import Pace
from rlhf.planning.workload import noted

AT_ONCE = 32  # largest batch of responses that a probe samples; time is extrapolated linearly to more
DRAWN = 24  # most tokens per response
REPEATS = 5
Clock = Callable[[], float]


def probe(outlook: Outlook, budget: float, clock: Clock = time.perf_counter) -> Pace:
    """Measure the pace of ``outlook`` in about ``budget`` seconds; a step that takes longer runs once.

    In PPO the passes of policy and reference compute logits of the response, those of critic and reward models none;
    a critic that is a head on the policy has no pass.
    """
    settings, work = outlook.settings, outlook.work
    name, device = settings.stage.name, torch_device(settings.hardware)
    with seeded(0):
        model = AutoModelForCausalLM.from_config(outlook.model.config, dtype=getattr(torch, settings.model.dtype.value))
        model = adapters.adapt(model, settings.adapter, adapters.TaskType.CAUSAL_LM).to(device).train()
        ids = torch.randint(outlook.model.size.shape.vocabulary, (work.at_once, work.typical), device=device)
    if getattr(settings.stage, "trainer", {}).get("activation_checkpointing"):
        model.gradient_checkpointing_enable()
    timer = Timer(clock, budget / 4, device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-9, fused=True)
    positions = {"reward": 0, "ppo": getattr(settings.stage, "max_response_length", 0) + 1}.get(name, work.typical)
    ppo = name == "ppo"
    scores = [positions, 0] if ppo and separate_critic(settings) else [positions]
    train = sum(timer(lambda p=p: descend(model, ids, p, optimizer)) for p in scores) / len(scores) / ids.numel()
    read = timer(lambda: forward(model, ids, positions)) / ids.numel() if work.read else 0.0
    if isinstance(settings.stage, PPOStage):
        passes = work.read / (settings.stage.updates * settings.stage.rows * work.typical)
        wide = 1 + (not noted(settings))
        read = (wide * read + (passes - wide) * timer(lambda: forward(model, ids, 0)) / ids.numel()) / passes
    step = timer(lambda: stepped(trained, optimizer))
    draw = draw_of(timer, model, outlook) if work.drawn else 0.0
    batch = f"{plural(work.at_once, 'row')} of {plural(work.typical, 'token')}"
    source = f"measured: {1 / train:,.0f} tokens per second in training here, in batches of {batch}, {load()}"
    return Pace(train, read, draw, step, source)


def load() -> str:
    """Return how busy this machine was in the last minute: beside other work a probe is slow."""
    return f"at a load of {psutil.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores"


class Timer:
    """Seconds of a call: the median of up to REPEATS within ``budget``, or the first if it takes half the budget."""

    def __init__(self, clock: Clock, budget: float, device: torch.device):
        self.clock, self.budget, self.device = clock, budget, device

    def __call__(self, work: Callable[[], Any]) -> float:
        first = self._once(work)
        if first > self.budget / 2:
            return first
        times: list[float] = []
        while len(times) < REPEATS and sum(times) + first < self.budget:
            times.append(self._once(work))
        return median(times)

    def _once(self, work: Callable[[], Any]) -> float:
        start = self.clock()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock() - start


def hidden(model: Any, ids: Tensor) -> tuple[Tensor, nn.Module]:
    """Return the last hidden states (B, T, hidden) and the output layer."""
    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    states = plain.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
    return states, plain.get_output_embeddings()


def descend(model: Any, ids: Tensor, positions: int, optimizer: Any) -> None:
    """Run forward and backward; logits of the last ``positions`` are recomputed for the gradient, as in TRL's head."""
    states, head = hidden(model, ids)
    if positions:
        logprobs = checkpoint(loss, states[:, -positions:], head, ids[:, -positions:], use_reentrant=False)
        logprobs.backward()
    else:
        states[:, -1].float().sum().backward()
    optimizer.zero_grad()


def loss(states: Tensor, head: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean cross-entropy of ``ids`` (B, T) under the logits of ``states`` (B, T, hidden)."""
    return nn.functional.cross_entropy(head(states).float().flatten(0, 1), ids.flatten())


@torch.no_grad()
def forward(model: Any, ids: Tensor, positions: int) -> None:
    """Run a forward pass with logits of the last ``positions``."""
    states, head = hidden(model, ids)
    if positions:
        loss(states[:, -positions:], head, ids[:, -positions:])


def stepped(trained: list[nn.Parameter], optimizer: Any) -> None:
    """Run a step of the optimizer on zero gradients."""
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()


def draw_of(timer: Timer, model: Any, outlook: Outlook) -> float:
    """Return the seconds per token of a batch of responses, none of which ends early."""
    work, vocabulary = outlook.work, outlook.model.size.shape.vocabulary
    stage = outlook.settings.stage_as(ScoredStage)
    rows, length = min(work.rows, AT_ONCE), min(stage.max_response_length, DRAWN)
    prompt = max(work.typical - stage.max_response_length, 1)
    ids = [[(7 * row + token) % (vocabulary - 2) for token in range(prompt)] for row in range(rows)]

    def drawn() -> None:
        with seeded(0):
            sample(model, ids, {vocabulary - 1}, vocabulary - 2, length, stage.temperature)

    model.eval()
    return timer(drawn) / length * work.rows / rows
