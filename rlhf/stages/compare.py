"""Compare all finished stages on the same held-out prompts, in one report.

    python -m rlhf stage=compare
    python -m rlhf stage=compare "stage.models={sft: checkpoints/a/sft, ppo: checkpoints/a/ppo}"
    python -m rlhf stage=compare judge=endpoint judge.model=... judge.url=...

One model is loaded at a time, together with the reference that the KL is measured from.
"""

from pathlib import Path
from typing import Any

from rlhf.config import CompareStage, JudgeKind, Settings
from rlhf.console import Bar
from rlhf.data import load, load_rows
from rlhf.data.render import fitting_ids
from rlhf.errors import LineageError
from rlhf.evaluation.comparison import harness, records
from rlhf.evaluation.comparison.comparison import Comparison, measure, remembering
from rlhf.evaluation.comparison.scoring import check_judge, judge_all, score_all
from rlhf.evaluation.reporting import report
from rlhf.evaluation.responses.answers import Answers, Candidate, TextNLL, answer, text_nll
from rlhf.evaluation.statistics.metrics import Estimate
from rlhf.hardware.device import torch_device
from rlhf.modeling import loading
from rlhf.rewards import Rows, bound, function
from rlhf.rewards.columns import reads_columns
from rlhf.rewards.instructions import check_rows
from rlhf.runs.run import Run
from rlhf.storage.digests import tokenizer_record


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Compare the models of ``stage.models``, write the report and return the metrics as <model>/<metric>."""
    stage, data = settings.stage_as(CompareStage), settings.data
    check_judge(settings)
    harness.check(stage.lm_eval)
    gold: Any = None if data.gold is None else function(data.gold)
    reads = gold is not None and reads_columns(gold)
    own: Any = None if data.judge is None else function(data.judge)
    judge = None if own is None else remembering(own)
    prompts = load(data, "prompts", "test", settings.seed, columns=reads)
    if reads:
        gold = bound(gold, "data.gold", Rows({"data.prompts (test)": prompts}))
    prompts = prompts.shuffle(seed=settings.seed).select(range(min(stage.prompts, len(prompts))))
    rows = list(prompts)
    check_rows(rows)
    measured = gold is not None or "reward" in run.parents or "instruction_id_list" in prompts.column_names
    if not measured and settings.judge.kind is JudgeKind.none:
        raise LineageError(
            "nothing to compare by: data.gold is null and stage.reward has no run: "
            "run stage=reward first, or set data.gold=module:function or judge"
        )
    with_text = data.path is None and data.text.path is not None  # a single file of prompts has no text
    texts = load(data, "text", "validation", settings.seed) if with_text else None
    run.record_data("prompts", "test", prompts)
    if texts is not None:
        run.record_data("text", "validation", texts)

    domains = {name: load_rows(path, "text", "validation", holdout=1.0)["text"] for name, path in stage.texts.items()}
    answers, notes = answer_all(settings, run, prompts["prompt"], None if texts is None else texts["text"], domains)
    reliability = score_all(settings, run, answers, prompts["prompt"], gold, notes)
    previous = {name: records.previous(name, run.parents, list(answers)) for name in answers}
    judge_all(settings, run, answers, prompts["prompt"], previous, notes)
    metrics = {
        name: measure(
            found, rows, answers[stage.reference], stage, settings.seed, judge, answers.get(previous[name] or "")
        )
        for name, found in answers.items()
    }
    comparison = Comparison(stage, rows, answers, metrics, notes, settings.seed, previous, reliability=reliability)
    comparison.records = {name: records.record(parent) for name, parent in run.parents.items()}
    comparison.tree = records.tree(run.parents, list(answers))
    comparison.paths = ppo_runs(settings, run)
    comparison.seeds = records.over_seeds(stage.seeds, report.as_json(comparison))
    report.write(comparison, run.work)
    report.show(comparison)
    return {
        f"{key}/{name}": value.mean if isinstance(value, Estimate) else value
        for name, row in metrics.items()
        for key, value in row.items()
    }


def answer_all(
    settings: Settings, run: Run, prompts: list, texts: list[str] | None, domains: dict[str, list[str]]
) -> tuple[dict[str, Answers], list]:
    """Return each model's responses, in the order of ``stage.models``, and notes for the report."""
    stage = settings.stage_as(CompareStage)
    reference = candidate(stage.reference, settings, run)
    vocabulary, asked = tokenizer_record(reference.tokenizer)["vocabulary"], asked_ids(reference, prompts, stage)
    answers: dict[str, Answers] = {}
    untrained = [name for name, path in stage.models.items() if path is not None and name not in run.parents]
    notes = [f"Left out, because they do not exist yet: {', '.join(untrained)}."] if untrained else []
    bar = Bar("compare", len(stage.models), passing=True)
    for step, name in enumerate(stage.models, 1):
        if name not in run.parents:
            continue
        one = reference if name == stage.reference else candidate(name, settings, run)
        # The KL needs distributions over the same tokens after the same prompt.
        same = name != stage.reference and tokenizer_record(one.tokenizer)["vocabulary"] == vocabulary
        against = reference.model if same and asked_ids(one, prompts, stage) == asked else None
        answers[name] = answer(one, prompts, stage, settings.seed, against)
        if texts is not None:
            answers[name].text_nll = TextNLL.sum(text_nll(one, texts, stage.max_prompt_length, stage.batch_size))
        for title, own in domains.items():
            answers[name].domains[title] = text_nll(one, own, stage.max_prompt_length, stage.batch_size)
        if stage.lm_eval.tasks:
            answers[name].tasks = harness.evaluate(one, run[name].digest, stage, settings.seed)
        if one.plain:
            notes.append(f"{name} was prompted without a chat template.")
        bar.update(step)
        del one  # or the next model would be loaded beside it
    bar.close()
    return answers, notes


def asked_ids(one: Candidate, prompts: list, stage: CompareStage) -> list[list[int]]:
    """Return the token ids of each prompt in the form in which a model is asked."""
    return fitting_ids(one.tokenizer, [one.prompt(prompt) for prompt in prompts], stage.max_prompt_length)[0]


def candidate(name: str, settings: Settings, run: Run) -> Candidate:
    """Load the model ``name`` with its tokenizer, on the device and in evaluation mode."""
    tokenizer = loading.load_tokenizer(run[name], settings.model)
    model = loading.load_policy(run[name], settings.model, tokenizer).to(torch_device(settings.hardware)).eval()
    plain = loading.is_plain(run[name], settings.model)
    tokenizer.strings_are_turns &= not plain
    return Candidate(name, model, tokenizer, plain)


def ppo_runs(settings: Settings, run: Run) -> dict[str, records.Record]:
    """Return PPO runs for the frontier: those compared, and those in ``stage.frontier`` with the same reference."""
    stage = settings.stage_as(CompareStage)
    folder = stage.frontier
    below = [] if folder is None or not Path(folder).is_dir() else records.ppo_runs(Path(folder))
    columns = [run[name] for name in stage.models if name in run.parents]
    return records.paths([*columns, *below], run[stage.reference].digest)
