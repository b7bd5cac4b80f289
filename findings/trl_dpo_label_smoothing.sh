#!/usr/bin/env bash
# Versions: trl 1.16.0, transformers 5.23.0, torch 2.13.0.
# Behavior: DPOConfig(label_smoothing=0.3) changes nothing with the default loss_type, "sigmoid": the losses are those of
#   label_smoothing=0, without an error or a warning. With "robust" it is used. Someone who wants conservative DPO
#   (smoothed sigmoid) trains plain DPO.
# Likely reason: the sigmoid branch of DPOTrainer's loss does not read label_smoothing, and the range is only checked for
#   "robust" and "exo_pair". The documentation of the setting names those two.
# Seen:
#   sigmoid: 0.6931 without, 0.6931 with smoothing; gradients equal: True
#   robust: 0.6931 without, 0.6931 with smoothing; gradients equal: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_DISABLE_TELEMETRY=1
python3 -m venv environment
environment/bin/pip install -q torch==2.13.0 transformers==5.23.0 trl==1.16.0
cat > show.py <<'PYTHON'
import copy

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

words = ["<pad>", "<eos>", "<unk>", "a", "b", "c", "d"]
plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
rows = Dataset.from_list([{"prompt": "a b", "chosen": " c", "rejected": " d"}] * 4)
sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def trained(loss, smoothing):
    """The loss of the first step, at which policy and reference are equal, and the weights behind it."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), pad_token_id=0, eos_token_id=1, **sizes))
    options = DPOConfig(
        "out", loss_type=[loss], label_smoothing=smoothing, max_steps=1, learning_rate=0.1, report_to=[], use_cpu=True,
        bf16=False, save_strategy="no", disable_tqdm=True, optim="sgd", seed=0, max_grad_norm=0.0,
    )  # fmt: skip
    trainer = DPOTrainer(model, copy.deepcopy(model), args=options, train_dataset=rows, processing_class=tokenizer)
    loss = trainer.train().training_loss
    return loss, torch.cat([one.detach().flatten() for one in trainer.model.parameters()])


for loss in ("sigmoid", "robust"):
    (without, weights), (smoothed, others) = trained(loss, 0.0), trained(loss, 0.3)
    same = torch.equal(weights, others)
    print(f"{loss}: {without:.4f} without, {smoothed:.4f} with smoothing; gradients equal: {same}")
PYTHON
environment/bin/python show.py 2> errors | grep -E "^(sigmoid|robust)" | tee seen || { cat errors; exit 1; }
diff seen - <<'SEEN'
sigmoid: 0.6931 without, 0.6931 with smoothing; gradients equal: True
robust: 0.6931 without, 0.6931 with smoothing; gradients equal: False
SEEN
