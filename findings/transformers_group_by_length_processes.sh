#!/usr/bin/env bash
# Versions: transformers 5.23.0 and 5.24.0, accelerate 1.15.0, torch 2.13.0.
# Behavior: with train_sampling_strategy="group_by_length" one process with 8 rows per step and two processes with 4 rows
#   each take some optimizer steps on other rows, although the global batch, the seed and the data are the same. With
#   the default strategy the sets are the same in every step. No warning is given.
# Likely guess: equal global batches of one seed hold the same rows, however many processes share them, also in groups of
#   similar length.
# Likely reason: the sampler sorts groups of a multiple of one process's batch times its accumulated steps, and does not
#   know the number of processes.
# Seen, for each version (24 rows of different lengths, three steps):
#   random: True True True
#   group_by_length: False True False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
cat > train.py <<'PYTHON'
import json
import os
import sys

import torch
from transformers import Trainer, TrainingArguments

strategy, batch, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rows = [{"input_ids": [i] * (5 + 7 * i % 24), "labels": i} for i in range(24)]
seen = []


def collate(batch):
    longest = max(len(row["input_ids"]) for row in batch)
    ids = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in batch]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor([row["labels"] for row in batch])}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, labels):
        seen.append(labels.tolist())
        return {"loss": (self.weight * labels.float()).sum() * 0}


arguments = TrainingArguments(
    name, max_steps=3, per_device_train_batch_size=batch, save_strategy="no", report_to="none", use_cpu=True, seed=0,
    disable_tqdm=True, logging_steps=100, train_sampling_strategy=strategy,
    ddp_backend="gloo" if "RANK" in os.environ else None,
)
Trainer(Model(), arguments, train_dataset=rows, data_collator=collate).train()
with open(f"{name}-{os.environ.get('RANK', '0')}.json", "w") as file:
    json.dump(seen, file)
PYTHON
cat > show.py <<'PYTHON'
import json
import sys

strategy = sys.argv[1]
one, first, second = (json.load(open(f"{name}.json")) for name in ("one-0", "two-0", "two-1"))
print(f"{strategy}:", *(set(a) == {*b, *c} for a, b, c in zip(one, first, second, strict=True)))
PYTHON
for version in 5.23.0 5.24.0; do
  python3 -m venv "$version"
  "$version/bin/pip" install -q "transformers==$version" accelerate==1.15.0 torch==2.13.0
  for strategy in random group_by_length; do
    "$version/bin/python" train.py "$strategy" 8 one > /dev/null 2>&1
    "$version/bin/python" -m torch.distributed.run --nproc_per_node 2 train.py "$strategy" 4 two > /dev/null 2>&1
    "$version/bin/python" show.py "$strategy"
  done | tee seen
  diff - seen <<'SEEN'
random: True True True
group_by_length: False True False
SEEN
done
