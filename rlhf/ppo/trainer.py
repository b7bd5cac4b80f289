"""Policy optimization of a reward on whole responses: PPO with a critic, or estimators that compare K responses.

docs/ppo.md lists every difference from the paper's algorithm (Schulman et al. 2017).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf.config import KLIn, PPOStage, SentinelAction
from rlhf.data.render import Prompt
from rlhf.data.render import prompt_ids as encoded
from rlhf.errors import ConfigError, RewardError, TrainingError
from rlhf.hardware.memory import give_back, keep_freed
from rlhf.hardware.precision import autocast as autocasting
from rlhf.modeling.fused_lora import fuse
from rlhf.modeling.segment_attention import attending
from rlhf.ppo import checkpoint, ledger
from rlhf.ppo.advantages import estimate
from rlhf.ppo.collector import Collector
from rlhf.ppo.distributed import agreed, anywhere, largest, moments, total, whiten
from rlhf.ppo.kl import ESTIMATORS, adapted, shape_rewards
from rlhf.ppo.learner import Learner
from rlhf.ppo.metrics import Metrics, report
from rlhf.ppo.remedies import heed
from rlhf.ppo.responses import Sampler
from rlhf.ppo.rollout import Rollout, evaluate, filled, learned_rows, tolerance
from rlhf.ppo.sentinel import BrokenError, Diagnosis, Sentinel
from rlhf.rewards import RewardFunction, Scorer


class PPOTrainer:
    """A PPO run: trains ``policy`` to maximize ``reward`` with a KL penalty towards ``reference``.

    Args:
        policy: a causal language model, or a PeftModel around one.
        reference: the model that the KL is measured from; None for ``policy`` with its adapter disabled. The teacher
            if ``stage.teacher`` is set, and ``reward`` is then only logged.
        critic: computes the value of the state before each response token (rlhf.ppo.Critic, or ValueHead); None for
            estimators other than GAE.
        reward: (prompts, completions) -> one number per completion; terms of a Composition are logged separately.
        prompts: the prompts; they are visited in a new order in each pass.
        prompt_ids: the prompts as tokens; if None, they are rendered here and truncated to stage.max_prompt_length.
        stage: the settings, documented in conf/stage/ppo.yaml.
        gold: scores the same responses; it is logged and does not affect training. So do ``shadows``, by name.
        score_mean: mean of the reward on the reference's responses, for ``stage.normalize_scores``.
        score_std: standard deviation of the same.
        log: called with the metrics of an update and its number.
        ``tell``: called with each diagnosis of the sentinel, after its ``stage.sentinel.action`` was taken.
        oom_retry: retry with smaller micro-batches if memory runs out; the gradient does not depend on them.
        autocast: multiply in bfloat16 in forward and backward passes.
        shared_prefix: compute a prompt once for its responses, in all forward and backward passes of the models.
        sampler: draws the responses, by default from the policy; a separate engine needs ``stage.importance_cap``.
        ``synchronize``: called before each rollout, so that an engine can copy the policy's weights.
        text: token ids (N, L) of pretraining text, for ``stage.ptx_coef``.

    Raises:
        ConfigError: the ranks cannot share the minibatches equally, or a critic or text is missing or not used.
    """

    def __init__(
        self,
        policy: Any,
        reference: Any | None,
        critic: nn.Module | None,
        tokenizer: Any,
        reward: RewardFunction,
        prompts: Sequence[Prompt],
        stage: PPOStage,
        *,
        seed: int,
        prompt_ids: Sequence[Sequence[int]] | None = None,
        gold: RewardFunction | None = None,
        shadows: Mapping[str, RewardFunction] | None = None,
        score_mean: float = 0.0,
        score_std: float = 1.0,
        log: Callable[[Metrics, int], None] = lambda metrics, update: None,
        sampler: Sampler | None = None,
        synchronize: Callable[[], None] = lambda: None,
        tell: Callable[[Diagnosis], None] = lambda diagnosis: print(f"ppo: {diagnosis}"),
        cpu: bool | None = None,
        oom_retry: bool = True,
        autocast: bool = False,
        shared_prefix: bool = False,
        text: Sequence[Sequence[int]] | None = None,
    ):
        self.stage, self.seed, self.log, self.tell = stage, seed, log, tell
        self.synchronize, self.tokenizer, self.prompts = synchronize, tokenizer, list(prompts)
        if prompt_ids is None:
            prompt_ids = [encoded(tokenizer, prompt, stage.max_prompt_length) for prompt in prompts]
        self.reward = Scorer(reward, gold, self._over_ranks, shadows)
        # Without ``cpu``, accelerate starts every rank on a machine without a GPU as a single process.
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available() if cpu is None else cpu)
        ranks = self.accelerator.num_processes
        if stage.batch_size % (ranks * stage.minibatches):
            raise ConfigError(
                f"stage.batch_size={stage.batch_size} is not divisible by {ranks} ranks times "
                f"stage.minibatches={stage.minibatches}: ranks would take different numbers of steps"
            )
        if (stage.ptx_coef > 0) != (text is not None):
            needed = "needs" if stage.ptx_coef else "does not use"
            raise ConfigError(f"stage.ptx_coef={stage.ptx_coef:g} {needed} pretraining text: change the argument text")
        if stage.has_critic != (critic is not None):
            needed = "needs a critic" if stage.has_critic else "has no critic"
            raise ConfigError(f"stage.advantage={stage.advantage.value} {needed}: change the argument critic")
        for model in (model for model in (policy, critic, reference) if model is not None):
            fuse(model)
            model.to(self.accelerator.device).eval()  # without dropout: the ratio compares two forward passes
        if self.accelerator.device.type == "cpu":
            keep_freed()
        self.reference = reference if reference is None else reference.requires_grad_(False)
        self.policy, self.critic = policy, critic
        self.shared = shared_prefix and stage.samples > 1
        self.learner = Learner(policy, critic, stage, seed, self.accelerator, oom_retry, autocast, self.shared, text)
        measured = (score_mean, score_std) if stage.normalize_scores else (0.0, 1.0)
        self.collector = Collector(
            policy, critic, tokenizer, self.reward, self.prompts, prompt_ids, stage, seed, self.accelerator, measured,
            autocast, sampler,
        )  # fmt: skip
        # The KL from a teacher starts high, and falls.
        limits = stage.sentinel if stage.teacher is None else replace(stage.sentinel, kl_max=None)
        self.sentinel = Sentinel(limits)
        self.update = 0
        self.kl_coef = stage.kl_coef if stage.teacher is None else 1.0
        self.beside: Callable[[], Any] = lambda: None  # returns the caller's own state for a checkpoint, as JSON
        self.found_beside: Any = None
        self.note: Callable[[list[ledger.Entry], int], None] = lambda entries, update: None  # the token ledger's
        self.metrics: Metrics = {}

    def restore(self, folder: Path) -> int:
        """Restore the newest intact checkpoint in ``folder`` and return its update; 0 without one.

        Raises:
            RunError: every checkpoint is corrupted.
            TrainingError: the sentinel stopped the run there, and ``stage.sentinel.action`` is not warn.
        """
        self.update, state = checkpoint.load(folder, self.learner.saved, self.learner.optimizers)
        if state:
            self.load_state(state)
            self.found_beside = state["beside"]
            self.sentinel.load_state_dict(state["sentinel"])
            self.learner.rate_factor = self.sentinel.rate_factor
        if self.sentinel.stopped and self.stage.sentinel.action is not SentinelAction.warn:
            raise TrainingError(
                f"the run was stopped at {self.sentinel.stopped}; start a new run with other settings, or continue "
                "this one with stage.sentinel.action=warn"
            )
        return self.update

    def state(self) -> dict[str, Any]:
        """Return the state of a checkpoint besides weights and optimizers, as JSON values."""
        return {
            "metrics": self.metrics,
            "kl_coef": self.kl_coef,
            "rewards": self.reward.state_dict(),
            "sentinel": self.sentinel.state_dict(),
            "healthy": self.sentinel.healthy,
            "beside": self.beside(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the part of ``state`` that depends only on the updates so far."""
        self.metrics, self.kl_coef = state["metrics"], state["kl_coef"]
        self.reward.load_state_dict(state["rewards"])

    def train(self, folder: Path | None = None, should_stop: Callable[[], bool] = lambda: False) -> Metrics:
        """Run the remaining updates of ``stage.updates`` and return the last metrics.

        Every ``stage.save_every`` updates a checkpoint is written to ``folder``.

        Raises:
            ConfigError: the sentinel's action is rollback, which needs a ``folder``.
            KeyboardInterrupt: ``should_stop`` returned True; ``folder`` has a checkpoint of the last complete update.
            RewardError: a reward failed; ``folder`` has a checkpoint of the last complete update.
            TrainingError: policy and reference differ at the start, a score, loss or gradient is not a number, or the
                sentinel stopped the run.
        """
        if self.stage.sentinel.action is SentinelAction.rollback:
            if folder is None:
                raise ConfigError("stage.sentinel.action=rollback needs a folder for checkpoints: train(folder)")
            if not checkpoint.checkpoints(folder):
                self.save(folder)  # the first rollback may need it
        while self.update < self.stage.updates:
            try:
                found = agreed(self.step(self.batch(self.update)), self.accelerator)
            except BrokenError as error:
                heed(self, [self.sentinel.broken(error, self.update + 1)], folder, error)
                continue
            except RewardError:  # on every rank, and before anything was learned
                if folder is not None:
                    self.save(folder)
                raise
            diagnoses = self.sentinel.observe(found, self.update)
            self.metrics = found | {"sentinel/active": float(len(self.sentinel.active))}
            self.log(self.metrics, self.update)
            # If Ctrl-C reached only one rank, the others would wait for it forever.
            stopping = anywhere(should_stop(), self.accelerator)
            if heed(self, diagnoses, folder):
                continue
            due = any(every and self.update % every == 0 for every in (self.stage.save_every, self.stage.keep_every))
            if folder is not None and (stopping or due):
                self.save(folder)
            if stopping:
                raise KeyboardInterrupt
        return self.metrics

    def save(self, folder: Path) -> None:
        """Write a checkpoint to ``folder``."""
        action, models = self.stage.sentinel.action, (self.learner.saved, self.learner.optimizers)
        refuge = self.update - self.stage.sentinel.window if action is SentinelAction.rollback else None
        if self.accelerator.is_main_process:
            checkpoint.save(folder, *models, self.update, self.state(), refuge, self.stage.keep_every)
        self.accelerator.wait_for_everyone()

    def batch(self, update: int) -> list[int]:
        """Return the indices of this rank's prompts of an update."""
        return self.collector.batch(update)

    def step(self, chosen: Sequence[int]) -> Metrics:
        """Run one update on K responses to each of the prompts at indices ``chosen`` and return its metrics."""
        models = [model for model in (self.policy, self.reference, self.critic) if self.shared and model is not None]
        with attending(getattr(model, "view", model) for model in models):
            return self._step(chosen)

    def _step(self, chosen: Sequence[int]) -> Metrics:
        self.reward.clear()
        stage, (rollout, noted) = self.stage, self._rollout(chosen)
        scored = ~rollout.scores.isnan()
        rollout = rollout._replace(scores=filled(rollout.scores, stage.samples))
        scores = self.collector.final(rollout.scores, rollout.mask.sum(-1), rollout.ended)
        if stage.teacher is not None:
            scores = torch.zeros_like(scores)  # no reward, and no rule for responses without EOS
        in_reward, estimator = stage.kl_in is KLIn.reward, ESTIMATORS[stage.kl_estimator.value]
        rewards, penalties = shape_rewards(
            scores, rollout.logprobs, rollout.ref_logprobs, rollout.mask, self.kl_coef, estimator, in_reward
        )
        if stage.whiten_rewards:
            rewards = whiten(rewards, rollout.mask, self.accelerator, keep_mean=True)
        advantages, returns = estimate(
            stage.advantage.value, rewards, rollout.values, rollout.mask, stage.samples, stage.gamma, stage.gae_lambda
        )
        learned = learned_rows(rollout, scores, stage, scored)
        weights = whiten(advantages, learned.mask, self.accelerator) if stage.whiten_advantages else advantages
        improved = self.learner.improve(learned, weights, returns, self.update, 0.0 if in_reward else self.kl_coef)
        if self.learner.average is not None:
            self.learner.average.update()
        self._settle()
        self.update += 1
        if stage.ledger is not None and self.accelerator.is_main_process:
            self.note(ledger.entries(self, chosen, rollout, weights.where(learned.mask, torch.nan)), self.update)
        targets = returns if stage.has_critic else None
        found = report(rollout, scores, penalties, targets, self.accelerator, stage.samples)
        found |= self.reward.metrics() | improved | noted
        found |= {"objective/kl_coef": self.kl_coef, "episode": float(self.update * stage.rows)}
        found |= {name: found[name] + self.metrics.get(name, 0.0) for name in ("tokens", "sampled_tokens")}
        if stage.teacher is not None:
            distance, _ = moments(rollout.logprobs - rollout.ref_logprobs, rollout.mask, self.accelerator)
            found["objective/reverse_kl"] = distance.item()
        if stage.kl_target is not None:
            self.kl_coef = adapted(self.kl_coef, found["objective/kl"], stage.kl_target, stage.kl_gain)
        return found

    def _rollout(self, chosen: Sequence[int]) -> tuple[Rollout, Metrics]:
        """Sample and score responses to the prompts at indices ``chosen``, with log-probabilities and values.

        Also returns the share of prompts whose responses have equal scores, before any is replaced.
        """
        self.synchronize()
        found, noted = self.collector.draw(chosen, self.update)
        rollout = found.packed(self.collector.ends, self.tokenizer.pad_token_id, self.policy.device)
        self._settle()
        models, decoded = (self.policy, self.reference, self.critic), self.collector.decoded
        with autocasting(self.accelerator.device, self.learner.autocast):
            options: Any = {"decoded": decoded, "shared": self.stage.samples if self.shared else 1}
            rollout = self.learner.in_parts(
                lambda *bounds: evaluate(rollout, *models, self.stage.temperature, *bounds, **options),
                len(rollout.scores),
            )
        self._check_start(rollout)
        return rollout, noted

    def _settle(self) -> None:
        """Free cached CPU memory between sampling and learning, whose tensors differ in size."""
        if self.accelerator.device.type == "cpu":
            give_back()

    def _over_ranks(self, x: Tensor) -> Tensor:
        return total(x.to(self.accelerator.device), self.accelerator).cpu()

    def _check_start(self, rollout: Rollout) -> None:
        """Raise a BrokenError unless the policy equals the reference, except a teacher, before the first step."""
        if self.update == 0 and self.stage.teacher is None:
            distance = torch.where(rollout.mask, rollout.logprobs - rollout.ref_logprobs, 0.0).abs()
            error = largest(distance, self.accelerator)
            if error > tolerance(self.policy, self.stage.sentinel, self.learner.autocast):
                raise BrokenError(
                    "start_off",
                    f"the policy differs from its reference by {error:.2g} nats at a token before the first step: "
                    "the reference must be the model that the policy starts from",
                )
