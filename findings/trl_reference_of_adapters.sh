#!/usr/bin/env bash
# Versions: trl 1.16.0, peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Behavior: a DPOTrainer that continues a trained adapter makes a frozen copy of it, "ref", for the reference. Weights that
#   peft keeps in a ParameterDict are not copied: those of LoRA on embeddings, trainable_token_indices, IA3, VeRA and
#   LoHa. The reference then has fresh values there and is another model than the initial policy, without a message: the
#   first loss is not log 2. LoRA and DoRA on linear layers, modules_to_save and OFT are copied. GRPOTrainer has the same
#   lines.
# Likely guess: the reference is the policy as it was at the start, for every adapter.
# Likely reason: the copy takes parameters whose names contain ".default."; those of a ParameterDict end with ".default".
# Seen (first loss; 0.6931 if the reference is the policy):
#   LoRA: 0.6931
#   DoRA: 0.6931
#   LoRA and modules_to_save: 0.6931
#   OFT: 0.6931
#   LoRA, also on embeddings: different
#   LoRA and trainable_token_indices: different
#   IA3: different
#   VeRA: different
#   LoHa: different
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
python3 -m venv environment
environment/bin/pip install -q trl==1.16.0 peft==0.21.2 transformers==5.23.0 torch==2.13.0
environment/bin/python - 2> /dev/null <<'PYTHON' | grep "^[A-Z]" | tee seen
import torch
from datasets import Dataset
from peft import IA3Config, LoHaConfig, LoraConfig, OFTConfig, VeraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<pad>", "</s>", "a", "b", "c", "d"])}, unk_token="a"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
rows = Dataset.from_list([{"prompt": "a b", "chosen": " c", "rejected": " d"}] * 4)
sizes = {"vocab_size": 6, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.5, "tie_word_embeddings": False}
query = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
adapters = {
    "LoRA": LoraConfig(**query),
    "DoRA": LoraConfig(**query, use_dora=True),
    "LoRA and modules_to_save": LoraConfig(**query, modules_to_save=["embed_tokens"]),
    "OFT": OFTConfig(**query, r=2, oft_block_size=0),
    "LoRA, also on embeddings": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "embed_tokens"]),
    "LoRA and trainable_token_indices": LoraConfig(**query, trainable_token_indices=[4, 5]),
    "IA3": IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]),
    "VeRA": VeraConfig(**query, r=4),
    "LoHa": LoHaConfig(**query),
}
for name, adapter in adapters.items():
    torch.manual_seed(0)
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**sizes, **heads)), adapter)
    for parameter in model.parameters():
        if parameter.requires_grad:  # as if it had been trained
            parameter.data += torch.randn_like(parameter) / 2
    settings = DPOConfig(
        "out", max_steps=1, per_device_train_batch_size=4, learning_rate=0.0, use_cpu=True, bf16=False, report_to=[],
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    loss = DPOTrainer(model, args=settings, train_dataset=rows, processing_class=tokenizer).train().training_loss
    print(f"{name}: {'0.6931' if abs(loss - 0.693147) < 1e-4 else 'different'}")
PYTHON
diff - seen <<'SEEN'
LoRA: 0.6931
DoRA: 0.6931
LoRA and modules_to_save: 0.6931
OFT: 0.6931
LoRA, also on embeddings: different
LoRA and trainable_token_indices: different
IA3: different
VeRA: different
LoHa: different
SEEN
