"""The number format in which a stage computes: chosen by the hardware unless it is set, printed and recorded.

Weights have the type ``model.dtype``. Under autocast float32 weights are kept and updated in float32, and the factors
of matrix products are rounded to bfloat16 (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740, section 3.1).
"""

from contextlib import AbstractContextManager

import torch

from rlhf.config import AdapterKind, Autocast, Dtype, Settings
from rlhf.console import console
from rlhf.errors import ConfigError
from rlhf.hardware.device import torch_device


def autocasts(settings: Settings, on_gpu: bool | None = None) -> bool:
    """Return whether float32 weights are multiplied in bfloat16; ``auto``: on a GPU with bfloat16 units.

    ``on_gpu`` states whether another machine has such a GPU; None: check this machine. On a CPU ``auto`` stays with
    float32: bfloat16 gains little there, 1.1 to 1.3 times in PPO at hidden sizes of 256 and 288, and takes memory
    (docs/results.md).
    """
    chosen = settings.hardware.autocast
    possible = settings.model.dtype is Dtype.float32 and settings.adapter.kind is not AdapterKind.qlora
    if chosen is not Autocast.auto:
        return chosen is Autocast.on  # the rules of the settings refuse it if it is impossible
    if on_gpu is None:
        here = torch_device(settings.hardware).type == "cuda"
        on_gpu = here and torch.cuda.is_bf16_supported(including_emulation=False)
    return possible and on_gpu


def autocast(device: torch.device | str, enabled: bool) -> AbstractContextManager:
    """Return a context in which matrices are multiplied in bfloat16 if ``enabled``.

    Trained weights are rounded once and cached until the context ends, so an optimizer step must be outside.
    """
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)


def check(settings: Settings) -> None:
    """Refuse half precision if there is no GPU to scale its losses: training in float16 diverges there.

    Raises:
        ConfigError: see above.
    """
    if settings.model.dtype is Dtype.float16 and torch_device(settings.hardware).type != "cuda":
        raise ConfigError("model.dtype=float16 trains on a GPU only: set model.dtype=float32 or bfloat16")


def told(settings: Settings) -> str:
    """Return the chosen precision as one line."""
    device = torch_device(settings.hardware)
    others = {"cpu": "the CPU", "mps": "an Apple GPU, on which this package is not tested"}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else others[device.type]
    dtype = settings.model.dtype.value
    if autocasts(settings):
        return f"{settings.stage.name}: float32 with bfloat16 matrix products (autocast) on {name}"
    return f"{settings.stage.name}: {dtype} on {name}"


@torch.no_grad()
def lost(model: torch.nn.Module, rate: float) -> float:
    """Return the share of trained weights that a step of ``rate``, the largest of Adam, leaves unchanged.

    bfloat16 has 8 significant bits: a step below 2^-9 of a weight is rounded away. A sample of each tensor is checked.
    """
    kept, total = 0, 0
    for weight in (weight for weight in model.parameters() if weight.requires_grad):
        sample = weight.detach().flatten()[:: max(1, weight.numel() // 4096)]
        kept += weight.numel() * ((sample + rate == sample) & (sample - rate == sample)).float().mean().item()
        total += weight.numel()
    return kept / max(total, 1)


def tell_lost(stage: str, model: torch.nn.Module, setting: str, rate: float) -> None:
    """Print a warning if training in half precision would leave most weights unchanged."""
    share = lost(model, rate)
    if share > 0.5:
        dtype = str(next(weight.dtype for weight in model.parameters() if weight.requires_grad)).removeprefix("torch.")
        message = (
            f"{stage}: {setting}={rate:g} is rounded away in {100 * share:.3g} % of the weights, which are in {dtype}: "
            "set model.dtype=float32 or adapter=lora"
        )
        console.print(message, highlight=False, soft_wrap=True)
