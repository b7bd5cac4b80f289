"""A short script around TRL up to its first step: the peer of `benchmarks.startup`."""

import sys
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer


class Told(TrainerCallback):
    def __init__(self, place: str):
        self.place = Path(place)

    def on_step_begin(self, args, state, control, **_):
        self.place.write_text("a step begins")


if __name__ == "__main__":
    place, model, pairs, folder = sys.argv[1:]
    args = DPOConfig(
        output_dir=folder,
        use_cpu=True,
        report_to="none",
        max_length=128,
        per_device_train_batch_size=16,
        disable_tqdm=True,
        bf16=False,
    )
    DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        ref_model=AutoModelForCausalLM.from_pretrained(model),
        args=args,
        train_dataset=load_dataset("json", data_files=pairs, split="train", cache_dir=folder),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[Told(place)],
    ).train()
