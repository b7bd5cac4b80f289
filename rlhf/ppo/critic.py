"""The critic: a head with one output, read before every response token, on a separate backbone or on the policy's."""

from typing import Any

import torch
from torch import Tensor, nn

from rlhf.modeling.forward import only_at


class Critic(nn.Module):
    """A separate value model: Vₜ for each response token, from the hidden state of the token before it.

    ``classifier`` is a sequence classifier with one label, usually the reward model, which predicts the score of the
    whole response at every token and so is a good start (Ziegler et al. 2019; Stiennon et al. 2020, appendix B.1,
    https://arxiv.org/abs/2009.01325, initialize the value function with the reward model's parameters).
    """

    def __init__(self, classifier: Any):
        super().__init__()
        self.classifier = classifier

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    def forward(self, input_ids: Tensor, before: Tensor, **extra: Any) -> Tensor:
        """Return values (N,) at positions ``before`` (N,) of ``input_ids`` (B, L), flattened (forward.Rows)."""
        model = self.classifier
        plain = model.get_base_model() if hasattr(model, "peft_config") else model
        with only_at(plain.base_model, None, before):
            hidden = plain.base_model(input_ids=input_ids, use_cache=False, **extra).last_hidden_state
        return exact(plain.score, hidden.flatten(0, 1)[before])


class ValueHead(nn.Module):
    """V_t = w · h_t + b on the policy's last hidden states: one pass yields log-probabilities and values.

    It starts at zero, the expected value if scores are normalized. Schulman et al. 2017,
    https://arxiv.org/abs/1707.06347, eq. 9, share the network; Ziegler et al. 2019, https://arxiv.org/abs/1909.08593,
    section 2.1, and Ouyang et al. 2022 use a separate one. With ``detached`` the gradient stops at the head.
    """

    def __init__(self, hidden: int, *, detached: bool = False):
        super().__init__()
        self.score = nn.Linear(hidden, 1)
        self.detached = detached
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Return values (N,) of hidden states (N, h), in the precision of the head, float32."""
        states = states.to(self.score.weight.dtype)
        return exact(self.score, states.detach() if self.detached else states)


def exact(score: nn.Module, states: Tensor) -> Tensor:
    """Return values (N,) of a head with one row in float32; autocast would round them to three digits."""
    kind = states.device.type
    states = states.float() if torch.is_autocast_enabled(kind) else states
    with torch.autocast(kind, enabled=False):
        return score(states).squeeze(-1).float()
