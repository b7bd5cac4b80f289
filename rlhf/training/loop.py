"""What the stages that train with a transformers Trainer share: arguments, callbacks, resuming, interruption."""

import json
import signal
import threading
from collections.abc import Callable, Container, Sequence
from contextlib import closing
from dataclasses import fields
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
import transformers
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlhf.config import Dtype, Hardware, Settings, Strategy, Turns
from rlhf.config.library_errors import blame
from rlhf.config.ranges import require_trainer, require_warmup
from rlhf.config.rules import require_type
from rlhf.console import Bar, console, show_samples
from rlhf.data import templates
from rlhf.data.render import Prompt, question
from rlhf.data.tokens import BROKEN, CUT, FILLED, LONG, REWRITTEN, UNLEARNED, Form
from rlhf.data.tokens import tokenised as to_ids
from rlhf.errors import ConfigError, DataError, TrainingError
from rlhf.hardware import precision, ranks
from rlhf.hardware.device import torch_device
from rlhf.hardware.memory import keep_freed
from rlhf.modeling.generation import generate
from rlhf.runs.headlines import progress
from rlhf.runs.run import Run
from rlhf.storage.checksums import newest_whole, number, resumable
from rlhf.training.eval_metrics import ExactEvaluation
from rlhf.training.exact_resume import Keeper, take_up_if_trained, written_at
from rlhf.training.oom import halve_steps, share_tokens

if TYPE_CHECKING:
    from datasets import Dataset

# Depends on the machine, the moment, or on where a run was resumed: equal runs would not write equal metrics.
INCIDENTAL = ("runtime", "preparation_time", "per_second", "total_flos", "num_input_tokens_seen", "num_tokens", "epoch")
# Old names that transformers still takes and then passes over where the new name is set, as conf/stage/ sets it.
RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


# TRL looks for these in rows that are no tokens yet.
INSTEAD = dict.fromkeys(
    ("assistant_only_loss", "completion_only_loss"),
    "since stage.turns=all learns every turn of the assistant and stage.turns=last the last one",
)


def arguments(
    kind: type[TrainingArguments], settings: Settings, run: Run, *, part: str = "", **ours: Any
) -> TrainingArguments:
    """``kind(**stage.trainer)`` with what this project decides: where files go, seeds, precision, who reports.

    ``part`` names one of several trainings of a run: its checkpoints lie apart from those of the others.

    Raises:
        ConfigError: ``stage.trainer`` holds a name that ``kind`` does not know, an old one, one that is decided
            elsewhere, or a value of the wrong type or out of range.
    """
    given = settings.stage.trainer
    on_gpu = torch_device(settings.hardware).type == "cuda"
    decided: dict[str, Any] = {
        "output_dir": str(run.scratch / part),
        "seed": settings.seed,
        "data_seed": settings.seed,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not on_gpu,
        "bf16": precision.autocasts(settings) or (on_gpu and settings.model.dtype is Dtype.bfloat16),
        "fp16": on_gpu and settings.model.dtype is Dtype.float16,
        "save_strategy": "steps",
        "save_total_limit": 2,
        "dataloader_pin_memory": on_gpu,
        "include_num_input_tokens_seen": "non_padding",  # what the stage cost; it is kept in checkpoints
    }
    decided |= sharing(settings.hardware, given, on_gpu) | ours
    check(kind, given, decided)
    with blame("stage.trainer"):
        return kind(**decided, **given)


# FSDP2 wraps each block of layers; a whole state dict in a checkpoint can be read by any number of processes.
FSDP = {"version": 2, "reshard_after_forward": True, "state_dict_type": "FULL_STATE_DICT"}


