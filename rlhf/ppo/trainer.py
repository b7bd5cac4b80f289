"""Proximal policy optimisation against a reward on whole responses.

What differs from the paper's algorithm (Schulman et al. 2017) is in README.md beside this file, detail by detail.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf.config import PPOStage
from rlhf.data.render import Prompt
from rlhf.errors import ConfigError, TrainingError
from rlhf.ppo import checkpoint
from rlhf.ppo.advantages import gae
from rlhf.ppo.kl import k1, shape_rewards
from rlhf.ppo.losses import clipped_policy_loss, clipped_value_loss
from rlhf.ppo.rollout import Rollout, collect, evaluate, final_scores, micro_batches, model_inputs, response_logits
from rlhf.ppo.seeds import derive, permutation
from rlhf.ppo.tensors import entropies, masked_sum, masked_var, standardize, token_logprobs
from rlhf.rewards import RewardFunction

Metrics = dict[str, float]


class PPOTrainer:
    """Improve ``policy`` under ``reward`` while it stays near ``reference``.

    Args:
        policy: a causal language model, or a PeftModel around one.
        reference: the model that the KL penalty pulls towards; None: ``policy`` with its adapter switched off.
        critic: gives the value of the state before each response token (rlhf.ppo.Critic).
        reward: (prompts, completions) -> one number per completion.
        prompts: what to answer; they are visited in a new order on every pass.
        stage: the settings, as conf/stage/ppo.yaml explains them.
        score_mean, score_std: of the reward on the reference's responses, for ``stage.normalize_scores``.
        log: called with the metrics of an update and its number.

    Raises:
        ConfigError: the ranks cannot share the minibatches equally.
        TrainingError: policy and reference differ at the start, or a score, a loss or a gradient is not a number.
    """

    def __init__(
        self,
        policy: Any,
        reference: Any | None,
        critic: nn.Module,
        tokenizer: Any,
        reward: RewardFunction,
        prompts: Sequence[Prompt],
        stage: PPOStage,
        *,
        seed: int,
        score_mean: float = 0.0,
        score_std: float = 1.0,
        log: Callable[[Metrics, int], None] = lambda metrics, update: None,
        cpu: bool | None = None,
    ):
        self.stage, self.seed, self.log = stage, seed, log
        self.tokenizer, self.reward, self.prompts = tokenizer, reward, list(prompts)
        self.score_mean, self.score_std = (score_mean, score_std) if stage.normalize_scores else (0.0, 1.0)
        # Left to itself, accelerate makes every rank on a machine without a GPU believe that it is alone.
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available() if cpu is None else cpu)
        ranks = self.accelerator.num_processes
        if stage.batch_size % (ranks * stage.minibatches):
            raise ConfigError(
                f"stage.batch_size={stage.batch_size} is not divisible by {ranks} ranks times "
                f"stage.minibatches={stage.minibatches}: ranks would make different numbers of steps"
            )
        for model in (policy, critic, *(() if reference is None else (reference,))):
            model.to(self.accelerator.device).eval()  # dropout off: the ratio compares two forward passes
        self.reference = reference if reference is None else reference.requires_grad_(False)
        self.policy, self.critic = policy, critic
        self.optimizers = {
            "policy": self._adam(policy, stage.learning_rate),
            "critic": self._adam(critic, stage.critic_learning_rate),
        }
        self.ranked_policy, self.ranked_critic, *_ = self.accelerator.prepare(policy, critic, *self.optimizers.values())
        self.modules = {"policy": policy, "critic": critic}
        self.update = 0
        self.metrics: Metrics = {}

    def _adam(self, model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
        parameters = list(checkpoint.trainable(model).values())
        return torch.optim.AdamW(parameters, lr=learning_rate, eps=self.stage.adam_epsilon, weight_decay=0.0)

    def restore(self, folder: Path) -> int:
        """Go on from the newest checkpoint in ``folder``; returns the updates that it holds, 0 without one."""
        self.update, self.metrics = checkpoint.load(folder, self.modules, self.optimizers)
        return self.update

    def train(self, folder: Path | None = None, should_stop: Callable[[], bool] = lambda: False) -> Metrics:
        """Make the updates that are left of ``stage.updates`` and return the last metrics.

        Every ``stage.save_every`` updates a checkpoint is written into ``folder``.

        Raises:
            KeyboardInterrupt: ``should_stop`` said so; a checkpoint of the last whole update is in ``folder``.
        """
        while self.update < self.stage.updates:
            self.metrics = self.step(self.batch(self.update))
            self.log(self.metrics, self.update)
            # Ctrl-C may reach one rank alone, and the others would wait for it for ever.
            stopping = bool(self._over_ranks(torch.tensor(float(should_stop()), device=self.accelerator.device)))
            if folder is not None and (stopping or self.update % self.stage.save_every == 0):
                if self.accelerator.is_main_process:
                    checkpoint.save(folder, self.modules, self.optimizers, self.update, self.metrics)
                self.accelerator.wait_for_everyone()
            if stopping:
                raise KeyboardInterrupt
        return self.metrics

    def batch(self, update: int) -> list[Prompt]:
        """This rank's prompts of an update: a slice of an endless sequence of shuffled passes."""
        size, rank, ranks = self.stage.batch_size, self.accelerator.process_index, self.accelerator.num_processes
        chosen = []
        for position in range(update * size + rank, (update + 1) * size, ranks):
            number, index = divmod(position, len(self.prompts))
            chosen.append(self.prompts[permutation(len(self.prompts), self.seed, "prompts", number)[index]])
        return chosen

    def step(self, prompts: Sequence[Prompt]) -> Metrics:
        """One iteration of the algorithm: act, score, estimate, improve."""
        stage = self.stage
        rollout = collect(
            self.policy,
            self.tokenizer,
            self.reward,
            prompts,
            temperature=stage.temperature,
            max_prompt_length=stage.max_prompt_length,
            max_response_length=stage.max_response_length,
            seed=derive(self.seed, "rollout", self.update, self.accelerator.process_index),
        )
        rollout = evaluate(rollout, self.policy, self.reference, self.critic, stage.temperature, stage.micro_batch_size)
        self._check_start(rollout)
        scores = final_scores(
            rollout.scores,
            rollout.ended,
            self.score_mean,
            self.score_std,
            stage.score_clip,
            stage.missing_eos,
            stage.missing_eos_penalty,
        )
        shaped = shape_rewards(scores, rollout.logprobs, rollout.ref_logprobs, rollout.mask, stage.kl_coef)
        advantages, returns = gae(shaped.rewards, rollout.values, rollout.mask, stage.gamma, stage.lam)
        weights = self._whiten(advantages, rollout.mask) if stage.whiten_advantages else advantages
        improved = self.improve(rollout, weights, returns)
        self.update += 1
        return self._report(rollout, scores, shaped.penalties, returns) | improved

    def improve(self, rollout: Rollout, advantages: Tensor, returns: Tensor) -> Metrics:
        """``epochs`` passes over the batch in minibatches, each one optimiser step of policy and critic."""
        rates = self._set_learning_rates()
        rows = len(rollout.scores)
        steps: list[dict[str, Tensor]] = []
        for epoch in range(self.stage.epochs):
            order = permutation(rows, self.seed, "minibatches", self.update, epoch).to(advantages.device)
            for index in order.chunk(self.stage.minibatches):
                steps.append(self._minibatch(rollout.rows(index), advantages[index], returns[index]))
                if len(steps) == 1:
                    self._check_ratio(steps[0]["val/ratio_error"])
        stacked = {key: torch.stack([step[key] for step in steps]) for key in steps[0] if key != "val/ratio_error"}
        means = {key: value.mean() for key, value in stacked.items()}
        means["val/ratio_var"] = stacked["val/ratio"].var(unbiased=False)
        reduced = self.accelerator.reduce(means, reduction="mean")
        return {key: float(value) for key, value in reduced.items()} | rates

    def _minibatch(self, rollout: Rollout, advantages: Tensor, returns: Tensor) -> dict[str, Tensor]:
        """One optimiser step. Micro-batches add up to the gradient of the mean over all tokens of the minibatch."""
        ranks = self.accelerator.num_processes
        # Ranks average their gradients: times their number, a share of the global count gives the global mean.
        total = self._over_ranks(rollout.mask.sum()) / ranks
        learns = self.update >= self.stage.critic_warmup_updates
        sums: dict[str, Tensor] = {}
        size = self.stage.micro_batch_size
        parts = zip(micro_batches(rollout, size), advantages.split(size), returns.split(size), strict=True)
        for part, part_advantages, part_returns in parts:
            loss, found = self._losses(part, part_advantages, part_returns, learns)
            self.accelerator.backward(loss / total)
            for key, value in found.items():
                worse = key == "val/ratio_error"
                sums[key] = (
                    value if key not in sums else torch.maximum(sums[key], value) if worse else sums[key] + value
                )
        found = {key: value if key == "val/ratio_error" else value / rollout.mask.sum() for key, value in sums.items()}
        self._descend(found, learns)
        return found

    def _losses(
        self, part: Rollout, advantages: Tensor, returns: Tensor, learns: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of both losses over the tokens of a micro-batch, and the sums of what is reported."""
        stage, mask = self.stage, part.mask
        with torch.set_grad_enabled(learns):
            logits = response_logits(self.ranked_policy, part)
            logprobs = token_logprobs(logits, part.response_ids, stage.temperature)
        values = self.ranked_critic(**model_inputs(part), length=mask.shape[1])
        policy = clipped_policy_loss(logprobs, part.logprobs, advantages, stage.clip)
        value = clipped_value_loss(values, part.values, returns, stage.value_clip)
        policy_sum, value_sum = masked_sum(policy.loss, mask), masked_sum(value.loss, mask)
        with torch.no_grad():
            found = {
                "loss/policy_avg": policy_sum.detach(),
                "loss/value_avg": value_sum.detach(),
                "policy/approxkl_avg": masked_sum(0.5 * (logprobs - part.logprobs) ** 2, mask),
                "policy/clipfrac_avg": masked_sum(policy.clipped.float(), mask),
                "policy/entropy_avg": masked_sum(entropies(logits, stage.temperature), mask),
                "val/clipfrac_avg": masked_sum(value.clipped.float(), mask),
                "val/ratio": masked_sum(policy.ratio, mask),
                "val/ratio_error": torch.where(mask, policy.ratio - 1, torch.zeros_like(policy.ratio)).abs().max(),
            }
        # Two sets of parameters, two optimizers: adding the losses mixes no gradient.
        return (policy_sum + value_sum if learns else value_sum), found

    def _descend(self, found: dict[str, Tensor], learns: bool) -> None:
        """Clip and apply the gradients of both models, unless one is not a number: then neither is changed."""
        learning = {"critic": self.ranked_critic} | ({"policy": self.ranked_policy} if learns else {})
        for name, model in learning.items():
            norm = self.accelerator.clip_grad_norm_(checkpoint.trainable(model).values(), self.stage.max_grad_norm)
            loss = found["loss/policy_avg" if name == "policy" else "loss/value_avg"]
            if not (torch.isfinite(norm) and torch.isfinite(loss)):
                raise TrainingError(
                    f"the {name}'s loss or gradient is not a finite number at update {self.update + 1}: "
                    "lower its learning rate, or use model.dtype=float32"
                )
        for name in learning:
            self.optimizers[name].step()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def _set_learning_rates(self) -> Metrics:
        """Linear warm-up, then linear decay to zero; the schedule is a function of the update, and has no state."""
        warm = min(1.0, (self.update + 1) / max(self.stage.warmup_updates, 1))
        share = warm * (1 - self.update / self.stage.updates)
        bases = {"policy": self.stage.learning_rate, "critic": self.stage.critic_learning_rate}
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = bases[name] * share
        return {"lr": bases["policy"] * share, "lr/critic": bases["critic"] * share}

    def _whiten(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """Standardise over the tokens of all ranks; each rank by itself would weigh its own batch by its own spread."""
        count, total = self._over_ranks(mask.sum()), self._over_ranks(masked_sum(advantages, mask))
        mean = total / count
        var = self._over_ranks(masked_sum((advantages - mean) ** 2, mask)) / (count - 1).clamp(min=1)
        return standardize(advantages, mask, mean, var)

    def _over_ranks(self, x: Tensor) -> Tensor:
        return self.accelerator.reduce(x, reduction="sum")

    def _tolerance(self) -> float:
        return 1e-4 if next(self.policy.parameters()).dtype is torch.float32 else 0.1

    def _check_start(self, rollout: Rollout) -> None:
        """Before the first step the policy is the reference: anything else is a wrong model or a wrong forward pass."""
        if self.update == 0:
            error = torch.where(rollout.mask, rollout.logprobs - rollout.ref_logprobs, 0.0).abs().max().item()
            if error > self._tolerance():
                raise TrainingError(
                    f"the policy starts {error:.2g} nats away from its reference at some token, not at 0: "
                    "the reference must be the policy's own starting point"
                )

    def _check_ratio(self, error: Tensor) -> None:
        """At the first minibatch of an update nothing has been learned, so every ratio is 1."""
        if float(error) > self._tolerance():
            raise TrainingError(
                f"the first minibatch of update {self.update + 1} has a ratio {float(error):.2g} away from 1: "
                "the rollout's log-probabilities are not those of the policy that is trained"
            )

    def _report(self, rollout: Rollout, scores: Tensor, penalties: Tensor, returns: Tensor) -> Metrics:
        """What the batch of experience says; means over responses, or over tokens where the name is one of a token."""
        mask, lengths = rollout.mask, rollout.mask.sum(-1).float()
        kl = torch.where(mask, k1(rollout.logprobs, rollout.ref_logprobs), 0.0).sum(-1)
        non_score = penalties.sum(-1)
        error = masked_var(returns - rollout.values, mask) / masked_var(returns, mask).clamp(min=1e-8)
        found = {
            "objective/scores": rollout.scores.mean(),
            "objective/rlhf_reward": (scores + non_score).mean(),
            "objective/kl": kl.mean(),
            "objective/scores_std": rollout.scores.std(unbiased=False),
            "objective/non_score_reward": non_score.mean(),
            "objective/entropy": torch.where(mask, -rollout.logprobs, 0.0).sum(-1).mean(),
            "val/explained_variance": 1 - error,
            "val/ended": rollout.ended.float().mean(),
            "val/response_length": lengths.mean(),
        }
        reduced = self.accelerator.reduce(found, reduction="mean")
        episode = {"episode": float(self.update * self.stage.batch_size)}
        return {key: float(value) for key, value in reduced.items()} | episode
