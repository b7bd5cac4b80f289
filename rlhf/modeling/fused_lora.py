"""Low-rank adapters at the price of the matrix that they are on.

peft computes W x and, for each adapter, A x, B A x, its scaling and a sum, each a pass over all activations, and as
many backwards. Here y = (W + Σ s B A) x is one product, and the sum of matrices is made anew at each call, which costs
rank / tokens of it. Hu et al. 2021, https://arxiv.org/abs/2106.09685, merge for inference; the gradients are those of
the unmerged: with g = ∂/∂y, those of A and B are s (B'g) x' and s g (A x)'.
"""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn


def fuse(model: nn.Module) -> None:
    """Let every adapter within ``model`` that allows it be computed so; what it computes and trains stays the same."""
    for layer in model.modules():
        if isinstance(layer, Linear) and type(layer.base_layer) is nn.Linear and not layer.fan_in_fan_out:
            # As it was, where it is called the first time: peft puts adapters in later, and takes none out.
            layer.forward = _Fused(layer, type(layer).forward)


class _Fused:
    def __init__(self, layer: Linear, usual: Any):
        self.layer, self.usual = layer, usual

    def __call__(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        layer = self.layer
        names = [name for name in layer.active_adapters if name in layer.lora_A]
        base = layer.base_layer
        kinds = {x.dtype, base.weight.dtype, *(layer.lora_A[name].weight.dtype for name in names)}
        if arguments or options or layer.disable_adapters or layer.merged or layer.training or layer.lora_variant:
            return self.usual(layer, x, *arguments, **options)
        if torch.is_autocast_enabled(x.device.type):
            return self.usual(layer, x)
        # In half precision the sum would be rounded to the type of W, and a young adapter away.
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
    """W + Σ s B A."""
    for scale, a, b in zip(scales, pairs[::2], pairs[1::2], strict=True):
        weight = torch.addmm(weight, b, a, alpha=scale)
    return weight


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scales: tuple[float, ...], *pairs: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, *pairs)
        ctx.scales = scales
        return nn.functional.linear(x, _matrix(weight, scales, pairs), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *pairs = ctx.saved_tensors
        found: list[Tensor | None] = []
        for number, scale in enumerate(ctx.scales):
            a, b = pairs[2 * number : 2 * number + 2]
            of_a, of_b = ctx.needs_input_grad[4 + 2 * number : 6 + 2 * number]
            found.append((gradient @ b).mul_(scale).T @ x if of_a else None)
            found.append(gradient.T @ (x @ a.T).mul_(scale) if of_b else None)
        of_x = gradient @ _matrix(weight, ctx.scales, tuple(pairs)) if ctx.needs_input_grad[0] else None
        return of_x, None, None, None, *found