def sharing(hardware: Hardware, given: dict[str, Any], on_gpu: bool) -> dict[str, Any]:
    """What several processes need in a trainer's arguments; nothing for one.

    ``per_device_train_batch_size`` stays what it is in TRL, rows of each process at a time: two processes with 8 take
    the steps of one with 16.
    """
    strategy = ranks.strategy_of(hardware)
    if strategy is Strategy.fsdp:
        return {"fsdp": True, "fsdp_config": dict(FSDP)}
    if strategy.sharded:
        stage = 2 if strategy is Strategy.deepspeed_zero2 else 3
        zero = {"stage": stage} | ({"stage3_gather_16bit_weights_on_model_save": True} if stage == 3 else {})
        automatic = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
        half = {"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}
        return {"deepspeed": {"zero_optimization": zero} | half | dict.fromkeys(automatic, "auto")}
    if not ranks.started():
        return {}
    backend = {} if on_gpu else {"ddp_backend": "gloo"}
    # Every parameter that learns has a part in every loss; to look for others costs time, and a warning.
    looked = "ddp_find_unused_parameters" in given
    return backend if looked else backend | {"ddp_find_unused_parameters": False}


def check(kind: type[TrainingArguments], given: dict[str, Any], decided: Container[str] = ()) -> None:
    """Refuse a name in ``stage.trainer`` that may not stand there, and a value that ``kind`` would take unseen."""
    known = {field.name for field in fields(kind) if field.init}
    hints = get_type_hints(kind)
    for key, value in given.items():
        if key in RENAMED:
            raise ConfigError(
                f"stage.trainer.{key}={value} goes by a new name: give stage.trainer.{RENAMED[key]} instead"
            )
        if key not in known:
            raise ConfigError(f"stage.trainer.{key} is no argument of {kind.__name__}: remove it or correct its name")
        if key in INSTEAD:
            raise ConfigError(f"stage.trainer.{key}={value} is not used, {INSTEAD[key]}: remove it")
        if key in decided:
            raise ConfigError(f"stage.trainer.{key} is decided elsewhere: remove it from stage.trainer")
        require_type(f"stage.trainer.{key}", value, hints[key])
    require_trainer(given)


def build(kind: type[Trainer], **parts: Any) -> Trainer:
    """``kind(**parts)``; what a trainer refuses is told as a mistake in the settings that it is made from.

    Raises:
        ConfigError: the trainer refuses its arguments, no module of the model is one that the adapter names, or the
            learning rate is warmed up for longer than the training lasts.
    """
    adapter = parts.get("peft_config")
    targets = "" if adapter is None else f" or adapter.target_modules={adapter.target_modules}"
    with blame(f"stage.trainer{targets}"):
        trainer = kind(**parts)
    _check_steps(trainer)
    return trainer


def tokenised(
    run: Run,
    settings: Settings,
    rows: dict[str, "Dataset"],
    form: Form,
    tokenizer: Any,
    args: Any,
    extra: Sequence[str] = (),
) -> dict[str, "Dataset"]:
    """Each split as the ids that the trainer is given; what is cut, left out or odd is told and noted in run.json.

    Raises:
        DataError: no row of a split is left.
    """
    kind, turns = form.kind, getattr(settings.stage, "turns", Turns.all)
    # Packed in another way than "bfd", rows are joined before they are cut, and nothing is lost.
    joined = getattr(args, "packing", False) and args.packing_strategy != "bfd"
    longest = (
        None if joined or form is Form.sequences else args.max_length
    )  # RewardTrainer leaves long pairs out itself
    keep_end = getattr(args, "truncation_mode", None) == "keep_end"
    found = {}
    for split, dataset in rows.items():
        made, counts = to_ids(dataset, form, tokenizer, longest, settings.data.cache, extra, keep_end, turns)
        for count, reason in ((counts.cut, CUT), (counts.filled, FILLED)):
            limit = f"stage.trainer.max_length={longest}"
            run.record_omission(kind, split, count, reason, reason.replace("max_length", limit))
        if counts.unlearned:
            run.record_omission(kind, split, counts.unlearned, UNLEARNED)
        if counts.rewritten:
            run.record_omission(kind, split, counts.rewritten, REWRITTEN)
        if counts.turns > len(dataset):
            asked = f"{counts.learned} of {counts.turns} assistant turns in {kind}/{split} are trained on"
            print(f"{run.stage}: {asked} (stage.turns={turns.value})")
        if counts.special:
            run.record_omission(kind, split, counts.special, "special tokens in the text, encoded as text")
        if counts.broken:
            meaning = _boundary(dataset, tokenizer, counts.example)
            run.record_omission(kind, split, counts.broken, BROKEN, f"{BROKEN}; {meaning}")
        if made is None:
            raise DataError(
                f"every prompt of data.{kind} ({split}) fills stage.trainer.max_length={longest} by itself: "
                "raise it, or give shorter prompts"
            )
        found[split] = made
    return found


def _boundary(rows: "Dataset", tokenizer: Any, example: str | None) -> str:
    """What a token boundary within the prompt means for training, and how to avoid it."""
    remedy = (
        "to avoid it, end the prompt with a word and begin the response with the space"
        if isinstance(rows[0]["prompt"], str) and not templates.strings_are_turns(tokenizer)
        else "to avoid it, give a chat template that ends a prompt alike with and without a response"
    )
    return f"the loss then begins within the prompt, at {example!r} in the first one: harmless in a few rows; {remedy}"


def prompt_ids(run: Run, settings: Settings, prompts: "Dataset", tokenizer: Any) -> "Dataset":
    """PPO's prompts as ids, each with its ``row``; those that are longer than stage.max_prompt_length are left out.

    Raises:
        DataError: all of them are.
    """
    longest = settings.stage.max_prompt_length
    made, counts = to_ids(prompts, Form.prompts, tokenizer, longest, settings.data.cache)
    run.record_omission("prompts", "train", counts.filled, LONG)
    if made is None:
        raise DataError(
            f"every prompt of data.prompts (train) is longer than stage.max_prompt_length={longest}: "
            "raise it, or give shorter prompts"
        )
    return made


def settle(run: Run, settings: Settings, tokenizer: Any, prompts: Sequence[Prompt]) -> None:
    """Have string prompts put to the model as ``data.render`` says, and print it in one line.

    Raises:
        ConfigError: data.render does not fit the prompts or the tokenizer.
    """
    if (sentence := templates.settle(tokenizer, prompts, settings.data.render)) is not None:
        print(f"{run.stage}: {sentence}")


def show_ends(run: Run, model: Any, tokenizer: Any) -> None:
    """Print which tokens end a response if there are others than the tokenizer's end of sequence."""
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
    """Train, from the last whole checkpoint where the run is resumed, and evaluate on the held-out split.

    ``before`` is the number of steps that earlier trainings of the same run took; what is logged counts on from there.
    ``title`` stands before the bar instead of the stage's name.

    Raises:
        ConfigError: no optimiser, scheduler or loader can be made from ``stage.trainer``.
        RunError: the run is resumed, and none of its checkpoints is whole.
        KeyboardInterrupt: after a checkpoint was written at the end of the step under way.
        TrainingError: the loss is not a finite number, or the trainer does not share the run as it was asked to.
    """
    ranks.check(trainer.accelerator, run.strategy)
    if not run.strategy.sharded:  # whose shards are of float32
        precision.tell_lost(run.stage, trainer.model, "stage.trainer.learning_rate", trainer.args.learning_rate)
    if trainer.args.device.type == "cpu":
        keep_freed()
    folder = Path(trainer.args.output_dir)
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
            # Optimiser, scheduler and loader are made from stage.trainer; a checkpoint's being torn is no fault of it.
            with blame("stage.trainer", until=lambda: last is not None or reporter.bar is not None):
                if last is None or not take_up_if_trained(trainer, last):
                    trainer.train(resume_from_checkpoint=None if last is None else str(last))
        if interruption.asked:
            raise KeyboardInterrupt
        evaluated = rename(trainer.evaluate())
    return evaluated | {"steps": trainer.state.global_step, "tokens": trainer.state.num_input_tokens_seen}


def _check_steps(trainer: Trainer) -> None:
    """Refuse a warm-up that lasts longer than the epochs; say so if nothing is going to be learned."""
    args = trainer.args
    rows = args.train_batch_size * args.world_size * args.gradient_accumulation_steps  # of one step
    steps = ceil(ceil(len(trainer.train_dataset) / rows) * args.num_train_epochs)
    require_warmup(args.warmup_steps, args.max_steps if args.max_steps > 0 else steps)
    if args.learning_rate == 0:
        console.print("stage.trainer.learning_rate=0: every step leaves the weights as they are", highlight=False)


def tell_unmoved(stage: str, moved: float, setting: str, rate: float) -> None:
    """Say in one line where training has left a policy as it was: responses are as likely, within 0.1 nats."""
    if moved < 0.1:
        told = f"{stage}: the policy has hardly moved, a response's log-probability by {moved:.2g} nats"
        console.print(f"{told}: raise {setting}={rate:g}, or take more steps", highlight=False, soft_wrap=True)


def rename(logs: dict[str, Any]) -> dict[str, float]:
    """transformers' names as ours: ``eval_loss`` -> ``eval/loss``, ``loss`` -> ``train/loss``; times left out."""
    kept = {key: value for key, value in logs.items() if not any(name in key for name in INCIDENTAL)}
    return {
        f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}": float(value)
        for key, value in kept.items()
    }


