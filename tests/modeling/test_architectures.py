import pytest
from transformers import AutoConfig

from rlhf.config import SharedPrefix
from rlhf.errors import ConfigError
from rlhf.modeling.architectures import KNOWN, decide, refusal


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("mamba", {}, "recurrent state or linear attention"),
        ("recurrent_gemma", {}, "recurrent state or linear attention"),
        ("qwen3_next", {}, "recurrent state or linear attention"),
        ("bloom", {}, "ALiBi"),
        ("mpt", {}, "ALiBi"),
        ("falcon", {"alibi": True}, "ALiBi"),
        ("t5", {}, "an encoder-decoder"),
        ("bart", {}, "an encoder-decoder"),
        ("xlnet", {}, "relative positions from columns"),
        ("opt", {}, "not one of the verified architectures"),
        ("mistral", {"sliding_window": 512}, "sliding window of 512 tokens and rows have up to 1024 tokens"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, "sliding window of 8"),
        ("gpt2", {"reorder_and_upcast_attn": True}, "not one of the verified architectures"),
    ],
)
def test_unsupported_architectures_are_refused(
    kind: str, options: dict, reason: str, capsys: pytest.CaptureFixture
) -> None:
    config = AutoConfig.for_model(kind, **options)
    with pytest.raises(ConfigError, match=f"shared_prefix=on is not possible, since {kind} .*{reason}.*: leave it at"):
        decide(SharedPrefix.on, config, None, 1024, "dpo")
    assert not decide(SharedPrefix.auto, config, None, 1024, "dpo")
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith(f"dpo: each prompt is computed again for every response, since {kind} ")
    assert reason in printed
    assert not decide(SharedPrefix.off, config, None, 1024, "dpo")
    assert not capsys.readouterr().out


@pytest.mark.parametrize("kind", KNOWN)
def test_known_architectures_share(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    assert decide(SharedPrefix.auto, config, "sdpa", 512, "dpo")
    assert decide(SharedPrefix.on, config, None, 512, "dpo")


def test_a_window_that_no_row_exceeds_is_allowed() -> None:
    config = AutoConfig.for_model("mistral", sliding_window=512)
    assert refusal(config, None, 512) is None
    assert "rows have up to any number of tokens" in refusal(config, None, None)


@pytest.mark.parametrize("attention", ["eager", "flash_attention_2", "flex_attention"])
def test_other_attention_implementations_are_refused(attention: str) -> None:
    reason = refusal(AutoConfig.for_model("llama"), attention, 512)
    assert reason == f"model.attention={attention} does not support the tree of segments, unlike sdpa"


def test_custom_model_code_is_not_verified() -> None:
    config = AutoConfig.for_model("llama", auto_map={"AutoModelForCausalLM": "modeling.Llama"})
    assert "not one of the verified architectures" in refusal(config, None, 512)
