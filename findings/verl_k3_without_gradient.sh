#!/usr/bin/env bash
# Versions: verl 0.9.1, torch 2.13.0, transformers 5.10.2, tensordict 0.10.0, ray 2.52.1.
# Behavior: kl_penalty with low_var_kl (k3), which actor.use_kl_loss adds to the loss of GRPO, is clamped to 10. k3 reaches
#   10 at a token that the policy gives 2.6 nats less than the reference does, and beyond that its gradient is 0: such
#   tokens are never pulled back to the reference. On the other side the clamp begins at 11 nats.
# Likely guess: the clamp is for numerical overflow at extreme values, so 5 nats per token have a large gradient.
# Seen (log-probability of the policy minus that of the reference: k3, gradient; unclamped):
#   -2: 4.39, -6.39; 4.39, -6.39
#   -3: 10.00, 0.00; 16.09, -19.09
#   -5: 10.00, 0.00; 142.41, -147.41
#   5: 4.01, 0.99; 4.01, 0.99
#   12: 10.00, 0.00; 11.00, 1.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv environment
environment/bin/pip install -q --no-deps verl==0.9.1
environment/bin/pip install -q torch==2.13.0 transformers==5.10.2 accelerate==1.15.0 tensordict==0.10.0 ray==2.52.1 \
  omegaconf==2.3.0 codetiming==1.4.0 dill==0.4.1
environment/bin/python - 2> /dev/null <<'PYTHON' | tee seen
import torch
from verl.trainer.ppo.core_algos import kl_penalty

for difference in (-2.0, -3.0, -5.0, 5.0, 12.0):
    found = []
    for k3 in (lambda of: kl_penalty(of, torch.zeros(1), "low_var_kl"), lambda of: torch.exp(-of) - 1 + of):
        policy = torch.tensor([difference], requires_grad=True)
        value = k3(policy)
        value.sum().backward()
        found.append(f"{value.item():.2f}, {policy.grad.item() + 0.0:.2f}")
    print(f"{difference:.0f}: {'; '.join(found)}")
PYTHON
diff - seen <<'SEEN'
-2: 4.39, -6.39; 4.39, -6.39
-3: 10.00, 0.00; 16.09, -19.09
-5: 10.00, 0.00; 142.41, -147.41
5: 4.01, 0.99; 4.01, 0.99
12: 10.00, 0.00; 11.00, 1.00
SEEN
