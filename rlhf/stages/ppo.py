"""Proximal policy optimisation of the SFT policy against a reward; the reference is the policy as it was.

    python -m rlhf stage=ppo                          # starts from checkpoints/<name>/sft and .../reward
    python -m rlhf stage=ppo 'stage.rewards={mine: {function: mine.py:score}, brief: {length: {most: 40}, weight: 0.1}}'
    python -m rlhf -m stage=ppo stage.kl_coef=0.02,0.05,0.1

Ziegler et al. 2019, https://arxiv.org/abs/1909.08593. The trainer is ours: rlhf/ppo/README.md explains it.
"""

from rich.markup import escape

from rlhf import models, training
from rlhf.config import AdapterKind, Settings
from rlhf.data import check_splits, load
from rlhf.errors import LineageError
from rlhf.ppo import Critic, Diagnosis, PPOTrainer
from rlhf.progress import Bar, console
from rlhf.rewards.build import Builder
from rlhf.run import Run


def run(settings: Settings, run: Run) -> dict[str, float]:
    stage = settings.stage
    prompts = {split: load(settings.data, "prompts", split, settings.seed) for split in ("train", "validation")}
    check_splits(settings.data, "prompts", prompts, settings.seed)
    for split, dataset in prompts.items():
        run.record_data("prompts", split, dataset)

    tokenizer = models.load_tokenizer(run["policy"], settings.model)
    run.record_tokenizer(tokenizer)
    rewards = Builder(settings, run.parents, tokenizer)
    gold = rewards.gold()
    reward, normal = rewards.reward()
    policy, reference = policy_and_reference(settings, run, tokenizer)
    trainer = PPOTrainer(
        policy,
        reference,
        Critic(classifier(settings, run, tokenizer)),
        tokenizer,
        reward,
        prompts["train"]["prompt"],
        stage,
        seed=settings.seed,
        gold=gold,
        score_mean=normal.mean,
        score_std=normal.std,
        cpu=models.device(settings.hardware).type == "cpu",
    )
    sample = training.Sampler(run, policy, tokenizer, prompts["validation"]["prompt"], settings)
    metrics = train(trainer, run, sample)
    sample(stage.updates)
    models.save(policy, tokenizer, run.model, run["policy"])
    return metrics | {"objective": metrics["objective/rlhf_reward"]}


def train(trainer: PPOTrainer, run: Run, sample: training.Sampler) -> dict[str, float]:
    """Train with a bar and samples, from the newest checkpoint where the run is resumed."""
    stage = trainer.stage
    if run.resumed:
        run.rewind(trainer.restore(run.scratch))
    run.record_diagnoses([diagnosis.record() for diagnosis in trainer.sentinel.raised])
    bar = Bar("ppo", stage.updates, trainer.update)

    def report(metrics: dict[str, float], update: int) -> None:
        if update % stage.log_every == 0:
            run.log(metrics, update)
        bar.update(update, metrics)
        if stage.sample_every and update % stage.sample_every == 0:
            sample(update)

    def tell(diagnosis: Diagnosis) -> None:
        went_back = diagnosis.back_to is not None
        after = f"; back to update {diagnosis.back_to} at a lower learning rate" if went_back else ""
        console.print(f"[bold red]ppo[/bold red]: {escape(str(diagnosis))}{after}", soft_wrap=True)
        run.record_diagnoses([diagnosis.record() for diagnosis in trainer.sentinel.raised])
        if went_back:
            run.rewind(diagnosis.back_to)

    trainer.log, trainer.tell = report, tell
    try:
        with training.Interruption() as interruption:
            return trainer.train(run.scratch, lambda: interruption.asked)
    finally:
        bar.close()


def classifier(settings: Settings, run: Run, tokenizer):
    """What the critic starts from: ``stage.critic``, else the first reward model that reads the policy's tokens.

    Where none does, or nothing that scores is a model, it is the policy under a new head of zeros, and this is said.

    Raises:
        LineageError: ``stage.critic`` has another vocabulary than the policy.
    """
    scoring = [role for role in run.parents if role.partition(".")[0] in ("reward", "rewards")]
    roles = ["critic"] if "critic" in run.parents else scoring
    found = next((role for role in roles if reads(settings, run, role, tokenizer)), None)
    if found is None and "critic" in run.parents:
        raise LineageError(
            f"stage.critic={run['critic'].path} has another vocabulary than stage.policy={run['policy'].path}, whose "
            "tokens the critic reads: give a run that descends from the same base, or stage.critic=null"
        )
    if found is None:
        print("ppo: the critic starts from the policy, under a head of zeros, since no reward model reads its tokens")
    options = models.quantization(settings.adapter)
    model = models.load_reward_model(run[found or "policy"], settings.model, tokenizer, new_head="zero", **options)
    return models.adapt(model, settings.adapter, models.TaskType.SEQ_CLS)


def reads(settings: Settings, run: Run, role: str, tokenizer) -> bool:
    return models.load_tokenizer(run[role], settings.model).get_vocab() == tokenizer.get_vocab()


def policy_and_reference(settings: Settings, run: Run, tokenizer):
    """With an adapter the reference is the policy with the adapter switched off (None); without, a second copy."""
    policy = models.load_policy(run["policy"], settings.model, tokenizer, **models.quantization(settings.adapter))
    if settings.adapter.kind is AdapterKind.none:
        return policy, models.load_policy(run["policy"], settings.model, tokenizer)
    return models.adapt(policy, settings.adapter, models.TaskType.CAUSAL_LM), None
