"""The torch device of a run."""

import torch

from rlhf.config import Hardware
from rlhf.errors import ModelError


def torch_device(hardware: Hardware) -> torch.device:
    """Return the device that ``hardware.device`` asks for.

    Raises:
        ModelError: ``hardware.device=cuda``, but torch finds no GPU.
    """
    if hardware.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("hardware.device=cuda but torch sees no GPU: use hardware=cpu, or install torch with CUDA")
    if hardware.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(hardware.device)
