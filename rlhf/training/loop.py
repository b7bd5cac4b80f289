"""Training with a transformers Trainer: token ids, resuming, samples."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import EarlyStoppingCallback, Trainer

from rlhf.config import PPOStage, Settings, Turns
from rlhf.config.library_errors import blame
from rlhf.console import console, show_samples
from rlhf.data import Kind, check_splits, load, templates
from rlhf.data.load import Split
from rlhf.data.render import Prompt, question
from rlhf.data.sources import source_name
from rlhf.data.tokens import BROKEN, CUT, FILLED, LONG, REWRITTEN, UNLEARNED, Form
from rlhf.data.tokens import tokenized as to_ids
from rlhf.errors import DataError
from rlhf.hardware import precision, ranks
from rlhf.hardware.memory import keep_freed
from rlhf.modeling.generation import generate
from rlhf.runs.run import Run
from rlhf.storage.checksums import newest_whole, number, resumable
from rlhf.training.eval_metrics import ExactEvaluation
from rlhf.training.exact_resume import Keeper, take_up_if_trained, written_at
from rlhf.training.oom import halve_steps, share_tokens
from rlhf.training.reporter import Interruption, Reporter, rename

if TYPE_CHECKING:
    from datasets import Dataset


def read_splits(
    run: Run,
    settings: Settings,
    kind: Kind,
    splits: Sequence[Split] = ("train", "validation"),
    columns: bool = False,
) -> dict[str, "Dataset"]:
    """Return the rows of each split, checked, and record them in run.json; with ``columns``, with all their columns.

    Raises:
        DataError: see rlhf.data.load and rlhf.data.check_splits.
    """
    rows: dict[str, Dataset] = {
        split: load(settings.data, kind, split, settings.seed, columns=columns) for split in splits
    }
    check_splits(settings.data, kind, rows, settings.seed)
    for split, dataset in rows.items():
        run.record_data(source_name(kind), split, dataset, settings.data.cache)
    return rows


def tokenized(
    run: Run,
    settings: Settings,
    rows: dict[str, "Dataset"],
    form: Form,
    tokenizer: Any,
    args: Any,
    extra: Sequence[str] = (),
) -> dict[str, "Dataset"]:
    """Return the token ids of each split; print omissions, truncations and oddities and record them in run.json.

    Raises:
        DataError: no row of a split is left.
    """
    name, data, turns = source_name(form.kind), settings.data, getattr(settings.stage, "turns", Turns.all)
    # Packing strategies other than "bfd" join rows before they cut them, and lose nothing.
    joined = getattr(args, "packing", False) and args.packing_strategy != "bfd"
    # RewardTrainer omits long pairs itself.
    longest = None if joined or form is Form.sequences else args.max_length
    keep_end = getattr(args, "truncation_mode", None) == "keep_end"
    found = {}
    for split, dataset in rows.items():
        made, counts = to_ids(dataset, form, tokenizer, longest, data.cache, extra, keep_end, turns, data.processes)
        for count, reason in ((counts.cut, CUT), (counts.filled, FILLED)):
            limit = f"stage.trainer.max_length={longest}"
            run.record_omission(name, split, count, reason, reason.replace("max_length", limit))
        if counts.unlearned:
            run.record_omission(name, split, counts.unlearned, UNLEARNED)
        if counts.rewritten:
            run.record_omission(name, split, counts.rewritten, REWRITTEN)
        if counts.turns > len(dataset):
            learned = f"{counts.learned} of {counts.turns} assistant turns in {name}/{split} are trained on"
            print(f"{run.stage}: {learned} (stage.turns={turns.value})")
        if counts.special:
            run.record_omission(name, split, counts.special, "special tokens in the text, encoded as text")
        if counts.broken:
            meaning = _boundary(dataset, tokenizer, counts.example)
            run.record_omission(name, split, counts.broken, BROKEN, f"{BROKEN}; {meaning}")
        if made is None:
            raise DataError(
                f"every prompt of data.{name} ({split}) is at least as long as stage.trainer.max_length={longest}: "
                "raise it, or use shorter prompts"
            )
        found[split] = made
    return found


def _boundary(rows: "Dataset", tokenizer: Any, example: str | None) -> str:
    """Return the consequence of a token that spans the end of the prompt, and a remedy."""
    remedy = (
        "to avoid it, end the prompt with a word and begin the response with the space"
        if isinstance(rows[0]["prompt"], str) and not templates.strings_are_turns(tokenizer)
        else "to avoid it, use a chat template whose prompt does not depend on the response"
    )
    return f"the loss then begins within the prompt, at {example!r} in the first one: harmless in a few rows; {remedy}"


def prompt_ids(run: Run, settings: Settings, prompts: "Dataset", tokenizer: Any) -> "Dataset":
    """Return the token ids of PPO's prompts, each with its ``row``, without those above stage.max_prompt_length.

    Raises:
        DataError: all prompts are longer.
    """
    longest = settings.stage_as(PPOStage).max_prompt_length
    made, counts = to_ids(
        prompts, Form.prompts, tokenizer, longest, settings.data.cache, processes=settings.data.processes
    )
    run.record_omission("prompts", "train", counts.filled, LONG)
    if made is None:
        raise DataError(
            f"every prompt of data.prompts (train) is longer than stage.max_prompt_length={longest}: "
            "raise it, or use shorter prompts"
        )
    return made


def settle(run: Run, settings: Settings, tokenizer: Any, prompts: Sequence[Prompt]) -> None:
    """Set how string prompts are rendered, as ``data.render`` selects, and print it in one line.

    Raises:
        ConfigError: data.render does not fit the prompts or the tokenizer.
    """
    if (sentence := templates.settle(tokenizer, prompts, settings.data.render)) is not None:
        print(f"{run.stage}: {sentence}")


def show_ends(run: Run, model: Any, tokenizer: Any) -> None:
    """Print the tokens that end a response if they are not only the tokenizer's EOS token."""
    ends = templates.end_ids(model, tokenizer)
    if set(ends) - {tokenizer.eos_token_id}:
        turn = templates.turn_ends(tokenizer)
        named = [
            f"{token} ({id}{', the end of a turn in the chat template' if id in turn else ''})"
            for id, token in zip(ends, tokenizer.convert_ids_to_tokens(ends), strict=True)
        ]
        print(f"{run.stage}: a response ends with {' or '.join(named)}")


