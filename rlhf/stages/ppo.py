"""Optimize the SFT policy against a reward with PPO. The reference is the policy before training.

    python -m rlhf stage=ppo                          # starts from checkpoints/<name>/sft and .../reward
    python -m rlhf stage=ppo stage.teacher=checkpoints/large/sft stage.policy=checkpoints/small/sft  # distillation
    python -m rlhf stage=ppo 'stage.rewards={mine: {function: mine.py:score}, brief: {length: {max: 40}, weight: 0.1}}'
    python -m rlhf -m stage=ppo stage.kl_coef=0.02,0.05,0.1

Ziegler et al. 2019, https://arxiv.org/abs/1909.08593. docs/ppo.md explains the trainer.
"""

from functools import partial
from importlib.util import find_spec
from typing import Any

from rich.markup import escape

from rlhf.config import Engine, MissingEOS, PPOStage, Settings, VLLMMode
from rlhf.console import Bar, console, plural
from rlhf.data.blocks import blocks
from rlhf.errors import ConfigError, ModelError
from rlhf.evaluation.judges import rubric
from rlhf.evaluation.responses import eval_set
from rlhf.hardware import memory, precision, ranks
from rlhf.hardware.device import torch_device
from rlhf.modeling import loading
from rlhf.modeling.architectures import decide
from rlhf.modeling.generation import end_ids
from rlhf.planning import report
from rlhf.planning.roles import plan
from rlhf.ppo import Diagnosis, PPOTrainer, branching
from rlhf.ppo.diagnoses import falls
from rlhf.ppo.ledger import Entry
from rlhf.ppo.model_roles import OneBase, Separate, assign
from rlhf.ppo.vllm_sampler import Copied
from rlhf.rewards import Rows
from rlhf.rewards import build as rewards_of
from rlhf.rewards.columns import reads_columns
from rlhf.runs import branches
from rlhf.runs.headlines import fallen, progress
from rlhf.runs.logs import LEDGER
from rlhf.runs.run import Run
from rlhf.training import loop


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Train with PPO, evaluate on held-out prompts, save the policy and return its metrics."""
    with rubric.terms(settings, run) as rubrics:
        return train_and_measure(settings, run, rubrics)


def train_and_measure(settings: Settings, run: Run, rubrics: dict[str, rubric.RubricReward]) -> dict[str, float]:
    """Do the work of ``run`` with the judges ``rubrics``."""
    stage = settings.stage_as(PPOStage)
    if stage.rollout.engine is Engine.vllm and find_spec("vllm") is None:
        raise ModelError("stage.rollout.engine=vllm needs vllm: pip install 'rlhf[vllm]', or use engine=transformers")
    rewards_of.check_distance(stage, run.parents)
    plain = rewards_of.without_models(stage) | rubrics
    reads = any(map(reads_columns, plain.values()))
    prompts = loop.read_splits(run, settings, "prompts", columns=reads)
    if (branch := run.parents.get(branches.ROLE)) is not None and ranks.is_main():  # which records the data
        branches.check_data(branch.named, (branch.manifest or {})["data"], run.manifest["data"])
    texts = loop.read_splits(run, settings, "text") if stage.ptx_coef else None
    asked = eval_set.prompts(settings, run, columns=reads)
    rows = Rows({f"data.prompts ({split})": found for split, found in prompts.items()}) if reads else None
    ready = rewards_of.bind(stage, plain, rows)
    agreement = rubric.report(settings, rubrics)

    tokenizer = loading.load_tokenizer(run["policy"], settings.model)
    loop.settle(run, settings, tokenizer, prompts["train"]["prompt"])
    run.record_tokenizer(tokenizer)
    ids = loop.prompt_ids(run, settings, prompts["train"], tokenizer)
    asks = prompts["train"]["prompt"]
    text = None
    if texts is not None:
        text = blocks(texts["train"], tokenizer, stage.ptx_block_length, "train", "stage.ptx_block_length")
    roles = assign(settings, run.parents, tokenizer)
    device = torch_device(settings.hardware)
    planned, meter = plan(settings, roles, max(map(len, ids["prompt_ids"]))), memory.Meter(device)
    report.show_ledger("ppo", planned, meter.device)
    rewards = rewards_of.Builder(settings, run.parents, tokenizer, roles.reward_model, ready)
    gold, shadows = rewards.gold(), rewards.shadows()
    reward, normal = rewards.reward()
    trainer = PPOTrainer(
        roles.policy,
        roles.reference,
        roles.critic,
        tokenizer,
        reward,
        [asks[row] for row in ids["row"]],
        stage,
        prompt_ids=ids["prompt_ids"],
        seed=settings.seed,
        gold=gold,
        shadows=shadows,
        score_mean=normal.mean,
        score_std=normal.std,
        cpu=torch_device(settings.hardware).type == "cpu",
        oom_retry=settings.hardware.oom_retry,
        autocast=precision.autocasts(settings),
        shared_prefix=shares_prompts(settings, run, roles),
        text=None if text is None else text["input_ids"],
    )
    loop.show_ends(run, roles.policy, tokenizer)
    if stage.rollout.engine is Engine.vllm:
        engine = copied(settings, trainer, roles)
        trainer.collector.sampler, trainer.synchronize = engine, engine.synchronize
    precision.tell_lost("ppo", roles.policy, "stage.learning_rate", stage.learning_rate)
    sample = loop.Sampler(run, roles.policy, tokenizer, prompts["validation"]["prompt"], settings)
    metrics = train(trainer, run, sample)
    metrics |= show_falls(trainer, run) if shadows else {}
    if trainer.learner.average is not None:
        trainer.learner.average.give()
    if ranks.is_main():
        branches.keep(run.scratch, run.work, stage.keep_every)
    run.manifest["memory"] = planned.record() | memory.compare("ppo", planned.peak, meter.read())
    sample(stage.updates)
    scorers = eval_set.scorers(settings, run, gold, None if stage.teacher is not None else reward)
    metrics |= eval_set.measure(settings, run, asked, roles.policy, roles.reference, tokenizer, scorers)
    if "kl" in metrics and stage.teacher is None:
        loop.tell_unmoved("ppo", abs(metrics["kl"]), "stage.learning_rate", stage.learning_rate)
    loading.save(roles.policy, tokenizer, run.model, run["policy"])
    return metrics | agreement | {"objective": metrics["objective/rlhf_reward"]}


def record_falls(trainer: PPOTrainer, run: Run) -> list[dict[str, Any]]:
    """Record which of gold and shadow rewards have fallen while the score rose, and return the records."""
    found = [fall._asdict() for fall in falls(trainer.sentinel.history, trainer.stage.sentinel)]
    run.record_falls(found)
    return found


def show_falls(trainer: PPOTrainer, run: Run) -> dict[str, float]:
    """Print and record which of gold and shadow rewards fell first; return the updates at which they fell."""
    found = record_falls(trainer, run)
    for fall in found:
        console.print(f"ppo: {fallen(fall)}", highlight=False, markup=False, soft_wrap=True)
    return {f"{fall['name']}/fell_at": float(fall["update"]) for fall in found if fall["update"] is not None}


def shares_prompts(settings: Settings, run: Run, roles: OneBase | Separate) -> bool:
    """Return whether a prompt is computed once for its responses, in the policy and in a separate critic.

    Raises:
        ConfigError: ``stage.shared_prefix=on``, but a model does not support it.
    """
    stage = settings.stage_as(PPOStage)
    if stage.samples == 1:
        return False
    longest, attention = stage.max_prompt_length + stage.max_response_length, settings.model.attention
    separate = isinstance(roles, Separate) and stage.has_critic
    parents = [run["policy"], *([run.parents[roles.start]] if separate else [])]
    parents += [run["teacher"]] if stage.teacher is not None else []
    configs = [loading.config(parent, settings.model) for parent in parents]
    return all(decide(stage.shared_prefix, config, attention, longest, "ppo") for config in configs)


def copied(settings: Settings, trainer: PPOTrainer, roles: OneBase | Separate) -> Copied:
    """Start a copy of the policy in vLLM. TRL loads the weights, in each version of vLLM that it supports."""
    stage = settings.stage_as(PPOStage)
    chosen = stage.rollout
    if isinstance(roles, OneBase):
        raise ConfigError(
            "stage.rollout.engine=vllm needs a policy with separate weights: set stage.share_base_model=false"
        )
    from trl.generation.vllm_generation import VLLMGeneration

    found = VLLMGeneration(
        trainer.policy, trainer.accelerator, trainer.tokenizer, mode=chosen.vllm_mode.value,
        server_base_url=chosen.vllm_url, gpu_memory_utilization=chosen.vllm_memory, temperature=stage.temperature,
        max_completion_length=stage.max_response_length,
        max_model_length=stage.max_prompt_length + stage.max_response_length,
        generation_kwargs={"stop_token_ids": sorted(end_ids(trainer.policy, trainer.tokenizer))},
    )  # fmt: skip
    if chosen.vllm_mode is VLLMMode.server and trainer.accelerator.is_main_process:
        mode = found.vllm_client.get_server_info()["model_config"]["logprobs_mode"]
        if mode != "processed_logprobs":
            raise ConfigError(f"{chosen.vllm_url} runs with --logprobs-mode {mode}: start it with processed_logprobs")
    return Copied(found)


def unended(ended: float, stage: PPOStage) -> str | None:
    """Return how scores of responses without EOS are changed; None if all have EOS or scores are unchanged."""
    count = round((1 - ended) * stage.rows)
    if not count or stage.missing_eos is MissingEOS.keep:
        return None
    effects = {
        MissingEOS.subtract: ("score", f"lowered by {stage.missing_eos_penalty:g}"),
        MissingEOS.replace: ("score", f"replaced by {-stage.missing_eos_penalty:g}"),
        MissingEOS.mask: ("response", "left out of the loss"),
    }
    noun, effect = effects[stage.missing_eos]
    return (
        f"{stage.rows - count} of {stage.rows} responses ended: {plural(count, noun)} {effect}; "
        "set stage.missing_eos=keep or a longer stage.max_response_length"
    )


def train(trainer: PPOTrainer, run: Run, sample: loop.Sampler) -> dict[str, float]:
    """Train with a progress bar and samples, from the newest checkpoint if the run is resumed."""
    stage = trainer.stage
    ranks.check(trainer.accelerator, run.strategy)
    if run.resumed:
        run.rewind(trainer.restore(run.scratch), trainer.found_beside)
    if not trainer.update and (branch := run.parents.get(branches.ROLE)) is not None:
        assert branch.manifest is not None  # a branch is a run
        update = branching.branch(trainer, branch.checkpoint, branch.manifest["settings"]["stage"]["kl_coef"])
        console.print(f"ppo: branched from update {update} of {branch.path}", markup=False, soft_wrap=True)
    run.record_diagnoses([diagnosis.record() for diagnosis in trainer.sentinel.raised])
    run.schedule(trainer.update, stage.updates)
    bar = Bar("ppo", stage.updates, trainer.update, partial(progress, "ppo"))
    warned = False

    def report(metrics: dict[str, float], update: int) -> None:
        nonlocal warned
        if update % stage.log_every == 0:
            run.log(metrics, update)
        if stage.shadows and update % stage.sentinel.window == 0:
            record_falls(trainer, run)  # for the live page
        bar.update(update, metrics)
        if not warned and (sentence := unended(metrics["val/ended"], stage)) is not None:
            warned = True
            console.print(f"ppo: update {update}: {sentence}", highlight=False, soft_wrap=True)
        if stage.sample_every and update % stage.sample_every == 0:
            sample(update)

    def tell(diagnosis: Diagnosis) -> None:
        went_back = diagnosis.back_to is not None
        after = f"; back to update {diagnosis.back_to} at a lower learning rate" if went_back else ""
        console.print(f"[bold red]ppo[/bold red]: {escape(str(diagnosis))}{after}", soft_wrap=True)
        run.record_diagnoses([diagnosis.record() for diagnosis in trainer.sentinel.raised])
        if went_back:
            run.rewind(diagnosis.back_to)

    def note(responses: list[Entry], update: int) -> None:
        run.append(LEDGER, {"step": update, "responses": responses})

    trainer.log, trainer.tell, trainer.beside, trainer.note = report, tell, run.written, note
    try:
        with loop.Interruption() as interruption:
            return trainer.train(run.scratch, lambda: interruption.asked)
    finally:
        bar.close()
