#!/usr/bin/env bash
# Versions: trl 1.16.0, transformers 5.23.0, torch 2.13.0.
# Behavior: with beta above 0, the gradient of GRPOTrainer's loss on its own fresh samples (all ratios are 1) is not that of
#   k3 = exp(ref - logp) - (ref - logp) - 1, the penalty of the GRPO paper, although the value of the loss is. The penalty is
#   multiplied by the importance ratio, whose value is 1 and whose gradient is not 0 (use_bias_correction_kl, True by
#   default). With use_bias_correction_kl=False the gradient is that of k3.
# Likely guess: a correction by importance ratios changes nothing while the ratios are 1.
# Likely reason: the product has the unbiased gradient of KL(policy || reference); k3 alone has that of
#   KL(reference || policy).
# Seen:
#   use_bias_correction_kl=True (default True): value equal True, gradient equal False
#   use_bias_correction_kl=False (default True): value equal True, gradient equal True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
python3 -m venv environment
environment/bin/pip install -q trl==1.16.0 transformers==5.23.0 torch==2.13.0
cat > show.py <<'PYTHON'
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(16)}, unk_token="w0"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1")
config = LlamaConfig(
    vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, initializer_range=0.5, bos_token_id=None, eos_token_id=1, pad_token_id=0,
)
torch.manual_seed(0)
LlamaForCausalLM(config).save_pretrained("policy")
default = GRPOConfig(output_dir="default", use_cpu=True, bf16=False).use_bias_correction_kl
for correction in (True, False):
    policy = LlamaForCausalLM.from_pretrained("policy").eval()
    settings = GRPOConfig(
        output_dir="out", per_device_train_batch_size=2, num_generations=2, beta=0.5, loss_type="bnpo", temperature=1.0,
        max_completion_length=3, use_bias_correction_kl=correction, use_cpu=True, bf16=False, report_to="none",
    )
    trainer = GRPOTrainer(
        policy, lambda completions, **_: [0.0] * len(completions), args=settings,
        train_dataset=Dataset.from_list([{"prompt": "w2"}] * 2), processing_class=tokenizer,
    )
    prompt, response = torch.tensor([[2], [2]]), torch.tensor([[3, 4, 5], [6, 7, 8]])

    def logprobs():
        logits = policy(torch.cat([prompt, response], dim=1)).logits[:, :-1]
        return torch.log_softmax(logits, -1).gather(2, response[..., None])[..., 0]

    old = logprobs().detach()
    reference = old + torch.tensor([[0.5, -0.7, 0.3], [0.1, 0.9, -0.4]])
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(policy, {
        "prompt_ids": prompt, "prompt_mask": torch.ones_like(prompt), "completion_ids": response,
        "completion_mask": torch.ones_like(response), "advantages": torch.zeros(2), "old_per_token_logps": old,
        "ref_per_token_logps": reference, "num_items_in_batch": torch.tensor(6),
    })
    loss.backward()
    found = policy.lm_head.weight.grad.clone()
    policy.zero_grad()
    difference = reference - logprobs()
    plain = 0.5 * (difference.exp() - difference - 1).mean()
    plain.backward()
    same = torch.allclose(found, policy.lm_head.weight.grad, atol=1e-5)
    print(
        f"use_bias_correction_kl={correction} (default {default}): value equal {torch.allclose(loss, plain, atol=1e-5)}, "
        f"gradient equal {same}"
    )
PYTHON
environment/bin/python show.py 2> /dev/null | grep use_bias | tee seen
diff - seen <<'SEEN'
use_bias_correction_kl=True (default True): value equal True, gradient equal False
use_bias_correction_kl=False (default True): value equal True, gradient equal True
SEEN
