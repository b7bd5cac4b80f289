"""LoRA layers that cost about as much as the base matrix.

peft computes W x and, for each adapter, A x, B A x, a scaling and a sum, each a pass over all activations, and as many
in the backward pass. Here y = (W + Σ s B A) x is one product. The sum of matrices is recomputed in each call, at
rank / tokens of the cost. Hu et al. 2021, https://arxiv.org/abs/2106.09685, merge for inference. Gradients equal those
of the unmerged layer: with g = ∂/∂y, they are s (B'g) x' for A and s g (A x)' for B.
"""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn


def fuse(model: nn.Module) -> None:
    """Replace the forward pass of all supported LoRA layers in ``model``; outputs and gradients stay the same."""
    for layer in model.modules():
        if isinstance(layer, Linear) and type(layer.base_layer) is nn.Linear and not layer.fan_in_fan_out:
            # The class's forward is kept for unsupported cases. peft may add adapters later.
            layer.forward = _Fused(layer, type(layer).forward)


class _Fused:
    def __init__(self, layer: Linear, usual: Any):
        self.layer, self.usual = layer, usual

    def __call__(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        layer: Any = self.layer
        names = [name for name in layer.active_adapters if name in layer.lora_A]
        base: Any = layer.base_layer
        kinds = {x.dtype, base.weight.dtype, *(layer.lora_A[name].weight.dtype for name in names)}
        if arguments or options or layer.disable_adapters or layer.merged or layer.training or layer.lora_variant:
            return self.usual(layer, x, *arguments, **options)
        if torch.is_autocast_enabled(x.device.type):
            return self.usual(layer, x)
        # In half precision small LoRA updates would be lost to rounding in W's dtype.
        if not names or kinds != {torch.float32} or any(layer.lora_bias[name] for name in names):
            return self.usual(layer, x)
        scales = tuple(layer.scaling[name] for name in names)
        pairs = [part for name in names for part in (layer.lora_A[name].weight, layer.lora_B[name].weight)]
        flat = x.flatten(0, -2)
        wide, tall = base.weight.shape
        if not torch.is_grad_enabled() and len(flat) * (wide + tall) < wide * tall:  # few tokens, as in decoding
            y = nn.functional.linear(flat, base.weight, base.bias)
            for scale, a, b in zip(scales, pairs[::2], pairs[1::2], strict=True):
                y.addmm_(flat @ a.T, b.T, alpha=scale)
        else:
            y = _Sum.apply(flat, base.weight, base.bias, scales, *pairs)
        return y.view(*x.shape[:-1], wide)


def _matrix(weight: Tensor, scales: tuple[float, ...], pairs: tuple[Tensor, ...]) -> Tensor:
    """Return W + Σ s B A."""
    for scale, a, b in zip(scales, pairs[::2], pairs[1::2], strict=True):
        weight = torch.addmm(weight, b, a, alpha=scale)
    return weight


class _Sum(torch.autograd.Function):
    """A linear layer with the weight W + Σ s B A; the sum is computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scales: tuple[float, ...], *pairs: Tensor
    ) -> Tensor:
        """Return x (W + Σ s B A)ᵀ + bias; ``pairs``: A, B of each adapter in turn."""
        ctx.save_for_backward(x, weight, *pairs)
        ctx.scales = scales
        return nn.functional.linear(x, _matrix(weight, scales, pairs), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and of each A and B; W and the bias are frozen."""
        [gradient] = gradients
        x, weight, *pairs = ctx.saved_tensors
        found: list[Tensor | None] = []
        for number, scale in enumerate(ctx.scales):
            a, b = pairs[2 * number : 2 * number + 2]
            of_a, of_b = ctx.needs_input_grad[4 + 2 * number : 6 + 2 * number]
            found.append((gradient @ b).mul_(scale).T @ x if of_a else None)
            found.append(gradient.T @ (x @ a.T).mul_(scale) if of_b else None)
        of_x = gradient @ _matrix(weight, ctx.scales, tuple(pairs)) if ctx.needs_input_grad[0] else None
        return of_x, None, None, None, *found