def train(
    trainer: Trainer,
    run: Run,
    on_sample: Callable[[int], None] | None = None,
    every: int = 0,
    *,
    before: int = 0,
    title: str | None = None,
) -> dict[str, float]:
    """Train, from the latest intact checkpoint if the run is resumed, and return metrics on the held-out split.

    ``before``: steps of earlier trainings of the same run, which logged steps are counted from. ``title``: label of the
    progress bar instead of the stage's name.

    Raises:
        ConfigError: ``stage.trainer`` has an invalid optimizer, scheduler or data loader.
        RunError: the run is resumed, and all of its checkpoints are corrupted.
        KeyboardInterrupt: after a checkpoint was written at the end of the current step.
        TrainingError: the loss is not finite, or the trainer does not use the strategy of the settings.
    """
    ranks.check(trainer.accelerator, run.strategy)
    if not run.strategy.sharded:  # shards are float32
        model: Any = trainer.model
        precision.tell_lost(run.stage, model, "stage.trainer.learning_rate", trainer.args.learning_rate)
    if trainer.args.device.type == "cpu":
        keep_freed()
    folder = Path(str(trainer.args.output_dir))
    last = newest_whole(resumable(folder, "checkpoint-*", run.stage), run.stage) if run.resumed else None
    if run.resumed:
        run.rewind(before + (0 if last is None else number(last)), written_at(last))
    trainer.remove_callback(transformers.PrinterCallback)
    ExactEvaluation(trainer)
    share_tokens(trainer)
    if run.manifest["settings"]["hardware"]["oom_retry"]:
        halve_steps(trainer, run.stage, paired=run.stage in ("reward", "dpo"))
    interruption = Interruption()
    with closing(Reporter(run, on_sample, every, interruption, before, title)) as reporter:
        with interruption:
            trainer.add_callback(reporter)
            trainer.add_callback(Keeper(trainer, run, last))
            if (patience := run.manifest["settings"]["stage"]["early_stopping"]) is not None:
                trainer.add_callback(EarlyStoppingCallback(patience))
            # Optimizer, scheduler and loader depend on stage.trainer; a corrupted checkpoint does not.
            with blame("stage.trainer", until=lambda: last is not None or reporter.bar is not None):
                if last is None or not take_up_if_trained(trainer, last):
                    trainer.train(resume_from_checkpoint=None if last is None else str(last))
        if interruption.asked:
            raise KeyboardInterrupt
        evaluated = rename(trainer.evaluate())
    return evaluated | best(trainer, run) | {
        "steps": trainer.state.global_step, "tokens": trainer.state.num_input_tokens_seen
    }  # fmt: skip


def best(trainer: Trainer, run: Run) -> dict[str, float]:
    """Return the step of the weights that ``stage.early_stopping`` has kept, and print it; empty without it."""
    if not trainer.args.load_best_model_at_end or trainer.state.best_global_step is None:
        return {}
    step, last = trainer.state.best_global_step, trainer.state.global_step
    print(f"{run.stage}: the weights of step {step} of {last} are kept: the held-out loss was lowest then")
    return {"best_step": step}


def tell_unmoved(stage: str, moved: float, setting: str, rate: float) -> None:
    """Print a line if training has hardly changed the policy: log-probabilities of responses by less than 0.1 nats."""
    if moved < 0.1:
        sentence = f"{stage}: the policy has hardly moved, a response's log-probability by {moved:.2g} nats"
        console.print(f"{sentence}: raise {setting}={rate:g}, or take more steps", highlight=False, soft_wrap=True)


class Sampler:
    """Greedy completions of a few held-out prompts during training, printed and appended to samples.jsonl."""

    def __init__(self, run: Run, model: Any, tokenizer: Any, prompts: Sequence[Prompt], settings: Settings):
        self.run, self.model, self.tokenizer, self.seed = run, model, tokenizer, settings.seed
        stage: Any = settings.stage  # of a policy: base, sft, dpo, kto or ppo
        self.prompts, self.length = list(prompts)[: stage.sample_prompts], stage.sample_length

    def __call__(self, step: int) -> None:
        if not self.prompts:
            return
        responses = generate(
            self.model,
            self.tokenizer,
            self.prompts,
            max_prompt_length=1024,
            max_response_length=self.length,
            temperature=0.0,
            seed=self.seed,
            batch_size=len(self.prompts),
        )
        if not ranks.is_main():  # all processes sample: a sharded model needs all of them
            return
        rows = [(question(prompt), response.text) for prompt, response in zip(self.prompts, responses, strict=True)]
        show_samples(f"{self.run.stage}, step {step}: greedy completions", ("prompt", "completion"), rows)
        for prompt, completion in rows:
            self.run.append("samples.jsonl", {"step": step, "prompt": prompt, "completion": completion})