class Reporter(TrainerCallback):
    """Sends a Trainer's logs to the run and to the screen, and stops it at the end of a step when asked."""

    def __init__(
        self,
        run: Run,
        on_sample: Callable[[int], None] | None,
        every: int,
        interruption: "Interruption",
        before: int = 0,
        title: str | None = None,
    ):
        self.run, self.on_sample, self.every, self.interruption = run, on_sample, every, interruption
        self.before, self.title = before, title or run.stage
        self.bar: Bar | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar = Bar(self.title, state.max_steps, state.global_step, partial(progress, self.run.stage))

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.update(state.global_step)
        # Ctrl-C may reach one process alone, or between two steps: all stop at the same one.
        if ranks.anywhere(self.interruption.asked):
            self.interruption.asked = True
            control.should_save = control.should_training_stop = True
        elif self.on_sample is not None and self.every and state.global_step % self.every == 0:
            self.on_sample(state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: dict, **_: Any) -> None:
        if "train_loss" in logs:  # the summary at the end repeats what run.json holds
            return
        metrics = rename(logs)
        if not all(torch.isfinite(torch.tensor(value)) for key, value in metrics.items() if key.endswith("loss")):
            raise TrainingError(
                f"the loss is {metrics} at step {state.global_step}: lower stage.trainer.learning_rate, "
                "or use model.dtype=float32"
            )
        self.run.log(metrics, self.before + state.global_step)
        if self.bar is not None:  # there is none where the last step was made before the run was resumed
            self.bar.update(state.global_step, metrics)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class Interruption:
    """A context in which Ctrl-C sets ``asked``, for the loop to end well; a second one ends it at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Interruption":
        self._usable = threading.current_thread() is threading.main_thread()  # elsewhere Python allows no handler
        if self._usable:
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._usable:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Sampler:
    """Completions of a few held-out prompts while a policy is trained: on the screen and in samples.jsonl."""

    def __init__(self, run: Run, model: Any, tokenizer: Any, prompts: Sequence[Prompt], settings: Settings):
        self.run, self.model, self.tokenizer, self.seed = run, model, tokenizer, settings.seed
        self.prompts = list(prompts)[: settings.stage.sample_prompts]
        self.length = settings.stage.sample_length

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
        if not ranks.is_main():  # all of them sample: a model in shards needs them all
            return
        rows = [(question(prompt), response.text) for prompt, response in zip(self.prompts, responses, strict=True)]
        show_samples(f"{self.run.stage}, step {step}: greedy completions", ("prompt", "completion"), rows)
        with (self.run.work / "samples.jsonl").open("a", encoding="utf-8") as file:
            for prompt, completion in rows:
                file.write(json.dumps({"step": step, "prompt": prompt, "completion": completion}) + "\n")
