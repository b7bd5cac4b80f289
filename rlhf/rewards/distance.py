"""The distance of a response from those that a reward model was trained on, by its last hidden state.

    d(x) = sqrt( (x - μ)ᵀ Σ⁻¹ (x - μ) / h )        x (h,): the input of the head, from which the score is read

Lee et al. 2018, https://arxiv.org/abs/1807.03888, eq. 2, with one class, as Ren et al. 2023,
https://arxiv.org/abs/2209.15558, section 3, for language models. About 1 on the training responses. Σ is shrunk (Ledoit
and Wolf 2004), so that fewer responses than dimensions suffice.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FILE = "distance.safetensors"  # in the directory of a run of stage=reward
QUANTILE = 0.99


class Distance:
    """Mahalanobis distance per dimension. A response is far if it is beyond ``limit``, a quantile of held-out ones."""

    def __init__(self, mean: Tensor, whitening: Tensor, limit: Tensor):
        self.mean, self.whitening, self.limit = mean, whitening, limit

    @classmethod
    def fit(cls, hidden: Tensor, held_out: Tensor) -> "Distance":
        """Return the distance from ``hidden`` (N, h), whose limit is the 0.99 quantile of ``held_out`` (M, h)."""
        from sklearn.covariance import LedoitWolf

        fitted = LedoitWolf().fit(hidden.double().numpy())
        precision = torch.from_numpy(fitted.get_precision())
        whitening = torch.linalg.cholesky(precision).float()
        found = cls(torch.from_numpy(fitted.location_).float(), whitening, torch.tensor(torch.inf))
        found.limit = torch.quantile(found(held_out), QUANTILE)
        return found

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the distance of each row, (N, h) -> (N,)."""
        white = (hidden.float() - self.mean) @ self.whitening
        return white.square().mean(-1).sqrt()

    def save(self, folder: Path) -> None:
        """Write the distance into the directory of a run."""
        save_file({name: value.contiguous() for name, value in vars(self).items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "Distance | None":
        """Return the distance in the directory of a run; None without one."""
        return cls(**load_file(folder / FILE)) if (folder / FILE).is_file() else None
