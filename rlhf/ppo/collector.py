"""The collector: draws a batch's prompts, and K scored responses to each of them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf.config import EqualGroups, OldLogprobs, PPOStage
from rlhf.data.render import Prompt
from rlhf.modeling.generation import end_ids, sample
from rlhf.modeling.seeding import derive, permutation
from rlhf.ppo.advantages import equal_groups
from rlhf.ppo.critic import ValueHead
from rlhf.ppo.distributed import largest, total
from rlhf.ppo.metrics import Metrics
from rlhf.ppo.responses import Responses, Sampler, respond
from rlhf.ppo.rollout import filled, final_scores, is_exact, overlong
from rlhf.rewards import Scorer


class Collector:
    """Samples and scores the responses of each update; every random choice descends from ``seed`` and the update.

    Args:
        policy: the policy, or with ``sampler`` the model that a separate engine copies.
        critic: a ValueHead computes values while decoding; any other critic, and None, is not used here.
        reward: the reward, which also notes the scores of its terms and of gold.
        prompts: the prompts and, as token ids, ``prompt_ids``.
        measured: mean and standard deviation that normalize the scores.
        autocast: whether forward passes multiply in bfloat16.
        sampler: draws the responses, by default from the policy.
    """

    def __init__(
        self,
        policy: Any,
        critic: Any | None,
        tokenizer: Any,
        reward: Scorer,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[Sequence[int]],
        stage: PPOStage,
        seed: int,
        accelerator: Accelerator,
        measured: tuple[float, float],
        autocast: bool,
        sampler: Sampler | None,
    ):
        self.policy, self.tokenizer, self.reward = policy, tokenizer, reward
        self.prompts, self.prompt_ids = prompts, prompt_ids
        self.stage, self.seed, self.accelerator, self.measured = stage, seed, accelerator, measured
        self.autocast, self.sampler = autocast, sampler
        self.head = critic if isinstance(critic, ValueHead) else None

    @property
    def ends(self) -> set[int]:
        """The tokens that end a response."""
        return end_ids(self.policy, self.tokenizer)

    @property
    def decoded(self) -> bool:
        """Whether log π_old can be the sampler's: that of the policy in float32 is equal up to rounding."""
        own = self.sampler is None and is_exact(self.policy, self.autocast)
        return own and self.stage.rollout.logprobs is OldLogprobs.decoding

    @property
    def _first(self) -> int:
        """The number of prompts of a batch that belong to lower ranks."""
        return self.accelerator.process_index * (self.stage.batch_size // self.accelerator.num_processes)

    def batch(self, update: int) -> list[int]:
        """Return the indices of this rank's prompts of an update, from an endless sequence of permutations."""
        own = self.stage.batch_size // self.accelerator.num_processes
        first = update * self.stage.batch_size + self._first
        chosen = []
        for position in range(first, first + own):
            number, index = divmod(position, len(self.prompts))
            chosen.append(int(permutation(len(self.prompts), self.seed, "prompts", number)[index]))
        return chosen

    def draw(self, chosen: Sequence[int], update: int) -> tuple[Responses, Metrics]:
        """Return K responses to each of the prompts at indices ``chosen``.

        If the advantages compare the responses to a prompt, also return the share of prompts whose responses have equal
        scores. ``stage.equal_groups=resample`` replaces these by responses to other prompts. All ranks draw as many
        prompts as the rank that needs most, since rewards may reduce over the ranks.
        """
        stage, found, noted = self.stage, self.respond(chosen, update, 0, self._first), {}
        rounds = stage.resample_rounds if stage.equal_groups is EqualGroups.resample else 0
        for attempt in range(rounds + 1 if stage.advantage.compares else 0):
            equal = self._equal(found)
            count = torch.tensor([float(len(equal))], device=self.accelerator.device)
            if attempt == 0:
                noted["val/equal_groups"] = total(count, self.accelerator).item() / stage.batch_size
            most = int(largest(count, self.accelerator))
            if not most or attempt == rounds:
                break
            order = permutation(len(self.prompts), self.seed, "resampled", update, attempt)
            first = self.accelerator.process_index * most
            others = [int(order[place % len(order)]) for place in range(first, first + most)]
            found = found.replaced(equal, self.respond(others, update, attempt + 1, first), stage.samples)
        return found, noted

    def respond(self, chosen: Sequence[int], update: int, attempt: int, before: int) -> Responses:
        """Sample and score K responses to each of ``chosen``; lower ranks do so for ``before`` prompts."""
        stage, rows = self.stage, [i for i in chosen for _ in range(self.stage.samples)]
        own = partial(sample, at_once=stage.rollout.rows, head=self.head if self.decoded else None)
        return respond(
            self.policy,
            self.tokenizer,
            self.reward,
            [self.prompts[i] for i in rows],
            [self.prompt_ids[i] for i in rows],
            temperature=stage.temperature,
            max_response_length=stage.max_response_length,
            seed=derive(self.seed, "rollout", update, attempt),
            sampler=self.sampler or own,
            before=before * stage.samples,
        )

    def final(self, scores: Tensor, lengths: Tensor, ended: Tensor) -> Tensor:
        """Return the scores as the advantages use them; all (B,), lengths in tokens. NaN: see `filled`."""
        stage, scores = self.stage, filled(scores, self.stage.samples)
        rule, penalty = stage.missing_eos, stage.missing_eos_penalty
        found = final_scores(scores, ended, *self.measured, stage.score_clip, rule, penalty)
        if stage.overlong_buffer is not None:
            found = found - overlong(lengths, stage.max_response_length, stage.overlong_buffer)
        return found

    def _equal(self, found: Responses) -> list[int]:
        """Return the groups whose responses all have the same score."""
        ends = self.ends
        lengths = torch.tensor([float(len(one.ids)) for one in found.sampled])
        ended = torch.tensor([one.ids[-1] in ends for one in found.sampled])
        scores = self.final(torch.tensor(found.scores), lengths, ended)
        return equal_groups(scores, self.stage.samples).nonzero()[:, 0].tolist()
