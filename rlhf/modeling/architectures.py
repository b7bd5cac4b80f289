"""Architectures that can compute a common prefix once: tokens see preceding tokens only through attention."""

from typing import Any

from rlhf.config import SharedPrefix
from rlhf.console import console
from rlhf.errors import ConfigError

# Each is compared with the plain forward pass in the tests: its attention function can be replaced through
# transformers, and it uses the position ids that are passed. True: positions are rotary, so only differences matter.
KNOWN = {
    "llama": True, "mistral": True, "qwen2": True, "qwen3": True, "smollm3": True, "gemma": True, "granite": True,
    "olmo2": True, "phi": True, "phi3": True, "gpt_neox": True, "gpt2": False,
}  # fmt: skip
RECURRENT = (
    "mamba", "mamba2", "falcon_mamba", "rwkv", "recurrent_gemma", "jamba", "bamba", "zamba", "zamba2", "falcon_h1",
    "granitemoehybrid", "nemotron_h", "xlstm", "lfm2", "qwen3_next", "minimax",
)  # fmt: skip
ALIBI = ("bloom", "mpt")
RELATIVE = ("xlnet", "deberta", "deberta-v2", "transfo-xl")


def refusal(config: Any, attention: str | None, longest: int | None) -> str | None:
    """Return why a model of this ``config`` cannot share prefixes of rows of up to ``longest`` tokens; None if it can.

    ``attention`` is ``model.attention``; with null, transformers uses sdpa for every known architecture.
    """
    kind = config.model_type
    layers: set[str] = set(getattr(config, "layer_types", None) or ())
    if getattr(config, "is_encoder_decoder", False):
        return f"{kind} is an encoder-decoder, whose prompt and response are different inputs"
    if kind in RECURRENT or layers & {"linear_attention", "mamba", "recurrent", "conv"}:
        return f"{kind} has a recurrent state or linear attention, which cannot branch where responses begin"
    if kind in ALIBI or getattr(config, "alibi", False):
        return f"{kind} computes distances from columns (ALiBi), not from position ids"
    if kind in RELATIVE:
        return f"{kind} computes relative positions from columns, not from position ids"
    if attention not in (None, "sdpa"):
        return f"model.attention={attention} does not support the tree of segments, unlike sdpa"
    window = _window(config, layers)
    if window is not None and (longest is None or window < longest):
        limit = "any number of" if longest is None else longest
        return f"{kind} attends to a sliding window of {window} tokens and rows have up to {limit} tokens"
    if kind not in KNOWN or getattr(config, "auto_map", None) or getattr(config, "reorder_and_upcast_attn", False):
        return f"{kind} is not one of the verified architectures ({', '.join(KNOWN)})"
    return None


def _window(config: Any, layers: set[str]) -> int | None:
    if getattr(config, "use_sliding_window", True) is False or (layers and layers == {"full_attention"}):
        return None
    return getattr(config, "sliding_window", None)


def decide(asked: SharedPrefix, config: Any, attention: str | None, longest: int | None, stage: str) -> bool:
    """Return whether prefixes are shared; print one line with the reason if ``auto`` does not share them.

    Raises:
        ConfigError: ``on``, but outputs would be wrong or the architecture is not verified.
    """
    if asked is SharedPrefix.off:
        return False
    reason = refusal(config, attention, longest)
    if reason is None:
        return True
    if asked is SharedPrefix.on:
        raise ConfigError(f"stage.shared_prefix=on is not possible, since {reason}: leave it at auto")
    message = f"{stage}: each prompt is computed again for every response, since {reason}"
    console.print(message, highlight=False, markup=False)
    return False
