#!/usr/bin/env bash
# Versions: transformers 5.23.0, torch 2.13.0.
# Behavior: RecurrentGemma gives other logits for a prompt that is padded on the left, with its attention mask and its
#   position ids, than for the prompt by itself, so that a padded batch generates other tokens. Llama's logits agree to
#   rounding.
# Likely reason: the causal convolution in front of the recurrence (conv1d, width 4) reads the embeddings of the padding:
#   the recurrent block does not use the attention mask. The recurrence itself restarts where the position is 0.
# Seen:
#   Llama: equal
#   RecurrentGemma: different
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv environment
environment/bin/pip install -q torch==2.13.0 transformers==5.23.0
cat > show.py <<'PYTHON'
import torch
from transformers import LlamaConfig, LlamaForCausalLM, RecurrentGemmaConfig, RecurrentGemmaForCausalLM

sizes = {
    "vocab_size": 24, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
gemma = RecurrentGemmaConfig(**sizes, lru_width=16, attention_window_size=64)
ids = torch.tensor([[5, 6, 7]])
padded = torch.tensor([[0, 0, 0, 5, 6, 7]])
mask = (padded != 0).long()
positions = (mask.cumsum(-1) - 1).clamp(min=0)
torch.manual_seed(0)
for name, model in {"Llama": LlamaForCausalLM(LlamaConfig(**sizes)), "RecurrentGemma": RecurrentGemmaForCausalLM(gemma)}.items():
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0, 0.3)
        alone = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
        beside = model(input_ids=padded, attention_mask=mask, position_ids=positions).logits[0, -1]
    print(f"{name}: {'equal' if torch.allclose(alone, beside, atol=1e-4) else 'different'}")
PYTHON
environment/bin/python show.py 2> errors | tee seen || { cat errors; exit 1; }
diff seen - <<'SEEN'
Llama: equal
RecurrentGemma: different
SEEN
