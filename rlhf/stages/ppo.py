"""Proximal policy optimisation of the SFT policy against a reward; the reference is the policy as it was.

    python -m rlhf stage=ppo                          # starts from checkpoints/<name>/sft and .../reward
    python -m rlhf stage=ppo 'stage.rewards={mine: {function: mine.py:score}, brief: {length: {most: 40}, weight: 0.1}}'
    python -m rlhf -m stage=ppo stage.kl_coef=0.02,0.05,0.1

Ziegler et al. 2019, https://arxiv.org/abs/1909.08593. The trainer is ours: rlhf/ppo/README.md explains it.
"""

from rich.markup import escape

from rlhf import memory, models, training
from rlhf.config import Settings
from rlhf.data import check_splits, load
from rlhf.evaluation import held_out
from rlhf.ppo import Diagnosis, PPOTrainer
from rlhf.ppo.plan import plan
from rlhf.ppo.roles import assign
from rlhf.progress import Bar, console
from rlhf.rewards.build import Builder
from rlhf.run import Run


def run(settings: Settings, run: Run) -> dict[str, float]:
    stage = settings.stage
    prompts = {split: load(settings.data, "prompts", split, settings.seed) for split in ("train", "validation")}
    check_splits(settings.data, "prompts", prompts, settings.seed)
    for split, dataset in prompts.items():
        run.record_data("prompts", split, dataset)
    asked = held_out.prompts(settings, run)

    tokenizer = models.load_tokenizer(run["policy"], settings.model)
    run.record_tokenizer(tokenizer)
    roles = assign(settings, run.parents, tokenizer)
    planned, meter = plan(settings, roles), memory.Meter(models.device(settings.hardware))
    memory.show("ppo", planned, meter.device)
    rewards = Builder(settings, run.parents, tokenizer, roles.reward_model)
    gold = rewards.gold()
    reward, normal = rewards.reward()
    trainer = PPOTrainer(
        roles.policy,
        roles.reference,
        roles.critic,
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
    sample = training.Sampler(run, roles.policy, tokenizer, prompts["validation"]["prompt"], settings)
    metrics = train(trainer, run, sample)
    run.manifest["memory"] = memory.compare("ppo", planned, meter.read())
    sample(stage.updates)
    scorers = held_out.scorers(settings, run, gold, reward)
    metrics |= held_out.measure(settings, run, asked, roles.policy, roles.reference, tokenizer, scorers)
    models.save(roles.policy, tokenizer, run.model, run["policy"])
    return metrics | {"objective": metrics["objective/rlhf_reward"]}


def train(trainer: PPOTrainer, run: Run, sample: training.Sampler) -> dict[str, float]:
    """Train with a bar and samples, from the newest checkpoint where the run is resumed."""
    stage = trainer.stage
    if run.resumed:
        run.rewind(trainer.restore(run.scratch), trainer.found_beside)
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

    trainer.log, trainer.tell, trainer.beside = report, tell, run.written
    try:
        with training.Interruption() as interruption:
            return trainer.train(run.scratch, lambda: interruption.asked)
    finally:
        bar.close()
