"""One batch of rollouts: the policy's responses, their log-probabilities, values and scores."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

from rlhf.config import EqualGroups, MissingEOS, PPOStage, SentinelSettings
from rlhf.modeling import forward
from rlhf.modeling.forward import Rows
from rlhf.modeling.frozen_layers import states_after, unchanged
from rlhf.modeling.prefix_tree import tree
from rlhf.modeling.segment_attention import lay_out
from rlhf.ppo.advantages import equal_groups
from rlhf.ppo.critic import ValueHead


class Rollout(NamedTuple):
    """B prompts, padded on the left to P tokens, and their responses, padded on the right to T tokens.

    With K responses per prompt, they are in consecutive rows and B counts the rows.
    """

    prompt_ids: Tensor  # (B, P)
    prompt_mask: Tensor  # (B, P)  True at prompt tokens
    response_ids: Tensor  # (B, T)
    mask: Tensor  # (B, T)  True up to and including the end-of-sequence token
    ended: Tensor  # (B,)  True if the response ends with an end-of-sequence token
    sampler_logprobs: Tensor  # (B, T)  log π_sampler(aₜ|sₜ), reported by the engine that drew the token
    logprobs: Tensor  # (B, T)  log π_old(aₜ|sₜ)
    ref_logprobs: Tensor  # (B, T)  log π_ref(aₜ|sₜ)
    values: Tensor  # (B, T)  V_old(sₜ), of the state before token t
    scores: Tensor  # (B,)  one number per response, from the RewardFunction
    states: Tensor = torch.empty(0, 0, 0)  # (B, L, h)  after the layers below all adapters; empty if not kept

    def rows(self, index: Tensor) -> "Rollout":
        """Return the rows at ``index`` (N,)."""
        return Rollout(*(field[index] if len(field) else field for field in self))


def tolerance(model: Any, limits: SentinelSettings, autocast: bool = False) -> float:
    """Return the allowed difference, in nats, of a log-probability between two forward passes: rounding."""
    return limits.start_error if is_exact(model, autocast) else limits.start_error_half


def is_exact(model: Any, autocast: bool = False) -> bool:
    """Return whether ``model`` computes everything in float32."""
    return not autocast and model.dtype is torch.float32 and not getattr(model, "is_loaded_in_4bit", False)


def micro_batches(rollout: Rollout, rows: int | None, tokens: int | None) -> list[Tensor]:
    """Return the rows of each forward pass as indices: rows of similar length, bounded in rows and padded tokens.

    None means no bound. A row longer than ``tokens`` is passed separately.
    """
    lengths = rollout.prompt_mask.sum(-1) + rollout.mask.sum(-1)
    order = lengths.argsort(stable=True)
    parts, start = [], 0
    for end, longest in enumerate(lengths[order].tolist()):
        count = end + 1 - start
        if start < end and (count > (rows or count) or count * longest > (tokens or count * longest)):
            parts.append(order[start:end])
            start = end
    return [*parts, order[start:]]


def grouped_batches(rollout: Rollout, samples: int, rows: int | None, tokens: int | None) -> list[Tensor]:
    """Return ``micro_batches`` of groups of ``samples`` rows, whose prompt counts once in the tokens.

    A group that exceeds a bound is split.
    """
    prompts = rollout.prompt_mask.sum(-1)[::samples].tolist()
    lengths = rollout.mask.sum(-1).view(-1, samples).tolist()
    parts: list[list[int]] = []
    count, total = 0, 0  # of the last part

    def fits(more_rows: int, more_tokens: int) -> bool:
        return (
            bool(parts)
            and (rows is None or count + more_rows <= rows)
            and (tokens is None or total + more_tokens <= tokens)
        )

    for group in sorted(range(len(prompts)), key=lambda group: prompts[group] + sum(lengths[group])):
        entered = fits(samples, prompts[group] + sum(lengths[group]))
        total += prompts[group] if entered else 0
        for place, length in enumerate(lengths[group]):
            if not (entered and fits(1, length)):
                parts.append([])
                count, total, entered = 0, prompts[group], True
            parts[-1].append(group * samples + place)
            count, total = count + 1, total + length
    return [torch.tensor(part, device=rollout.mask.device) for part in parts]


def inputs_of(rollout: Rollout, shared: bool = False) -> Rows:
    """Return the token ids that models read, and the positions before response tokens.

    With ``shared``, common prefixes of the rows are computed once (rlhf.modeling.segment_attention), in one row
    without padding.
    """
    rows = forward.rows(rollout.prompt_ids, rollout.prompt_mask, rollout.response_ids, rollout.mask)
    states = rollout.states[:, : rows.input_ids.shape[1]] if len(rollout.states) else None
    if not shared:
        return rows._replace(states=states)
    lengths = (rollout.prompt_mask.sum(-1) + rollout.mask.sum(-1)).tolist()
    found = tree([ids[:length] for ids, length in zip(rows.input_ids.cpu().numpy(), lengths, strict=True)])
    ids = rows.input_ids
    layout = lay_out(found, numpy.zeros(len(lengths), numpy.int64), ids.shape, ids.device)
    before = layout.index.flatten()[rows.before]
    layout.reading(before)
    # transformers passes any 4-D mask on unchanged instead of building one.
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device)
    extra = {"attention_mask": mask, "position_ids": layout.positions[None], "segments": layout}
    known = None if states is None else states.flatten(0, 1)[layout.source][None]
    return Rows(ids.flatten()[layout.source][None], before, extra, known)


def logprobs_and_entropies(model: Any, rollout: Rollout, inputs: Rows, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probability and entropy of every response token, both (B, T), in nats; 0 off the mask."""
    return all_outputs(model, None, rollout, inputs, temperature)[:2]


