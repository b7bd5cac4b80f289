"""Updates of policy and critic from a batch of rollouts: epochs, minibatches, optimizer steps."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf.config import LossMean, PPOStage
from rlhf.hardware.precision import autocast
from rlhf.modeling.logprobs import token_shares
from rlhf.modeling.seeding import permutation
from rlhf.ppo import checkpoint
from rlhf.ppo.average import Average
from rlhf.ppo.distributed import anywhere, average_gradients, everyones, everyones_rows, largest, padded, total
from rlhf.ppo.gradients import Gradients
from rlhf.ppo.metrics import Metrics
from rlhf.ppo.pretraining import Pretraining
from rlhf.ppo.rollout import (
    Rollout,
    grouped_batches,
    micro_batches,
    tolerance,
)
from rlhf.ppo.sentinel import BrokenError
from rlhf.training.oom import Parts

T = TypeVar("T")


class Learner:
    """Policy and critic (if any), each with its optimizer; ``improve`` runs the epochs for one batch of rollouts."""

    def __init__(
        self,
        policy: Any,
        critic: nn.Module | None,
        stage: PPOStage,
        seed: int,
        accelerator: Accelerator,
        oom_retry: bool = True,
        autocast: bool = False,
        shared: bool = False,
        text: Sequence[Sequence[int]] | None = None,
    ):
        self.shared = shared
        self.pretraining = None if text is None else Pretraining(text, stage, seed, accelerator)
        self.parts, self.autocast = Parts("ppo", oom_retry), autocast
        self.stage, self.seed, self.accelerator = stage, seed, accelerator
        self.rate_factor = 1.0
        self.critic = critic
        self.modules = {"policy": policy} if critic is None else {"policy": policy, "critic": critic}
        self.optimizers = {name: self._adam(model, self.rates[name]) for name, model in self.modules.items()}
        self.average = None if stage.ema is None else Average(policy, stage.ema)
        prepared = accelerator.prepare(*self.modules.values(), *self.optimizers.values())
        self.ranked: dict[str, Any] = dict(zip(self.modules, prepared, strict=False))
        self.gradients = Gradients(self.ranked, critic, stage, accelerator, shared)

    @property
    def saved(self) -> dict[str, nn.Module]:
        """The modules of a checkpoint: those that learn, and the average of the policy."""
        return self.modules if self.average is None else self.modules | {"average": self.average}

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates without schedule."""
        return {"policy": self.stage.learning_rate, "critic": self.stage.critic_learning_rate}

    def _adam(self, model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
        parameters = list(checkpoint.trainable(model).values())
        # Fused: one pass over memory instead of about ten.
        return torch.optim.AdamW(
            parameters, lr=learning_rate, eps=self.stage.adam_epsilon, weight_decay=0.0, fused=True
        )

    def improve(
        self, rollout: Rollout, advantages: Tensor, returns: Tensor, update: int, kl_coef: float = 0.0
    ) -> Metrics:
        """Run ``epochs`` passes over the batch in minibatches, one optimizer step each, and return the mean metrics.

        Each rank passes its rows of the batch. Minibatches are drawn from the prompts of all ranks and split over
        them; prompts without an unmasked response are left out. The update ends before the step of the first minibatch
        whose KL from the start of the update exceeds ``target_kl``. ``kl_coef`` is the coefficient of the penalty in
        the loss, 0 for none.

        Raises:
            BrokenError: the first ratio is not 1, or a loss or a gradient is not a number.
        """
        rates = self._set_learning_rates(update)
        learns = update >= self.stage.critic_warmup_updates
        found: list[Metrics] = []
        steps = 0
        rollout = everyones_rows(rollout, self.accelerator)
        advantages, returns = everyones(self.accelerator, *(padded(x, self.accelerator) for x in (advantages, returns)))
        first = update * self.stage.epochs * self.stage.minibatches
        for step, index in enumerate(self._minibatches(rollout.mask, update), first):
            part = rollout.rows(index.to(advantages.device))
            sums, error = self._accumulate(part, advantages[index], returns[index], kl_coef, learns, step)
            if not found:
                self._check_ratio(error, update)
            found.append(sums)
            if self.stage.target_kl is not None and sums["policy/approxkl_avg"] > self.stage.target_kl:
                self._forget()
                break
            self._descend(sums, learns, update)
            steps += 1
        if not found:
            return rates | {"policy/steps": 0.0}
        means = {key: sum(metrics[key] for metrics in found) / len(found) for key in found[0]}
        variance = sum((metrics["val/ratio"] - means["val/ratio"]) ** 2 for metrics in found) / len(found)
        return means | rates | {"val/ratio_var": variance, "policy/steps": float(steps if learns else 0)}

    def _minibatches(self, mask: Tensor, update: int) -> Iterator[Tensor]:
        """Yield the indices of this rank's rows of each minibatch: all responses to its share of the prompts.

        If the prompts left in a minibatch do not divide among the ranks, masked ones make up the difference.
        """
        samples, rank, ranks = self.stage.samples, self.accelerator.process_index, self.accelerator.num_processes
        used = mask.view(-1, samples * mask.shape[1]).any(-1).cpu()
        left, masked = used.nonzero()[:, 0], (~used).nonzero()[:, 0]
        for epoch in range(self.stage.epochs if len(left) else 0):
            order = left[permutation(len(left), self.seed, "minibatches", update, epoch)]
            for groups in order.chunk(self.stage.minibatches):
                missing = -len(groups) % ranks
                own = torch.cat([groups, masked[:1].expand(missing)])[rank::ranks]
                yield (own[:, None] * samples + torch.arange(samples)).flatten()

    def _accumulate(
        self, rollout: Rollout, advantages: Tensor, returns: Tensor, kl_coef: float, learns: bool, step: int = 0
    ) -> tuple[Metrics, float]:
        """Accumulate the gradients of a minibatch's mean losses over its micro-batches and all ranks.

        ``step`` counts the minibatches of the run, and selects those of the pretraining text.

        Returns the metrics of the minibatch and the largest difference of a ratio from 1.
        """
        shares = token_shares(rollout.mask, self.stage.loss_mean is LossMean.response)
        if self.stage.loss_mean is LossMean.constant:
            shares = shares / self.stage.max_response_length
        counted = rollout.mask.any(-1) if self.stage.loss_mean is LossMean.constant else shares
        weight, tokens = (total(x.sum(), self.accelerator) for x in (counted, rollout.mask))
        # Gradients are averaged over ranks, so a rank's share of the global weight is multiplied by their number.
        scale = self.accelerator.num_processes / weight
        work = (rollout, advantages, returns, shares, scale, kl_coef, learns)

        pretraining = self.pretraining if learns else None

        def gradients(rows: int, tokens: int | None) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
            with autocast(self.accelerator.device, self.autocast):  # around all micro-batches, to cast weights once
                if self.shared:
                    parts = grouped_batches(rollout, self.stage.samples, rows, tokens)
                else:
                    parts = micro_batches(rollout, rows, tokens)
                text = None
                if pretraining is not None:
                    text = pretraining.accumulate(self.ranked["policy"], step, rows, tokens)
                return *self.gradients(*work, parts), text

        sums, error, text = self.in_parts(
            gradients,
            len(rollout.scores),
            self._forget,
            lambda holds: anywhere(holds, self.accelerator),
        )
        for model in self.modules.values():
            average_gradients(model.parameters(), self.accelerator)
        sums = {key: value / (weight if key.startswith("loss/") else tokens) for key, value in sums.items()}
        means = total(torch.stack(list(sums.values())), self.accelerator).tolist()
        found = dict(zip(sums, means, strict=True))
        if text is not None:
            found["loss/ptx_avg"] = total(text, self.accelerator).item() / self.accelerator.num_processes
        return found, largest(error, self.accelerator)

    def in_parts(self, work: Callable[[int, int | None], T], rows: int, *others: Callable) -> T:
        """Call ``work`` with bounds on the rows and tokens of a forward pass; lower them if memory runs out."""
        most, tokens = min(self.stage.micro_batch_size or rows, rows), self.stage.micro_batch_tokens

        def bounded() -> T:
            return work(-(-most // self.parts.count), None if tokens is None else -(-tokens // self.parts.count))

        return self.parts.attempt(bounded, most, *others)

    def _descend(self, found: Metrics, learns: bool, update: int) -> None:
        """Clip and apply the gradients of both models; if a loss or gradient is not finite, change neither and raise.

        Raises:
            BrokenError: a loss or a gradient is not a finite number.
        """
        learning = {name: model for name, model in reversed(self.ranked.items()) if learns or name != "policy"}
        for name, model in learning.items():
            norm = self.accelerator.clip_grad_norm_(checkpoint.trainable(model).values(), self.stage.max_grad_norm)
            loss = found["loss/policy_avg" if name == "policy" else "loss/value_avg"]
            if not (torch.isfinite(norm) and math.isfinite(loss)):
                self._forget()  # the first step after a rollback must not use them
                raise BrokenError(
                    "not_finite",
                    f"the {name}'s loss or gradient is not a finite number at update {update + 1}, commonly because "
                    "the steps are too large or half precision overflows: lower its learning rate, or use "
                    "model.dtype=float32",
                )
        for name in learning:
            self.optimizers[name].step()
        self._forget()

    def _forget(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def _set_learning_rates(self, update: int) -> Metrics:
        """Set the rates: linear warm-up, linear decay to zero, times ``rate_factor`` (below 1 after a rollback)."""
        warm = min(1.0, (update + 1) / max(self.stage.warmup_updates, 1))
        share = self.rate_factor * warm * (1 - update / self.stage.updates)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.rates[name] * share
        return {"lr" if name == "policy" else f"lr/{name}": self.rates[name] * share for name in self.modules}

    def _check_ratio(self, error: float, update: int) -> None:
        """Raise a BrokenError unless every ratio of an update's first minibatch is 1, up to rounding."""
        if error > tolerance(self.modules["policy"], self.stage.sentinel, self.autocast):
            raise BrokenError(
                "ratio_off",
                f"a ratio in the first minibatch of update {update + 1} differs from 1 by {error:.2g}: "
                "the rollout's log-probabilities are not those of the trained policy",
            )
