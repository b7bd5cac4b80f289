"""Predict the next token: a base model from random weights, or continued pretraining of an existing one.

python -m rlhf stage=base                                       # the embedded model, from nothing
python -m rlhf stage=base model=gpt2 data.text.path=my.jsonl    # go on with GPT-2 on a file of {"text": ...}
"""

from trl import SFTConfig, SFTTrainer

from rlhf import models, training
from rlhf.config import Settings
from rlhf.data import load
from rlhf.run import Run
from rlhf.scratch import new_policy, new_tokenizer


def run(settings: Settings, run: Run) -> dict[str, float]:
    stage = settings.stage
    texts = {split: load(settings.data, "text", split, settings.seed) for split in ("train", "validation")}
    for split, dataset in texts.items():
        run.record_data("text", split, dataset)

    if stage.policy is None:
        template = models.chat_template(settings.model.chat_template)
        tokenizer = new_tokenizer(texts["train"]["text"], settings.model.architecture["vocabulary"], template)
        policy = new_policy(settings.model.architecture, tokenizer)
    else:
        tokenizer = models.load_tokenizer(run["policy"], settings.model)
        policy = models.load_policy(run["policy"], settings.model, tokenizer, **models.quantization(settings.adapter))
    run.record_tokenizer(tokenizer)

    trainer = SFTTrainer(
        model=policy,
        args=training.arguments(
            SFTConfig, settings, run, max_length=stage.block_length, packing=True, packing_strategy="wrapped"
        ),
        train_dataset=texts["train"],
        eval_dataset=texts["validation"],
        processing_class=tokenizer,
        peft_config=models.lora(settings.adapter, models.TaskType.CAUSAL_LM),
    )
    openings = [" ".join(text.split()[:4]) for text in texts["validation"]["text"][: stage.sample_prompts]]
    sample = training.Sampler(run, trainer.model, tokenizer, openings, settings)
    metrics = training.train(trainer, run, sample, stage.sample_every)
    sample(trainer.state.global_step)
    models.save(trainer.model, tokenizer, run.model, run.parents.get("policy"))
    return metrics | {"objective": metrics["eval/loss"]}
