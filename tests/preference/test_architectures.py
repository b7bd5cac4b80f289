import pytest
from transformers import AutoConfig

from rlhf.config import SharedPrefix
from rlhf.errors import ConfigError
from rlhf.preference.architectures import KNOWN, decide, refusal


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("mamba", {}, "recurrent state or linear attention"),
        ("recurrent_gemma", {}, "recurrent state or linear attention"),
        ("qwen3_next", {}, "recurrent state or linear attention"),
        ("bloom", {}, "ALiBi"),
        ("mpt", {}, "ALiBi"),
        ("falcon", {"alibi": True}, "ALiBi"),
        ("t5", {}, "an encoder and a decoder"),
        ("bart", {}, "an encoder and a decoder"),
        ("xlnet", {}, "relative positions from places in the row"),
        ("opt", {}, "none of the architectures that it has been verified with"),
        ("mistral", {"sliding_window": 512}, "sliding window of 512 tokens and stage.trainer.max_length=1024 exceeds"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, "sliding window of 8"),
        ("gpt2", {"reorder_and_upcast_attn": True}, "none of the architectures"),
    ],
)
def test_where_it_would_be_wrong_it_is_refused(
    kind: str, options: dict, reason: str, capsys: pytest.CaptureFixture
) -> None:
    config = AutoConfig.for_model(kind, **options)
    with pytest.raises(ConfigError, match=f"stage.shared_prefix=on cannot be: {kind} .*{reason}.*; leave it at auto"):
        decide(SharedPrefix.on, config, None, 1024, "dpo")
    assert not decide(SharedPrefix.auto, config, None, 1024, "dpo")
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith(f"dpo: a prompt is computed again for each response, since {kind} ")
    assert reason in told
    assert not decide(SharedPrefix.off, config, None, 1024, "dpo")
    assert not capsys.readouterr().out


@pytest.mark.parametrize("kind", KNOWN)
def test_what_is_known_shares(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    assert decide(SharedPrefix.auto, config, "sdpa", 512, "dpo")
    assert decide(SharedPrefix.on, config, None, 512, "dpo")


def test_a_window_that_no_row_exceeds_is_none() -> None:
    config = AutoConfig.for_model("mistral", sliding_window=512)
    assert refusal(config, None, 512) is None
    assert "max_length=no limit exceeds it" in refusal(config, None, None)


@pytest.mark.parametrize("attention", ["eager", "flash_attention_2", "flex_attention"])
def test_another_attention_is_refused(attention: str) -> None:
    reason = refusal(AutoConfig.for_model("llama"), attention, 512)
    assert reason == f"model.attention={attention} cannot be given the tree of segments, as sdpa can"


def test_code_that_comes_with_a_model_is_not_known() -> None:
    config = AutoConfig.for_model("llama", auto_map={"AutoModelForCausalLM": "modeling.Llama"})
    assert "none of the architectures" in refusal(config, None, 512)
