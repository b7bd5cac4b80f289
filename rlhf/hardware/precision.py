"""In which number format a stage computes: chosen by the hardware unless somebody has said it, told and recorded.

Weights are of ``model.dtype``. Under autocast float32 weights stay what they are and are updated in float32, and what
they are multiplied by is rounded to bfloat16 (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740, section 3.1).
"""

from contextlib import AbstractContextManager

import torch

from rlhf.config import AdapterKind, Autocast, Dtype, Settings
from rlhf.console import console
from rlhf.errors import ConfigError
from rlhf.hardware.device import torch_device


def autocasts(settings: Settings, on_gpu: bool | None = None) -> bool:
    """Whether float32 weights are multiplied in bfloat16; ``auto``: on a GPU that has units for it.

    ``on_gpu`` says of another machine than this one whether it has such a GPU. On a CPU numbers stay those of float32
    unless it is asked for: it gains little there, 1.1 to 1.3 times in PPO at hidden sizes of 256 and 288, and takes
    memory (docs/results.md).
    """
    chosen = settings.hardware.autocast
    possible = settings.model.dtype is Dtype.float32 and settings.adapter.kind is not AdapterKind.qlora
    if chosen is not Autocast.auto:
        return chosen is Autocast.on  # the settings have been looked at: it is possible
    if on_gpu is None:
        here = torch_device(settings.hardware).type == "cuda"
        on_gpu = here and torch.cuda.is_bf16_supported(including_emulation=False)
    return possible and on_gpu


def autocast(device: torch.device | str, enabled: bool) -> AbstractContextManager:
    """Within, matrices are multiplied in bfloat16 if ``enabled``.

    Weights that learn are rounded once and kept until the end: an optimiser's step does not belong within.
    """
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)


def check(settings: Settings) -> None:
    """Refuse half precision if there is no GPU to scale its losses: training in float16 diverges there.

    Raises:
        ConfigError: see above.
    """
    if settings.model.dtype is Dtype.float16 and torch_device(settings.hardware).type != "cuda":
        raise ConfigError("model.dtype=float16 trains on a GPU only: give model.dtype=float32, or bfloat16")


def told(settings: Settings) -> str:
    """The choice, in a sentence."""
    device = torch_device(settings.hardware)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    dtype = settings.model.dtype.value
    if autocasts(settings):
        return f"{settings.stage.name}: weights in float32, matrix products in bfloat16 (autocast), on {name}"
    return f"{settings.stage.name}: weights and matrix products in {dtype} on {name}"


@torch.no_grad()
def lost(model: torch.nn.Module, rate: float) -> float:
    """Share of the weights that learn which a step of ``rate``, the most that Adam takes, leaves as they are.

    A number of bfloat16 has 8 binary digits: below 2^-9 of a weight, a step is rounded away. A sample of each tensor is
    looked at.
    """
    kept, total = 0, 0
    for weight in (one for one in model.parameters() if one.requires_grad):
        sample = weight.detach().flatten()[:: max(1, weight.numel() // 4096)]
        kept += weight.numel() * ((sample + rate == sample) & (sample - rate == sample)).float().mean().item()
        total += weight.numel()
    return kept / max(total, 1)


def tell_lost(stage: str, model: torch.nn.Module, setting: str, rate: float) -> None:
    """Say in one line where training in half precision would leave most weights as they are."""
    share = lost(model, rate)
    if share > 0.5:
        dtype = str(next(one.dtype for one in model.parameters() if one.requires_grad)).removeprefix("torch.")
        told = (
            f"{stage}: {setting}={rate:g} is rounded away in {100 * share:.3g} % of the weights, which are in {dtype}"
        )
        console.print(f"{told}: give model.dtype=float32, or adapter=lora", highlight=False, soft_wrap=True)
