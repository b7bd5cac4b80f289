"""Train a base model on next-token prediction, from random weights or as continued pretraining.

python -m rlhf stage=base                                       # a small model, from random weights
python -m rlhf stage=base model=gpt2 data.text.path=my.jsonl    # continue GPT-2 on rows of {"text": ...}
"""

from peft import prepare_model_for_kbit_training
from transformers import Trainer, TrainingArguments, default_data_collator

from rlhf.config import AdapterKind, BaseStage, Settings
from rlhf.data import templates
from rlhf.data.blocks import blocks
from rlhf.modeling import adapters, loading
from rlhf.modeling.from_scratch import new_policy, new_tokenizer
from rlhf.runs.run import Run
from rlhf.training import loop
from rlhf.training.arguments import arguments, build


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Train on packed text, save the model and return its metrics."""
    stage = settings.stage_as(BaseStage)
    texts = loop.read_splits(run, settings, "text")
    args = arguments(
        TrainingArguments, settings, run, prediction_loss_only=True, label_names=["labels"], remove_unused_columns=False
    )

    if stage.policy is None:
        architecture, template = settings.model.new("stage.policy=null")
        template = templates.chat_template(template)
        tokenizer = new_tokenizer(texts["train"]["text"], architecture["vocabulary"], template)
        policy = new_policy(architecture, tokenizer)
    else:
        tokenizer = loading.load_tokenizer(run["policy"], settings.model)
        policy = loading.load_policy(
            run["policy"], settings.model, tokenizer, **adapters.quantization(settings.adapter)
        )
    run.record_tokenizer(tokenizer)

    if settings.adapter.kind is AdapterKind.qlora:
        policy = prepare_model_for_kbit_training(policy)
    trainer = build(
        Trainer,
        model=adapters.adapt(policy, settings.adapter, adapters.TaskType.CAUSAL_LM),
        args=args,
        train_dataset=blocks(texts["train"], tokenizer, stage.block_length, "train"),
        eval_dataset=blocks(texts["validation"], tokenizer, stage.block_length, "validation"),
        data_collator=default_data_collator,
        processing_class=tokenizer,
    )
    tokenizer.strings_are_turns = False  # the training data is plain text
    openings = [" ".join(text.split()[:4]) for text in texts["validation"]["text"][: stage.sample_prompts]]
    sample = loop.Sampler(run, trainer.model, tokenizer, openings, settings)
    metrics = loop.train(trainer, run, sample, stage.sample_every)
    sample(trainer.state.global_step)
    loading.save(trainer.model, tokenizer, run.model, run.parents.get("policy"))
    return metrics | {"objective": metrics["eval/loss"]}
