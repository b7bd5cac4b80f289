"""Which models may compute a common prefix once: those whose tokens see what precedes them by attention alone."""

from typing import Any

from rlhf.config import SharedPrefix
from rlhf.console import console
from rlhf.errors import ConfigError

# Held against the plain forward in the tests, each: attention is a function that transformers lets one replace, and
# positions are those that the model is given. True: they are rotary, so that only their differences matter.
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
    """Why a model of this ``config`` cannot share prefixes of rows of up to ``longest`` tokens; None where it can.

    ``attention`` is ``model.attention``; null leaves it to transformers, which takes sdpa for every known architecture.
    """
    kind = config.model_type
    layers = set(getattr(config, "layer_types", None) or ())
    if getattr(config, "is_encoder_decoder", False):
        return f"{kind} is an encoder and a decoder, whose prompt and response are different inputs"
    if kind in RECURRENT or layers & {"linear_attention", "mamba", "recurrent", "conv"}:
        return f"{kind} has a recurrent state or linear attention, which cannot branch where responses begin"
    if kind in ALIBI or getattr(config, "alibi", False):
        return f"{kind} takes distances from places in the row (ALiBi), not from the positions that it is given"
    if kind in RELATIVE:
        return f"{kind} takes relative positions from places in the row, not from the positions that it is given"
    if attention not in (None, "sdpa"):
        return f"model.attention={attention} cannot be given the tree of segments, as sdpa can"
    window = _window(config, layers)
    if window is not None and (longest is None or window < longest):
        limit = "no limit" if longest is None else longest
        return f"{kind} attends to a sliding window of {window} tokens and stage.trainer.max_length={limit} exceeds it"
    if kind not in KNOWN or getattr(config, "auto_map", None) or getattr(config, "reorder_and_upcast_attn", False):
        return f"{kind} is none of the architectures that it has been verified with ({', '.join(KNOWN)})"
    return None


def _window(config: Any, layers: set[str]) -> int | None:
    if getattr(config, "use_sliding_window", True) is False or (layers and layers == {"full_attention"}):
        return None
    return getattr(config, "sliding_window", None)


def decide(asked: SharedPrefix, config: Any, attention: str | None, longest: int | None, stage: str) -> bool:
    """Whether prefixes are shared; where they are not by ``auto``, it says in one line why.

    Raises:
        ConfigError: it is asked for, and outputs would be wrong or nobody has looked.
    """
    if asked is SharedPrefix.off:
        return False
    reason = refusal(config, attention, longest)
    if reason is None:
        return True
    if asked is SharedPrefix.on:
        raise ConfigError(f"stage.shared_prefix=on cannot be: {reason}; leave it at auto")
    told = f"{stage}: a prompt is computed again for each response, since {reason}"
    console.print(told, highlight=False, markup=False)
    return False
