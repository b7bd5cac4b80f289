"""Fine-tune the base model on demonstrations (SFT). The loss counts only the assistant's turns.

    python -m rlhf stage=sft                                   # starts from model.pretrained
    python -m rlhf stage=sft model=gpt2 data.path=my.jsonl     # rows of {"prompt": ..., "completion": ...}

Ouyang et al. 2022, https://arxiv.org/abs/2203.02155. The trainer is TRL's.
"""

from trl import SFTConfig, SFTTrainer

from rlhf.config import Settings, SFTStage
from rlhf.data.tokens import Form
from rlhf.modeling import adapters, loading
from rlhf.runs.run import Run
from rlhf.training import loop
from rlhf.training.arguments import arguments, build


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Train on demonstrations, save the policy and return its metrics."""
    stage = settings.stage_as(SFTStage)
    rows = loop.read_splits(run, settings, "demonstrations")
    tokenizer = loading.load_tokenizer(run["policy"], settings.model)
    loop.settle(run, settings, tokenizer, rows["train"]["prompt"])
    # Rows are token ids. TRL prepares them further only if the settings ask it to pack or to shuffle.
    ready = not any(stage.trainer.get(key) for key in ("packing", "shuffle_dataset"))
    args = arguments(
        SFTConfig, settings, run, completion_only_loss=True, dataset_kwargs={"skip_prepare_dataset": ready}
    )
    ids = loop.tokenized(run, settings, rows, Form.completions, tokenizer, args)
    policy = loading.load_policy(run["policy"], settings.model, tokenizer, **adapters.quantization(settings.adapter))
    run.record_tokenizer(tokenizer)
    loop.show_ends(run, policy, tokenizer)

    trainer = build(
        SFTTrainer,
        model=policy,
        args=args,
        train_dataset=ids["train"],
        eval_dataset=ids["validation"],
        processing_class=tokenizer,
        peft_config=adapters.lora(settings.adapter, adapters.TaskType.CAUSAL_LM, policy),
    )
    sample = loop.Sampler(run, trainer.model, tokenizer, rows["validation"]["prompt"], settings)
    metrics = loop.train(trainer, run, sample, stage.sample_every)
    sample(trainer.state.global_step)
    loading.save(trainer.model, tokenizer, run.model, run["policy"])
    return metrics | {"objective": metrics["eval/loss"]}
