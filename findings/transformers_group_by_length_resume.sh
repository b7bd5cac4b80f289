#!/usr/bin/env bash
# Versions: transformers 5.23.0 and 5.24.0, accelerate 1.15.0, torch 2.13.0.
# Behavior: a Trainer with train_sampling_strategy="group_by_length" that is resumed from a checkpoint within its second
#   epoch reads the rows of the rest of this epoch in the order of the first epoch: some are seen twice, some never. With
#   the default strategy, and from checkpoints of the first epoch or of the end of an epoch, the order is that of the
#   uninterrupted run. No warning is given.
# Likely guess: ignore_data_skip=False, the default, restores the order for every sampler.
# Likely reason: the sampler draws from torch's global generator when an epoch begins. A checkpoint holds the state at its
#   own step; it is loaded only after the batches to skip have been drawn.
# Seen, for each version (checkpoints 3 and 9 are in the middle of epochs of six steps):
#   random: 3 True, 6 True, 9 True, 12 True
#   group_by_length: 3 True, 6 True, 9 False, 12 True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
cat > show.py <<'PYTHON'
import torch
from transformers import Trainer, TrainingArguments

seen = []


rows = [{"input_ids": torch.full((8,), i), "labels": torch.full((8,), i)} for i in range(24)]


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, labels):
        if self.training:
            seen.append(input_ids[:, 0].tolist())
        return {"loss": (self.weight * labels.float()).sum() * 0}


def run(strategy, folder, checkpoint=None):
    seen.clear()
    arguments = TrainingArguments(
        folder, max_steps=14, per_device_train_batch_size=4, save_steps=3, report_to="none", use_cpu=True, seed=0,
        disable_tqdm=True, logging_steps=100, train_sampling_strategy=strategy,
    )
    Trainer(Model(), arguments, train_dataset=rows).train(resume_from_checkpoint=checkpoint)
    return list(seen)


for strategy in ("random", "group_by_length"):
    whole = run(strategy, strategy)
    same = [(n, run(strategy, "again", f"{strategy}/checkpoint-{n}") == whole[n:]) for n in (3, 6, 9, 12)]
    print(f"{strategy}: " + ", ".join(f"{n} {equal}" for n, equal in same))
PYTHON
for version in 5.23.0 5.24.0; do
  python3 -m venv "$version"
  "$version/bin/pip" install -q "transformers==$version" accelerate==1.15.0 torch==2.13.0
  rm -rf random group_by_length again
  "$version/bin/python" show.py 2> /dev/null | grep True | tee seen
  diff - seen <<'SEEN'
random: 3 True, 6 True, 9 True, 12 True
group_by_length: 3 True, 6 True, 9 False, 12 True
SEEN
done
