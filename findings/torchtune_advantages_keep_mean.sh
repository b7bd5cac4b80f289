#!/usr/bin/env bash
# Versions: torchtune 0.6.1, torch 2.13.0.
# Behavior: estimate_advantages, which PPO's recipe calls, divides the advantages by their standard deviation but does not
#   center them: their mean is the one that they had. Without a critic's help (values of 0, rewards of 3 to 6) all are
#   positive, so that PPO reinforces every response. Its whiten has the argument shift_mean=True; in TRL's function of
#   that name, which it follows, shift_mean=True removes the mean, and here it adds the mean back.
# Likely guess: advantages that are "normalized across the batch", as the comment says, have mean 0.
# Seen:
#   torchtune: mean 4.5, standard deviation 1.0, smallest 3.2
#   by the definition: mean 0.0, standard deviation 1.0, smallest -1.3
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv environment
environment/bin/pip install -q torchtune==0.6.1 torchao==0.14.1 torch==2.13.0
environment/bin/python - 2> /dev/null <<'PYTHON' | tee seen
import torch
from torchtune.rlhf import estimate_advantages

rewards = torch.zeros(4, 5)  # (responses, tokens), gamma = lambda = 1
rewards[:, -1] = torch.tensor([3.0, 4.0, 5.0, 6.0])
raw = rewards.flip(1).cumsum(1).flip(1)
found, _ = estimate_advantages(torch.zeros(4, 5), rewards, 1.0, 1.0, masks=torch.ones(4, 5, dtype=torch.bool))
for name, of in (("torchtune", found), ("by the definition", (raw - raw.mean()) / raw.std())):
    print(f"{name}: mean {of.mean() + 0.0:.1f}, standard deviation {of.std():.1f}, smallest {of.min():.1f}")
PYTHON
diff - seen <<'SEEN'
torchtune: mean 4.5, standard deviation 1.0, smallest 3.2
by the definition: mean 0.0, standard deviation 1.0, smallest -1.3
SEEN
