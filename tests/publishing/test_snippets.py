from rlhf.config import Weights
from rlhf.publishing.snippets import snippet


def test_snippets_differ_by_the_kind_of_model() -> None:
    base = snippet("me/x", "v1", "base", Weights.merged, True)
    assert "apply_chat_template" not in base
    assert 'tokenizer("Who won the World Cup?", return_tensors="pt")' in base
    adapter = snippet("me/x", "v1", "dpo", Weights.adapter, True)
    assert adapter.startswith("from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n")
    plain = snippet("me/x", "v1", "reward", Weights.merged, False)
    assert "tokenizer.eos_token" in plain
    for code in (base, adapter, plain):
        compile(code, "snippet", "exec")
