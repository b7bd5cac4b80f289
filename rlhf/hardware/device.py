"""The torch device of a run, and what an Apple GPU lacks."""

import torch

from rlhf.config import Hardware
from rlhf.errors import ModelError


def torch_device(hardware: Hardware) -> torch.device:
    """Return the device that ``hardware.device`` asks for.

    Raises:
        ModelError: ``hardware.device=cuda`` or ``mps``, but torch finds no such GPU.
    """
    if hardware.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("hardware.device=cuda but torch sees no GPU: use hardware=cpu, or install torch with CUDA")
    if hardware.device == "mps" and not torch.backends.mps.is_available():
        raise ModelError(
            "hardware.device=mps but torch sees no Apple GPU: use hardware=cpu, or a Mac with Apple silicon"
        )
    if hardware.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(hardware.device)


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on an Apple GPU, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
