"""The same held-out prompts through every finished stage, and a table of what changed.

    python -m rlhf stage=compare
    python -m rlhf stage=compare "stage.models={sft: checkpoints/a/sft, ppo: checkpoints/a/ppo}"

One model is loaded at a time, beside the reference that divergences are measured from.
"""

from dataclasses import replace

from rlhf import models
from rlhf.config import Model, Settings
from rlhf.data import load
from rlhf.errors import LineageError
from rlhf.evaluation import report
from rlhf.evaluation.answers import Answers, Candidate, answer, text_nll
from rlhf.evaluation.comparison import Comparison, measure, score
from rlhf.evaluation.metrics import Estimate
from rlhf.manifest import tokenizer_record
from rlhf.parents import Parent
from rlhf.progress import Bar
from rlhf.rewards import RewardFunction, RewardModel, function
from rlhf.run import Run


def run(settings: Settings, run: Run) -> dict[str, float]:
    stage, data = settings.stage, settings.data
    gold, judge = (None if path is None else function(path) for path in (data.gold, data.judge))
    if gold is None and "reward" not in run.parents:
        raise LineageError(
            "there is nothing to compare by: data.gold is null and stage.reward has no run; "
            "run stage=reward first, or give data.gold=module:function"
        )
    prompts = load(data, "prompts", "test", settings.seed)
    prompts = prompts.shuffle(seed=settings.seed).select(range(min(stage.prompts, len(prompts))))
    with_text = data.path is None and data.text.path is not None  # one file of prompts is no text
    texts = load(data, "text", "validation", settings.seed) if with_text else None
    run.record_data("prompts", "test", prompts)
    if texts is not None:
        run.record_data("text", "validation", texts)

    answers, notes = answer_all(settings, run, prompts["prompt"], None if texts is None else texts["text"])
    score_all(settings, run, answers, prompts["prompt"], gold, notes)
    rows, reference = list(prompts), answers[stage.reference]
    metrics = {name: measure(found, rows, reference, stage, settings.seed, judge) for name, found in answers.items()}
    comparison = Comparison(stage, rows, answers, metrics, notes, settings.seed)
    report.write(comparison, run.work)
    report.show(comparison)
    return {
        f"{key}/{name}": value.mean if isinstance(value, Estimate) else value
        for name, row in metrics.items()
        for key, value in row.items()
    }


def answer_all(settings: Settings, run: Run, prompts: list, texts: list[str] | None) -> tuple[dict[str, Answers], list]:
    """Every model's answers, in the order of ``stage.models``."""
    stage = settings.stage
    reference = candidate(stage.reference, settings, run)
    vocabulary = tokenizer_record(reference.tokenizer)["vocabulary"]
    answers: dict[str, Answers] = {}
    notes: list[str] = []
    bar = Bar("compare", len(stage.models))
    for step, (name, path) in enumerate(stage.models.items(), 1):
        if name not in run.parents:
            if path is not None:
                notes.append(f"{name} is left out: {path} is not there.")
            continue
        one = reference if name == stage.reference else candidate(name, settings, run)
        # Divergence is between distributions over the same tokens after the same prompt.
        same = not (one.plain or reference.plain) and tokenizer_record(one.tokenizer)["vocabulary"] == vocabulary
        against = reference.model if same and name != stage.reference else None
        answers[name] = answer(one, prompts, stage, settings.seed, against)
        if texts is not None:
            answers[name].text_nll = text_nll(one, texts, stage.max_prompt_length, stage.batch_size)
        if one.plain:
            notes.append(f"{name} is asked in plain text: no chat template has taught it turns.")
        bar.update(step)
        del one  # or the next model would be loaded beside it
    bar.close()
    return answers, notes


def candidate(name: str, settings: Settings, run: Run) -> Candidate:
    tokenizer = models.load_tokenizer(run[name], settings.model)
    model = models.load_policy(run[name], settings.model, tokenizer).to(models.device(settings.hardware)).eval()
    return Candidate(name, model, tokenizer, plain=is_plain(run[name], settings.model))


def is_plain(parent: Parent, model: Model) -> bool:
    """Whether no chat template has taught the model turns: a base run of ours, or a model that comes without one."""
    if parent.manifest is not None:
        return parent.stage == "base"
    return models.load_tokenizer(parent, replace(model, chat_template=None)).chat_template is None


def score_all(
    settings: Settings, run: Run, answers: dict[str, Answers], prompts: list, gold: RewardFunction | None, notes: list
) -> None:
    """Score everything by the gold reward, where the world has one, and by the reward model, where there is one."""
    stage = settings.stage
    rewards: dict[str, RewardFunction] = {} if gold is None else {"gold": gold}
    if "reward" in run.parents:
        parent = run["reward"]
        tokenizer = models.load_tokenizer(parent, settings.model)
        model = models.load_reward_model(parent, settings.model, tokenizer).to(models.device(settings.hardware))
        length = stage.max_prompt_length + stage.max_response_length
        rewards["reward"] = RewardModel(model, tokenizer, max_length=length)
        trained = [name for name in answers if trained_on(run, name, parent.digest)]
        if trained:
            notes.append(f"Wins by the reward model say little of those trained on it: {', '.join(trained)}.")
    elif stage.reward is not None:
        notes.append(f"No response is scored by a reward model: {stage.reward} is not there.")
    for name, reward in rewards.items():
        for found in answers.values():
            score(found, name, reward, prompts)


def trained_on(run: Run, name: str, digest: str) -> bool:
    parents = (run[name].manifest or {"parents": {}})["parents"]
    scored = [record for role, record in parents.items() if role.partition(".")[0] in ("reward", "rewards")]
    return digest in [record["digest"] for record in scored]
