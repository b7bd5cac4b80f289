#!/usr/bin/env bash
# Versions: peft 0.21.2, torch 2.13.0, transformers 5.23.0.
# Behavior: add_weighted_adapter(combination_type="linear") with weights .5 and .5 is not the average of two LoRA updates.
#   The factors A and B are combined separately, with square roots of the weights, so that their product has the updates
#   at half of their size plus products of one adapter's B and the other's A. The average of an adapter and a copy of it
#   is twice the adapter. dare_linear and magnitude_prune with a density of 1 do the same; ties has other sizes; cat and
#   (if the rank suffices) svd are the average.
# Likely guess: the average, as cat has it at a higher rank; of equal adapters the same adapter.
# Seen (size of the update over that of the average):
#   an adapter and its copy: linear 2.00, cat 1.00, svd 1.00, dare_linear 2.00
#   error for two random adapters, over the average: linear 1.01, cat 0.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1
python3 -m venv environment
environment/bin/pip install -q peft==0.21.2 torch==2.13.0 transformers==5.23.0
cat > show.py <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model

torch.manual_seed(0)
layer = torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False))
inputs = torch.randn(4, 8)
before = layer(inputs).detach()
config = LoraConfig(r=4, target_modules=["0"], init_lora_weights=False)
model = get_peft_model(layer, config, adapter_name="one")
for name in ("two", "copy"):
    model.add_adapter(name, config)
for factor in (model.base_model.model[0].lora_A, model.base_model.model[0].lora_B):
    factor["copy"].weight.data.copy_(factor["one"].weight.data)


def update(name):
    model.set_adapter(name)
    return (model(inputs) - before).detach()


def combined(other, kind):
    density = {"density": 1.0} if kind == "dare_linear" else {}
    model.add_weighted_adapter(["one", other], [0.5, 0.5], f"{other}-{kind}", combination_type=kind, **density)
    return update(f"{other}-{kind}")


kinds = ("linear", "cat", "svd", "dare_linear")
sizes = {kind: (combined("copy", kind).norm() / update("one").norm()).item() for kind in kinds}
print("an adapter and its copy: " + ", ".join(f"{kind} {size:.2f}" for kind, size in sizes.items()))
average = (update("one") + update("two")) / 2
errors = {kind: ((combined("two", kind) - average).norm() / average.norm()).item() for kind in ("linear", "cat")}
print("error for two random adapters, over the average: " + ", ".join(f"{k} {error:.2f}" for k, error in errors.items()))
PYTHON
environment/bin/python show.py 2> /dev/null | tee seen
diff - seen <<'SEEN'
an adapter and its copy: linear 2.00, cat 1.00, svd 1.00, dare_linear 2.00
error for two random adapters, over the average: linear 1.01, cat 0.00
SEEN
