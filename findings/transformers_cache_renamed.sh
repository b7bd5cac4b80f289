#!/usr/bin/env bash
# Versions: transformers 5.23.0 and 5.24.0, torch 2.13.0.
# Behavior: between two minor releases the argument `past_key_values` of a model's forward becomes `cache`. The signature
#   of 5.24 has the new name only, so a test for the old one by inspect.signature fails. The old keyword still works: it
#   gives a FutureWarning that names 5.40 as its end. The output's `past_key_values` still works too, and a line is
#   logged. Mamba's `cache_params` gets the same new name, so that the name no longer separates the two kinds of cache.
# Likely reason: one name for all caches; the decorator deprecate_kwarg accepts the old one, and functools.wraps shows the
#   wrapped signature.
# Seen:
#   5.23.0 Llama: past_key_values, Mamba: cache_params, old keyword: no warning
#   5.24.0 Llama: cache, Mamba: cache, old keyword: FutureWarning
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv environment
cat > show.py <<'PYTHON'
import inspect
import warnings

import torch
import transformers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, MambaForCausalLM

NAMES = ("cache", "past_key_values", "cache_params")


def name(model):
    return ", ".join(one for one in inspect.signature(model.forward).parameters if one in NAMES)


sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model(torch.tensor([[1, 2]]), past_key_values=DynamicCache(config=model.config)).past_key_values.get_seq_length()
kinds = {one.category.__name__ for one in caught if "past_key_values" in str(one.message)}
print(
    f"{transformers.__version__} Llama: {name(LlamaForCausalLM)}, Mamba: {name(MambaForCausalLM)}, "
    f"old keyword: {', '.join(kinds) or 'no warning'}"
)
PYTHON
for version in 5.23.0 5.24.0; do
  environment/bin/pip install -q torch==2.13.0 "transformers==$version"
  environment/bin/python show.py 2> /dev/null
done | tee seen
diff seen - <<'SEEN'
5.23.0 Llama: past_key_values, Mamba: cache_params, old keyword: no warning
5.24.0 Llama: cache, Mamba: cache, old keyword: FutureWarning
SEEN
