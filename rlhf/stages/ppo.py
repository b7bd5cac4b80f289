"""Proximal policy optimisation of the SFT policy against the reward model; the reference is the policy as it was.

    python -m rlhf stage=ppo                          # starts from checkpoints/<name>/sft and .../reward
    python -m rlhf -m stage=ppo stage.kl_coef=0.02,0.05,0.1

Ziegler et al. 2019, https://arxiv.org/abs/1909.08593. The trainer is ours: rlhf/ppo/README.md explains it.
"""

from rlhf import models, training
from rlhf.config import Settings
from rlhf.data import check_leaks, load
from rlhf.errors import LineageError
from rlhf.parents import Parent
from rlhf.ppo import PPOTrainer, roles
from rlhf.progress import Bar
from rlhf.rewards import RewardModel
from rlhf.run import Run


def run(settings: Settings, run: Run) -> dict[str, float]:
    stage = settings.stage
    prompts = {split: load(settings.data, "prompts", split, settings.seed) for split in ("train", "validation")}
    check_leaks(prompts["train"], prompts["validation"], settings.data.allow_leaks)
    for split, dataset in prompts.items():
        run.record_data("prompts", split, dataset)

    tokenizer = models.load_tokenizer(run["policy"], settings.model)
    run.record_tokenizer(tokenizer)
    own = reward_tokenizer(settings, run, tokenizer)
    parts = roles.build(settings, run.parents, tokenizer)
    scorer = RewardModel(parts.reward_model, own, max_length=stage.max_prompt_length + stage.max_response_length)
    mean, std = score_statistics(run["reward"], stage.normalize_scores)
    trainer = PPOTrainer(
        parts.policy,
        parts.reference,
        parts.critic,
        tokenizer,
        scorer,
        prompts["train"]["prompt"],
        stage,
        seed=settings.seed,
        score_mean=mean,
        score_std=std,
        cpu=models.device(settings.hardware).type == "cpu",
    )
    sample = training.Sampler(run, parts.policy, tokenizer, prompts["validation"]["prompt"], settings)
    metrics = train(trainer, run, sample)
    sample(stage.updates)
    models.save(parts.policy, tokenizer, run.model, run["policy"])
    return metrics | {"objective": metrics["objective/rlhf_reward"]}


def train(trainer: PPOTrainer, run: Run, sample: training.Sampler) -> dict[str, float]:
    """Train with a bar and samples, from the newest checkpoint where the run is resumed."""
    stage = trainer.stage
    if run.resumed:
        run.rewind(trainer.restore(run.scratch))
    bar = Bar("ppo", stage.updates, trainer.update)

    def report(metrics: dict[str, float], update: int) -> None:
        if update % stage.log_every == 0:
            run.log(metrics, update)
        bar.update(update, metrics)
        if stage.sample_every and update % stage.sample_every == 0:
            sample(update)

    trainer.log = report
    try:
        with training.Interruption() as interruption:
            return trainer.train(run.scratch, lambda: interruption.asked)
    finally:
        bar.close()


def reward_tokenizer(settings: Settings, run: Run, tokenizer):
    """The reward model's.

    Raises:
        LineageError: it has another vocabulary than the policy, so that no critic can start from it.
    """
    own = models.load_tokenizer(run["reward"], settings.model)
    if own.get_vocab() != tokenizer.get_vocab():
        raise LineageError(
            f"stage.reward={run['reward'].path} has another vocabulary than stage.policy={run['policy'].path}, and the "
            "critic starts from the reward model: train one with stage=reward on this policy"
        )
    return own


def score_statistics(reward: Parent, normalize: bool) -> tuple[float, float]:
    """Mean and standard deviation by which scores are normalised: what stage=reward measured, or 0 and 1."""
    measured = reward.manifest["metrics"] if reward.manifest else {}
    if normalize and "scores/std" not in measured:
        print(f"ppo: {reward.path} is no run of stage=reward, so there is nothing to normalise its scores by")
    return measured.get("scores/mean", 0.0), measured.get("scores/std", 1.0)
