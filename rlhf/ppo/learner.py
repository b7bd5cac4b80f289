"""Policy and critic as they learn from a batch of experience: epochs, minibatches, optimiser steps."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf.config import PPOStage
from rlhf.errors import TrainingError
from rlhf.ppo import checkpoint
from rlhf.ppo.losses import clipped_policy_loss, clipped_value_loss
from rlhf.ppo.ranks import total
from rlhf.ppo.report import Metrics
from rlhf.ppo.rollout import Rollout, micro_batches, model_inputs, response_logits, tolerance
from rlhf.ppo.seeds import permutation
from rlhf.ppo.tensors import entropies, masked_sum, token_logprobs


class Learner:
    """Both models, each with its optimizer; ``improve`` takes them a batch further.

    Raises:
        TrainingError: the first ratio is not 1, or a loss or a gradient is not a number.
    """

    def __init__(self, policy: Any, critic: nn.Module, stage: PPOStage, seed: int, accelerator: Accelerator):
        self.stage, self.seed, self.accelerator = stage, seed, accelerator
        self.modules = {"policy": policy, "critic": critic}
        self.optimizers = {
            "policy": self._adam(policy, stage.learning_rate),
            "critic": self._adam(critic, stage.critic_learning_rate),
        }
        self.ranked_policy, self.ranked_critic, *_ = accelerator.prepare(policy, critic, *self.optimizers.values())

    def _adam(self, model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
        parameters = list(checkpoint.trainable(model).values())
        return torch.optim.AdamW(parameters, lr=learning_rate, eps=self.stage.adam_epsilon, weight_decay=0.0)

    def improve(self, rollout: Rollout, advantages: Tensor, returns: Tensor, update: int) -> Metrics:
        """``epochs`` passes over the batch in minibatches, each one optimiser step of policy and critic."""
        rates = self._set_learning_rates(update)
        rows = len(rollout.scores)
        steps: list[dict[str, Tensor]] = []
        for epoch in range(self.stage.epochs):
            order = permutation(rows, self.seed, "minibatches", update, epoch).to(advantages.device)
            for index in order.chunk(self.stage.minibatches):
                steps.append(self._minibatch(rollout.rows(index), advantages[index], returns[index], update))
                if len(steps) == 1:
                    self._check_ratio(steps[0]["val/ratio_error"], update)
        stacked = {key: torch.stack([step[key] for step in steps]) for key in steps[0] if key != "val/ratio_error"}
        means = {key: value.mean() for key, value in stacked.items()}
        means["val/ratio_var"] = stacked["val/ratio"].var(unbiased=False)
        reduced = self.accelerator.reduce(means, reduction="mean")
        return {key: float(value) for key, value in reduced.items()} | rates

    def _minibatch(self, rollout: Rollout, advantages: Tensor, returns: Tensor, update: int) -> dict[str, Tensor]:
        """One optimiser step. Micro-batches add up to the gradient of the mean over all tokens of the minibatch."""
        ranks = self.accelerator.num_processes
        # Ranks average their gradients: times their number, a share of the global count gives the global mean.
        count = total(rollout.mask.sum(), self.accelerator) / ranks
        learns = update >= self.stage.critic_warmup_updates
        sums: dict[str, Tensor] = {}
        size = self.stage.micro_batch_size
        parts = zip(micro_batches(rollout, size), advantages.split(size), returns.split(size), strict=True)
        for part, part_advantages, part_returns in parts:
            # One after the other: the policy's graph is gone before there is the critic's.
            loss, found = self._policy_loss(part, part_advantages, learns)
            if learns:
                self.accelerator.backward(loss / count)
            loss, of_values = self._value_loss(part, part_returns)
            self.accelerator.backward(loss / count)
            for key, value in (found | of_values).items():
                worse = key == "val/ratio_error"
                sums[key] = (
                    value if key not in sums else torch.maximum(sums[key], value) if worse else sums[key] + value
                )
        found = {key: value if key == "val/ratio_error" else value / rollout.mask.sum() for key, value in sums.items()}
        self._descend(found, learns, update)
        return found

    def _policy_loss(self, part: Rollout, advantages: Tensor, learns: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the loss over the tokens of a micro-batch, and the sums of what is reported."""
        stage, mask = self.stage, part.mask
        with torch.set_grad_enabled(learns):
            logits = response_logits(self.ranked_policy, part)
            logprobs = token_logprobs(logits, part.response_ids, stage.temperature)
            policy = clipped_policy_loss(logprobs, part.logprobs, advantages, stage.clip)
            loss = masked_sum(policy.loss, mask)
        with torch.no_grad():
            found = {
                "loss/policy_avg": loss.detach(),
                "policy/approxkl_avg": masked_sum(0.5 * (logprobs - part.logprobs) ** 2, mask),
                "policy/clipfrac_avg": masked_sum(policy.clipped.float(), mask),
                "policy/entropy_avg": masked_sum(entropies(logits, stage.temperature), mask),
                "val/ratio": masked_sum(policy.ratio, mask),
                "val/ratio_error": torch.where(mask, policy.ratio - 1, torch.zeros_like(policy.ratio)).abs().max(),
            }
        return loss, found

    def _value_loss(self, part: Rollout, returns: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """As ``_policy_loss``, of the critic."""
        values = self.ranked_critic(**model_inputs(part), length=part.mask.shape[1])
        value = clipped_value_loss(values, part.values, returns, self.stage.value_clip)
        loss = masked_sum(value.loss, part.mask)
        found = {
            "loss/value_avg": loss.detach(),
            "val/clipfrac_avg": masked_sum(value.clipped.float(), part.mask),
        }
        return loss, found

    def _descend(self, found: dict[str, Tensor], learns: bool, update: int) -> None:
        """Clip and apply the gradients of both models, unless one is not a number: then neither is changed."""
        learning = {"critic": self.ranked_critic} | ({"policy": self.ranked_policy} if learns else {})
        for name, model in learning.items():
            norm = self.accelerator.clip_grad_norm_(checkpoint.trainable(model).values(), self.stage.max_grad_norm)
            loss = found["loss/policy_avg" if name == "policy" else "loss/value_avg"]
            if not (torch.isfinite(norm) and torch.isfinite(loss)):
                raise TrainingError(
                    f"the {name}'s loss or gradient is not a finite number at update {update + 1}: "
                    "lower its learning rate, or use model.dtype=float32"
                )
        for name in learning:
            self.optimizers[name].step()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def _set_learning_rates(self, update: int) -> Metrics:
        """Linear warm-up, then linear decay to zero; the schedule is a function of the update, and has no state."""
        warm = min(1.0, (update + 1) / max(self.stage.warmup_updates, 1))
        share = warm * (1 - update / self.stage.updates)
        bases = {"policy": self.stage.learning_rate, "critic": self.stage.critic_learning_rate}
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = bases[name] * share
        return {"lr": bases["policy"] * share, "lr/critic": bases["critic"] * share}

    def _check_ratio(self, error: Tensor, update: int) -> None:
        """At the first minibatch of an update nothing has been learned, so every ratio is 1."""
        if float(error) > tolerance(self.modules["policy"]):
            raise TrainingError(
                f"the first minibatch of update {update + 1} has a ratio {float(error):.2g} away from 1: "
                "the rollout's log-probabilities are not those of the policy that is trained"
            )
