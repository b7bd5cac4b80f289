"""Proximal policy optimisation against a reward on whole responses.

docs/ppo.md lists every difference from the paper's algorithm (Schulman et al. 2017).
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf.config import KLIn, OldLogprobs, PPOStage, SentinelAction
from rlhf.data.render import Prompt
from rlhf.data.render import prompt_ids as encoded
from rlhf.errors import ConfigError, TrainingError
from rlhf.hardware.memory import give_back, keep_freed
from rlhf.hardware.precision import autocast as autocasting
from rlhf.modeling.fused_lora import fuse
from rlhf.modeling.generation import sample
from rlhf.modeling.seeding import derive, permutation
from rlhf.ppo import checkpoint
from rlhf.ppo.advantages import gae
from rlhf.ppo.critic import ValueHead
from rlhf.ppo.distributed import agreed, anywhere, largest, total, whiten
from rlhf.ppo.kl import ESTIMATORS, adapted, shape_rewards
from rlhf.ppo.learner import Learner
from rlhf.ppo.metrics import Metrics, report
from rlhf.ppo.rollout import Rollout, Sampler, collect, evaluate, final_scores, is_exact, tolerance
from rlhf.ppo.sentinel import STOPPED, BrokenError, Diagnosis, Sentinel
from rlhf.rewards import RewardFunction, Scorer


class PPOTrainer:
    """Improve ``policy`` under ``reward`` while it stays near ``reference``.

    Args:
        policy: a causal language model, or a PeftModel around one.
        reference: the model that the KL penalty pulls towards; None: ``policy`` with its adapter switched off.
        critic: gives the value of the state before each response token (rlhf.ppo.Critic, or ValueHead on the policy).
        reward: (prompts, completions) -> one number per completion; of a Composition each term is logged by itself.
        prompts: what to answer; they are visited in a new order on every pass.
        prompt_ids: the prompts as tokens; None: they are rendered here, and cut to stage.max_prompt_length.
        stage: the settings, as conf/stage/ppo.yaml explains them.
        gold: scores the same responses, is logged beside the reward, and changes nothing that is trained.
        score_mean: mean of the reward on the reference's responses, for ``stage.normalize_scores``.
        score_std: standard deviation of the same.
        log: called with the metrics of an update and its number.
        tell: called with each diagnosis of the sentinel, when what ``stage.sentinel.action`` says has been done.
        oom_retry: go on with smaller micro-batches where memory runs out; the gradient does not depend on them.
        autocast: multiply in bfloat16 where log-probabilities and values are computed, and learned from.
        sampler: draws the responses; another engine than the policy itself wants ``stage.importance_cap``. None: ours.
        synchronise: called before each rollout, so that an engine takes over the policy's weights.

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
        prompt_ids: Sequence[Sequence[int]] | None = None,
        gold: RewardFunction | None = None,
        score_mean: float = 0.0,
        score_std: float = 1.0,
        log: Callable[[Metrics, int], None] = lambda metrics, update: None,
        sampler: Sampler | None = None,
        synchronise: Callable[[], None] = lambda: None,
        tell: Callable[[Diagnosis], None] = lambda diagnosis: print(f"ppo: {diagnosis}"),
        cpu: bool | None = None,
        oom_retry: bool = True,
        autocast: bool = False,
    ):
        self.stage, self.seed, self.log, self.tell = stage, seed, log, tell
        self.sampler, self.synchronise = sampler, synchronise
        self.tokenizer, self.prompts = tokenizer, list(prompts)
        most = stage.max_prompt_length
        self.prompt_ids = [encoded(tokenizer, one, most) for one in prompts] if prompt_ids is None else prompt_ids
        self.reward = Scorer(reward, gold, self._over_ranks)
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
            fuse(model)
            model.to(self.accelerator.device).eval()  # dropout off: the ratio compares two forward passes
        if self.accelerator.device.type == "cpu":
            keep_freed()
        self.reference = reference if reference is None else reference.requires_grad_(False)
        self.policy, self.critic = policy, critic
        self.learner = Learner(policy, critic, stage, seed, self.accelerator, oom_retry, autocast)
        self.sentinel = Sentinel(stage.sentinel)
        self.update = 0
        self.kl_coef = stage.kl_coef
        self.beside: Callable[[], Any] = lambda: None  # what a checkpoint holds for its user, as JSON
        self.found_beside: Any = None
        self.metrics: Metrics = {}

    def restore(self, folder: Path) -> int:
        """Go on from the newest whole checkpoint in ``folder``; returns the updates that it holds, 0 without one.

        Raises:
            RunError: there are checkpoints, but none is whole.
            TrainingError: the sentinel stopped the run there, and is still to stop runs.
        """
        self.update, state = checkpoint.load(folder, self.learner.modules, self.learner.optimizers)
        if state:
            self.load_state(state)
            self.found_beside = state["beside"]
            self.sentinel.load_state_dict(state["sentinel"])
            self.learner.rate_factor = self.sentinel.rate_factor
        if self.sentinel.stopped and self.stage.sentinel.action is not SentinelAction.warn:
            raise TrainingError(
                f"the run was stopped at {self.sentinel.stopped}; start again with other settings, or go on from there "
                "with stage.sentinel.action=warn"
            )
        return self.update

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights and optimizers, as JSON."""
        return {
            "metrics": self.metrics,
            "kl_coef": self.kl_coef,
            "rewards": self.reward.state_dict(),
            "sentinel": self.sentinel.state_dict(),
            "healthy": self.sentinel.healthy,
            "beside": self.beside(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The part of ``state`` that is a function of the updates made so far."""
        self.metrics, self.kl_coef = state["metrics"], state["kl_coef"]
        self.reward.load_state_dict(state["rewards"])

    def train(self, folder: Path | None = None, should_stop: Callable[[], bool] = lambda: False) -> Metrics:
        """Make the updates that are left of ``stage.updates`` and return the last metrics.

        Every ``stage.save_every`` updates a checkpoint is written into ``folder``.

        Raises:
            KeyboardInterrupt: ``should_stop`` said so; a checkpoint of the last whole update is in ``folder``.
            TrainingError: an invariant does not hold, or the sentinel has stopped the run.
        """
        if self.stage.sentinel.action is SentinelAction.rollback:
            if folder is None:
                raise ConfigError("stage.sentinel.action=rollback needs a folder for checkpoints: train(folder)")
            if self.update == 0:
                self._save(folder)  # somewhere to go back to, should the first steps go wrong
        while self.update < self.stage.updates:
            try:
                found = agreed(self.step(self.batch(self.update)), self.accelerator)
            except BrokenError as error:
                self._heed([self.sentinel.broken(error, self.update + 1)], folder, error)
                continue
            diagnoses = self.sentinel.observe(found, self.update)
            self.metrics = found | {"sentinel/active": float(len(self.sentinel.active))}
            self.log(self.metrics, self.update)
            # Ctrl-C may reach one rank alone, and the others would wait for it for ever.
            stopping = anywhere(should_stop(), self.accelerator)
            if self._heed(diagnoses, folder):
                continue
            if folder is not None and (stopping or self.update % self.stage.save_every == 0):
                self._save(folder)
            if stopping:
                raise KeyboardInterrupt
        return self.metrics

    def _save(self, folder: Path) -> None:
        action, models = self.stage.sentinel.action, (self.learner.modules, self.learner.optimizers)
        refuge = self.update - self.stage.sentinel.window if action is SentinelAction.rollback else None
        if self.accelerator.is_main_process:
            checkpoint.save(folder, *models, self.update, self.state(), refuge)
        self.accelerator.wait_for_everyone()

    def _heed(self, diagnoses: list[Diagnosis], folder: Path | None, error: BrokenError | None = None) -> bool:
        """Do what ``stage.sentinel.action`` says, note it and tell it; whether the run has gone back.

        Raises:
            TrainingError: the run ends here, or ``error``, from which there is no way on, was not rolled back.
        """
        if not diagnoses:
            return False
        action, done = self.stage.sentinel.action, {"action": "warned"}
        if action is SentinelAction.rollback and (error is None or error.name == "not_finite"):
            back_to = self._roll_back(folder)
            done = {"action": STOPPED} if back_to is None else {"action": "rolled back", "back_to": back_to}
        elif action is not SentinelAction.warn or error is not None:
            done = {"action": STOPPED}
        diagnoses = [diagnosis._replace(**done) for diagnosis in diagnoses]
        self.sentinel.raised += diagnoses
        ends = done["action"] == STOPPED
        if ends and error is None and folder is not None:
            self._save(folder)
        for diagnosis in diagnoses:
            self.tell(diagnosis)
        if ends:
            raise error or TrainingError(f"stopped at {diagnoses[0]}")
        return "back_to" in done

    def _roll_back(self, folder: Path) -> int | None:
        """Return to the newest checkpoint that a whole window has shown to be healthy; None where there is no way back.

        The learning rates are lower from there on, so the run does not take the same steps again.
        """
        place = checkpoint.healthy(folder, self.update - self.stage.sentinel.window)
        if place is None or self.sentinel.rollbacks >= self.stage.sentinel.rollbacks:
            return None
        self.update, state = checkpoint.restore(place, self.learner.modules, self.learner.optimizers)
        self.load_state(state)
        self.sentinel.roll_back(state["sentinel"])
        self.learner.rate_factor = self.sentinel.rate_factor
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            checkpoint.discard_after(folder, self.update)
        return self.update

    def batch(self, update: int) -> list[int]:
        """Numbers of this rank's prompts of an update: its slice of a slice of an endless sequence of shuffles."""
        own = self.stage.batch_size // self.accelerator.num_processes
        first = update * self.stage.batch_size + self._before
        chosen = []
        for position in range(first, first + own):
            number, index = divmod(position, len(self.prompts))
            chosen.append(int(permutation(len(self.prompts), self.seed, "prompts", number)[index]))
        return chosen

    @property
    def _before(self) -> int:
        """The rows of a batch that are other ranks', and come before this one's."""
        return self.accelerator.process_index * (self.stage.batch_size // self.accelerator.num_processes)

    def step(self, chosen: Sequence[int]) -> Metrics:
        """One iteration of the algorithm on prompts of these numbers: act, score, estimate, improve."""
        stage, decoded = self.stage, self._decoded()
        head = self.critic if decoded and isinstance(self.critic, ValueHead) else None
        self.synchronise()
        rollout = collect(
            self.policy,
            self.tokenizer,
            self.reward,
            [self.prompts[i] for i in chosen],
            rows=[self.prompt_ids[i] for i in chosen],
            temperature=stage.temperature,
            max_prompt_length=stage.max_prompt_length,
            max_response_length=stage.max_response_length,
            seed=derive(self.seed, "rollout", self.update, 0),
            sampler=self.sampler or partial(sample, at_once=stage.rollout.rows, head=head),
            before=self._before,
        )
        self._settle()
        models = (self.policy, self.reference, self.critic)
        with autocasting(self.accelerator.device, self.learner.autocast):
            rollout = self.learner.in_parts(
                lambda *bounds: evaluate(rollout, *models, stage.temperature, *bounds, decoded=decoded), len(chosen)
            )
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
        in_reward, estimator = stage.kl_in is KLIn.reward, ESTIMATORS[stage.kl_estimator.value]
        rewards, penalties = shape_rewards(
            scores, rollout.logprobs, rollout.ref_logprobs, rollout.mask, self.kl_coef, estimator, in_reward
        )
        if stage.whiten_rewards:
            rewards = whiten(rewards, rollout.mask, self.accelerator, keep_mean=True)
        advantages, returns = gae(rewards, rollout.values, rollout.mask, stage.gamma, stage.gae_lambda)
        weights = whiten(advantages, rollout.mask, self.accelerator) if stage.whiten_advantages else advantages
        improved = self.learner.improve(rollout, weights, returns, self.update, 0.0 if in_reward else self.kl_coef)
        self._settle()
        self.update += 1
        found = report(rollout, scores, penalties, returns, self.accelerator) | self.reward.metrics() | improved
        found |= {"objective/kl_coef": self.kl_coef, "episode": float(self.update * stage.batch_size)}
        if stage.kl_target is not None:
            self.kl_coef = adapted(self.kl_coef, found["objective/kl"], stage.kl_target, stage.kl_gain)
        return found

    def _settle(self) -> None:
        """Between sampling and learning, whose tensors have other sizes: within each, freed memory is used again."""
        if self.accelerator.device.type == "cpu":
            give_back()

    def _over_ranks(self, x: Tensor) -> Tensor:
        return total(x.to(self.accelerator.device), self.accelerator).cpu()

    def _decoded(self) -> bool:
        """Whether log π_old is what the sampler noted: of the policy itself, in float32, it is that up to rounding."""
        own = self.sampler is None and is_exact(self.policy, self.learner.autocast)
        return own and self.stage.rollout.logprobs is OldLogprobs.decoding

    def _check_start(self, rollout: Rollout) -> None:
        """Before the first step the policy is the reference: anything else is a wrong model or a wrong forward pass."""
        if self.update == 0:
            distance = torch.where(rollout.mask, rollout.logprobs - rollout.ref_logprobs, 0.0).abs()
            error = largest(distance, self.accelerator)
            if error > tolerance(self.policy, self.stage.sentinel, self.learner.autocast):
                raise BrokenError(
                    "start_off",
                    f"the policy starts {error:.2g} nats away from its reference at some token, not at 0: "
                    "the reference must be the policy's own starting point",
                )
