"""An exponential moving average of the policy's weights over the updates."""

import torch
from torch import nn

from rlhf.ppo.checkpoint import trainable


class Average(nn.Module):
    """θ̄ ← d θ̄ + (1 - d) θ after each update, from the initial policy on, of the weights that are trained, in float32.

    Polyak and Juditsky 1992, https://doi.org/10.1137/0330046. The two factors of an adapter are averaged, not
    their product.
    """

    def __init__(self, policy: nn.Module, decay: float):
        super().__init__()
        self.decay, self.trained = decay, list(trainable(policy).values())  # a list, whose members are not registered
        self.weights = nn.ParameterList(parameter.detach().float().clone() for parameter in self.trained)

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the policy's weights."""
        for mean, parameter in zip(self.weights, self.trained, strict=True):
            mean.lerp_(parameter.to(mean.dtype), 1 - self.decay)

    @torch.no_grad()
    def restart(self) -> None:
        """Start again from the policy's weights."""
        for mean, parameter in zip(self.weights, self.trained, strict=True):
            mean.copy_(parameter)

    @torch.no_grad()
    def give(self) -> None:
        """Set the policy's weights to the average."""
        for mean, parameter in zip(self.weights, self.trained, strict=True):
            parameter.copy_(mean)
