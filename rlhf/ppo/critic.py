"""The critic: a backbone under a head of one output, read before every response token."""

from typing import Any

import torch
from torch import Tensor, nn


class Critic(nn.Module):
    """Vₜ for each response token, from the hidden state of the token before it.

    ``classifier`` is a sequence classifier with one label, commonly the reward model: its head then predicts, at every
    token, the score that the whole response gets, which is where a critic should start (Ziegler et al. 2019, and
    Stiennon et al. 2020, appendix B.1: "we initialise the value function to the parameters of the reward model").
    """

    def __init__(self, classifier: Any):
        super().__init__()
        self.classifier = classifier

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, length: int) -> Tensor:
        """Values (B, T) of the T = ``length`` last tokens of ``input_ids`` (B, P + T)."""
        model = self.classifier
        plain = model.get_base_model() if hasattr(model, "peft_config") else model
        hidden = plain.base_model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        return plain.score(hidden[:, -length - 1 : -1]).squeeze(-1).float()