def all_outputs(
    model: Any, head: Any | None, rollout: Rollout, inputs: Rows, temperature: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return ``logprobs_and_entropies`` and, from the same pass, the values of ``head``; (B, T), 0 off the mask."""
    mask, tokens = rollout.mask, rollout.response_ids[rollout.mask]
    logprobs, entropies, states = forward.response_outputs(model, inputs, tokens, temperature)
    # The head has a gradient even if the model has none.
    values = None if head is None else spread(head(states), mask)
    return spread(logprobs, mask), spread(entropies, mask), values


def values_of(critic: Any, rollout: Rollout, inputs: Rows) -> Tensor:
    """Return the critic's value of the state before every response token, (B, T); 0 off the mask."""
    return spread(critic(input_ids=inputs.input_ids, before=inputs.before, **inputs.extra), rollout.mask)


def spread(x: Tensor, mask: Tensor) -> Tensor:
    """Return (B, T) with the entries ``x`` (N,) where ``mask`` (B, T) is True, and 0 elsewhere."""
    return x.new_zeros(mask.shape).masked_scatter(mask, x)


@torch.no_grad()
def evaluate(
    rollout: Rollout,
    policy: Any,
    reference: Any | None,
    critic: Any,
    temperature: float,
    rows: int | None,
    tokens: int | None = None,
    *,
    decoded: bool = False,
    shared: int = 1,
) -> Rollout:
    """Return ``rollout`` with log-probabilities and values, computed by the forward pass that the update uses.

    Without a critic, values stay 0. With ``decoded``, the policy's log-probabilities, and the values of a
    ``ValueHead``, are those that the sampler reported; they are equal up to rounding if the sampler is the policy
    itself in float32. ``shared`` is the number of responses per prompt if prompts are computed once, else 1.
    """
    on_trunk = isinstance(critic, ValueHead)
    names = {"logprobs", "ref_logprobs"} | (set() if critic is None else {"values"})
    if decoded:
        names -= {"logprobs", "values"} if on_trunk else {"logprobs"}
    filled = {name: torch.zeros_like(rollout.sampler_logprobs) for name in names}
    parts = micro_batches(rollout, rows, tokens) if shared == 1 else grouped_batches(rollout, shared, rows, tokens)
    plain = forward.causal_of(policy)
    below = unchanged(policy, plain) if reference is None or hasattr(reference, "wears") else 0
    for index in parts:
        part = rollout.rows(index)
        inputs = inputs_of(part, shared > 1)
        if below:
            inputs = inputs._replace(states=states_after(plain, below, input_ids=inputs.input_ids, **inputs.extra))
            keep(filled, index, rollout, inputs)
        if not decoded:
            head = critic if on_trunk else None
            filled["logprobs"][index], _, values = all_outputs(policy, head, part, inputs, temperature)
            if values is not None:
                filled["values"][index] = values
        with forward.without_adapter(policy, reference):
            frozen = policy if reference is None else reference
            filled["ref_logprobs"][index] = logprobs_and_entropies(frozen, part, inputs, temperature)[0]
        if critic is not None and not on_trunk:
            filled["values"][index] = values_of(critic, part, inputs)
    return rollout._replace(**{"logprobs": rollout.sampler_logprobs} | filled)


def keep(filled: dict[str, Tensor], index: Tensor, rollout: Rollout, inputs: Rows) -> None:
    """Store the states of the rows at ``index`` in ``filled``, token by token from the start of each row."""
    if inputs.states is None:
        return
    layout, states = inputs.extra.get("segments"), inputs.states
    if layout is not None:
        states = states[0][layout.index.clamp(max=len(layout.source) - 1)]
    if "states" not in filled:
        longest = int((rollout.prompt_mask.sum(-1) + rollout.mask.sum(-1)).max())
        filled["states"] = states.new_zeros(len(rollout.scores), longest, states.shape[-1])
    filled["states"][index, : states.shape[1]] = states


def pack(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    scores: Sequence[float],
    ends: set[int],
    pad: int,
    device: torch.device,
) -> Rollout:
    """Return a rollout of ragged rows. Masks come from lengths, never from the padding token."""
    wide, long = max(map(len, prompts)), max(map(len, responses))

    def tensor(values: list, dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    zeros = torch.zeros(len(responses), long, device=device)
    return Rollout(
        prompt_ids=tensor([[pad] * (wide - len(row)) + list(row) for row in prompts], torch.long),
        prompt_mask=tensor([[False] * (wide - len(row)) + [True] * len(row) for row in prompts], torch.bool),
        response_ids=tensor([list(row) + [pad] * (long - len(row)) for row in responses], torch.long),
        mask=tensor([[True] * len(row) + [False] * (long - len(row)) for row in responses], torch.bool),
        ended=tensor([row[-1] in ends for row in responses], torch.bool),
        sampler_logprobs=zeros,
        logprobs=zeros,
        ref_logprobs=zeros,
        values=zeros,
        scores=tensor(list(scores), torch.float32),
    )


def filled(scores: Tensor, samples: int) -> Tensor:
    """Return scores (B,) in which NaN, a response that no reward scores, is the mean of the prompt's other responses.

    If none of a prompt's ``samples`` responses is scored, it is the mean of all; 0 without any.
    """
    groups = scores.view(-1, samples)
    means = groups.nanmean(1, keepdim=True)
    found = torch.where(groups.isnan(), means.where(~means.isnan(), scores.nanmean()), groups)
    return found.nan_to_num(nan=0.0).flatten()


def final_scores(
    scores: Tensor, ended: Tensor, mean: float, std: float, clip: float | None, rule: MissingEOS, penalty: float
) -> Tensor:
    """Return the scores as PPO uses them, (B,) -> (B,): normalized, clipped, then penalized if a response has no EOS.

    (score - mean) / std, clipped to [-clip, clip]. ``subtract`` subtracts ``penalty``, ``replace`` sets ``-penalty``
    (the EOS trick; Huang et al. 2024, https://arxiv.org/abs/2403.17031).
    """
    scores = (scores - mean) / std
    if clip is not None:
        scores = scores.clamp(-clip, clip)
    if rule is MissingEOS.subtract:
        return torch.where(ended, scores, scores - penalty)
    if rule is MissingEOS.replace:
        return torch.where(ended, scores, torch.full_like(scores, -penalty))
    return scores


def learned_rows(rollout: Rollout, scores: Tensor, stage: PPOStage, scored: Tensor) -> Rollout:
    """Return the rollout in which responses that the loss leaves out are masked; ``scored`` (B,) are the others.

    scores: (B,).
    """
    kept = scored
    if stage.missing_eos is MissingEOS.mask:
        kept = kept & rollout.ended
    if stage.equal_groups is not EqualGroups.keep:
        kept = kept & ~equal_groups(scores, stage.samples).repeat_interleave(stage.samples)
    return rollout._replace(mask=rollout.mask & kept[:, None])


def overlong(lengths: Tensor, most: int, buffer: int) -> Tensor:
    """Return max(0, 1 - (L_max - |y|) / L_buffer): 0 up to L_max - L_buffer tokens, 1 at L_max; (B,) -> (B,).

    The soft overlong punishment of DAPO (Yu et al. 2025, https://arxiv.org/abs/2503.14476, eq. 13), positive here.
    """
    return (1 - (most - lengths) / buffer).clamp(min=0)
