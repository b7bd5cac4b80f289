#!/usr/bin/env bash
# Versions: verl 0.9.1, torch 2.13.0, transformers 5.10.2, tensordict 0.10.0, ray 2.52.1.
# Behavior: under grpo, grpo_vectorized, rloo and opo, the advantage of a prompt's only response is its raw reward (for
#   GRPO, mean 0 and standard deviation 1 are assumed), so that with rewards above 0 it is always reinforced. Under
#   rloo_vectorized it is 0.
# Likely guess: without a group there is no baseline and nothing to learn, so the advantage is 0; and the vectorized
#   variant of an estimator has its values.
# Seen (prompt a: rewards 1 and 3; prompt b: reward 5):
#   grpo -0.71 0.71 5.00
#   grpo_vectorized -0.71 0.71 5.00
#   rloo -2.00 2.00 5.00
#   rloo_vectorized -2.00 2.00 0.00
#   opo -1.00 1.00 5.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv environment
environment/bin/pip install -q --no-deps verl==0.9.1
environment/bin/pip install -q torch==2.13.0 transformers==5.10.2 accelerate==1.15.0 tensordict==0.10.0 ray==2.52.1 \
  omegaconf==2.3.0 codetiming==1.4.0 dill==0.4.1
environment/bin/python - 2> /dev/null <<'PYTHON' | tee seen
import numpy
import torch
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

rewards = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 5.0]])  # (responses, tokens)
prompts = numpy.array(["a", "a", "b"])
for name in ("grpo", "grpo_vectorized", "rloo", "rloo_vectorized", "opo"):
    estimator = get_adv_estimator_fn(name)
    found, _ = estimator(token_level_rewards=rewards.clone(), response_mask=torch.ones(3, 2), index=prompts)
    print(name, *(f"{one:.2f}" for one in found[:, 0].tolist()))
PYTHON
diff - seen <<'SEEN'
grpo -0.71 0.71 5.00
grpo_vectorized -0.71 0.71 5.00
rloo -2.00 2.00 5.00
rloo_vectorized -2.00 2.00 0.00
opo -1.00 1.00 5.00
SEEN
