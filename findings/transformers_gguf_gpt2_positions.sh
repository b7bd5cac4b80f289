#!/usr/bin/env bash
# Versions: transformers 5.23.0, gguf 0.19.0, torch 2.13.0.
# Behavior: the reader of GGUF files stores gpt2.context_length as n_ctx, a field that GPT-2's code does not read, and
#   leaves n_positions at its default of 1,024. A GPT-2 with another number of positions does not load,
#   although the file is complete: a size mismatch of wpe.weight. Llama's context_length becomes
#   max_position_embeddings.
# Likely guess: the context length of the file is the model's number of positions, in every architecture.
# Seen:
#   gpt2: 256 positions in the file, 1024 in the configuration
#   llama: 256 positions in the file, 256 in the configuration
#   gpt2 with 256 positions: RuntimeError
#   gpt2 with 1024 positions: loaded
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1
python3 -m venv environment
environment/bin/pip install -q transformers==5.23.0 gguf==0.19.0 torch==2.13.0 accelerate==1.15.0
cat > show.py <<'PYTHON'
import gguf
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

SIZE, LAYERS, HEADS, WORDS = 32, 1, 2, 260
MATRICES = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")  # which GPT-2 has as (in, out)


def new(kind, positions):
    """Return a writer with the hyperparameters of a small model and a tokenizer of single bytes."""
    writer = gguf.GGUFWriter(f"{kind}-{positions}.gguf", kind)
    writer.add_context_length(positions)
    writer.add_embedding_length(SIZE)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(4 * SIZE)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{number}" for number in range(WORDS)])
    writer.add_token_types([gguf.TokenType.NORMAL] * WORDS)
    return writer


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def of_gpt2(positions):
    config = GPT2Config(vocab_size=WORDS, n_positions=positions, n_embd=SIZE, n_layer=LAYERS, n_head=HEADS)
    model = GPT2LMHeadModel(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, LAYERS)
    writer = new("gpt2", positions)
    for name, tensor in model.transformer.state_dict().items():
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        turned = found.endswith(".weight") and found.split(".")[-2] in MATRICES
        writer.add_tensor(found, (tensor.T if turned else tensor).contiguous().numpy())
    close(writer)


of_gpt2(256)
of_gpt2(1024)
close(new("llama", 256))
for kind, name in (("gpt2", "n_positions"), ("llama", "max_position_embeddings")):
    config = AutoConfig.from_pretrained(".", gguf_file=f"{kind}-256.gguf")
    print(f"{kind}: 256 positions in the file, {getattr(config, name)} in the configuration")
for positions in (256, 1024):
    try:
        AutoModelForCausalLM.from_pretrained(".", gguf_file=f"gpt2-{positions}.gguf")
        told = "loaded"
    except RuntimeError as error:
        told = type(error).__name__
    print(f"gpt2 with {positions} positions: {told}")
PYTHON
environment/bin/python show.py 2> log | tee seen
diff - seen <<'SEEN' || { cat log; exit 1; }
gpt2: 256 positions in the file, 1024 in the configuration
llama: 256 positions in the file, 256 in the configuration
gpt2 with 256 positions: RuntimeError
gpt2 with 1024 positions: loaded
SEEN
