"""Gradients of policy and critic from the rows of a minibatch, accumulated over micro-batches."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf.config import PPOStage, Ratio
from rlhf.modeling import forward
from rlhf.modeling.logprobs import masked_sum
from rlhf.ppo.critic import ValueHead
from rlhf.ppo.kl import ESTIMATORS, kl_loss
from rlhf.ppo.losses import clipped_policy_loss, clipped_value_loss, over_response, truncated_importance
from rlhf.ppo.rollout import Rollout, inputs_of, logprobs_and_entropies, spread, values_of


class Gradients:
    """The losses of ``stage``; ``ranked`` are policy and critic in the wrappers of several processes."""

    def __init__(
        self,
        ranked: Mapping[str, Any],
        critic: nn.Module | None,
        stage: PPOStage,
        accelerator: Accelerator,
        shared: bool,
    ):
        self.ranked, self.critic, self.stage = ranked, critic, stage
        self.accelerator, self.shared = accelerator, shared

    def __call__(
        self,
        rollout: Rollout,
        advantages: Tensor,
        returns: Tensor,
        shares: Tensor,
        scale: Tensor,
        kl_coef: float,
        learns: bool,
        parts: list[Tensor],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Accumulate this rank's gradients over micro-batches, whose number may differ between ranks.

        Returns sums of the metrics over tokens, and the largest difference of a ratio from 1 in each micro-batch.
        """
        sums: dict[str, Tensor] = {}
        errors = []
        losses_of = self._on_trunk if isinstance(self.critic, ValueHead) else self._one_after_the_other
        for index in parts:
            part, share = rollout.rows(index), shares[index]
            losses, found = losses_of(part, advantages[index], returns[index], share, scale, kl_coef, learns)
            errors.append(torch.where(part.mask, found["val/ratio"] - 1, 0.0).abs().max())
            found = {key: masked_sum(value.float(), part.mask) for key, value in found.items()}
            for key, value in (found | {key: loss.detach() for key, loss in losses.items()}).items():
                sums[key] = sums.get(key, 0) + value
        return sums, torch.stack(errors)

    def _one_after_the_other(
        self,
        part: Rollout,
        advantages: Tensor,
        returns: Tensor,
        share: Tensor,
        scale: Tensor,
        kl_coef: float,
        learns: bool,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Accumulate the gradients of a micro-batch; the policy's graph is freed before the critic's is built."""
        inputs, losses = inputs_of(part, self.shared), {}
        with self.accelerator.no_sync(self.ranked["policy"]):
            with torch.set_grad_enabled(learns):
                outputs = logprobs_and_entropies(self.ranked["policy"], part, inputs, self.stage.temperature)
                loss, found = self._policy_loss(part, *outputs, advantages, kl_coef)
            losses["loss/policy_avg"] = masked_sum(share * loss, part.mask)
            if learns:
                self.accelerator.backward(scale * losses["loss/policy_avg"])
        if self.critic is None:
            return losses, found
        with self.accelerator.no_sync(self.ranked["critic"]):
            loss, more = self._value_loss(part, values_of(self.ranked["critic"], part, inputs), returns)
            losses["loss/value_avg"] = masked_sum(share * loss, part.mask)
            self.accelerator.backward(scale * losses["loss/value_avg"])
        return losses, found | more

    def _on_trunk(
        self,
        part: Rollout,
        advantages: Tensor,
        returns: Tensor,
        share: Tensor,
        scale: Tensor,
        kl_coef: float,
        learns: bool,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Accumulate the gradients of L_policy + c L_value in one pass, for a critic on the policy's trunk.

        Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 9.
        """
        policy, critic = self.ranked["policy"], self.ranked["critic"]
        with self.accelerator.no_sync(policy), self.accelerator.no_sync(critic):
            with torch.set_grad_enabled(learns):
                tokens = part.response_ids[part.mask]
                outputs = forward.response_outputs(policy, inputs_of(part, self.shared), tokens, self.stage.temperature)
                logprobs, entropy = (spread(output, part.mask) for output in outputs[:2])
                loss, found = self._policy_loss(part, logprobs, entropy, advantages, kl_coef)
            losses = {"loss/policy_avg": masked_sum(share * loss, part.mask)}
            loss, more = self._value_loss(part, spread(critic(outputs[2]), part.mask), returns)
            losses["loss/value_avg"] = masked_sum(share * loss, part.mask)
            both = self.stage.value_coef * losses["loss/value_avg"]
            self.accelerator.backward(scale * (both + losses["loss/policy_avg"] if learns else both))
        return losses, found | more

    def _policy_loss(
        self, part: Rollout, logprobs: Tensor, entropy: Tensor, advantages: Tensor, kl_coef: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the policy's loss per token of a micro-batch, and its metrics per token; all (B, T)."""
        stage, ratios = self.stage, (logprobs, part.logprobs)
        if stage.ratio is not Ratio.token:
            ratios = tuple(over_response(x, part.mask, stage.ratio is Ratio.response_mean) for x in ratios)
        clipped = clipped_policy_loss(*ratios, advantages, stage.clip_low, stage.clip_high, stage.dual_clip)
        loss = clipped.loss
        if stage.importance_cap is not None:
            loss = loss * truncated_importance(part.logprobs, part.sampler_logprobs, stage.importance_cap)
        if kl_coef:
            estimator = ESTIMATORS[stage.kl_estimator.value]
            loss = loss + kl_coef * kl_loss(
                logprobs, part.logprobs, part.ref_logprobs, estimator, stage.kl_ratio_gradient
            )
        if stage.entropy_coef:
            loss = loss - stage.entropy_coef * entropy
        return loss, {
            "policy/approxkl_avg": 0.5 * (logprobs.detach() - part.logprobs) ** 2,
            "policy/clipfrac_avg": clipped.clipped,
            "policy/entropy_avg": entropy.detach(),
            "val/ratio": clipped.ratio.detach(),
        }

    def _value_loss(self, part: Rollout, values: Tensor, returns: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the critic's loss per token of a micro-batch, and its metrics per token; all (B, T)."""
        loss, clipped = clipped_value_loss(values, part.values, returns, self.stage.value_clip)
        return loss, {"val/clipfrac_avg": clipped}
