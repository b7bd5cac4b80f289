"""The pretraining mix of InstructGPT (PPO-ptx): every minibatch also learns to predict plain text."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf.config import PPOStage
from rlhf.errors import ConfigError
from rlhf.modeling import forward
from rlhf.modeling.forward import Rows
from rlhf.modeling.seeding import permutation


class Pretraining:
    """γ times the mean of -log π(xₜ|x_{<t}) over the tokens of ``stage.ptx_batch_size`` rows of text per minibatch.

    Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, eq. 2. The rows are visited in a new order in each pass, which
    depends only on ``seed`` and the optimizer step; log-probabilities are those at temperature 1.

    Args:
        rows: token ids (N, L) of the text.

    Raises:
        ConfigError: the ranks cannot share the rows of a minibatch equally.
    """

    def __init__(self, rows: Sequence[Sequence[int]], stage: PPOStage, seed: int, accelerator: Accelerator):
        self.rows, self.stage, self.seed, self.accelerator = rows, stage, seed, accelerator
        if stage.ptx_batch_size % accelerator.num_processes:
            raise ConfigError(
                f"stage.ptx_batch_size={stage.ptx_batch_size} is not divisible by {accelerator.num_processes} ranks"
            )

    def batch(self, step: int) -> Tensor:
        """Return the token ids (B, L) of this rank's rows of an optimizer step."""
        own = self.stage.ptx_batch_size // self.accelerator.num_processes
        first = step * self.stage.ptx_batch_size + self.accelerator.process_index * own
        chosen = []
        for position in range(first, first + own):
            number, index = divmod(position, len(self.rows))
            chosen.append(self.rows[int(permutation(len(self.rows), self.seed, "ptx", number)[index])])
        return torch.tensor(chosen, device=self.accelerator.device)

    def accumulate(self, policy: Any, step: int, rows: int, tokens: int | None) -> Tensor:
        """Accumulate the gradient of an optimizer step and return the mean loss per token of this rank's rows.

        ``rows`` and ``tokens`` bound a forward pass.
        """
        batch = self.batch(step)
        length = batch.shape[1]
        at_once = max(min(rows, len(batch) if tokens is None else tokens // length), 1)
        loss = torch.zeros((), device=batch.device)
        for part in batch.split(at_once):
            before = torch.arange(part.numel(), device=part.device).view(part.shape)[:, :-1].flatten()
            with self.accelerator.no_sync(policy):
                logprobs, *_ = forward.response_outputs(policy, Rows(part, before, {}), part[:, 1:].flatten(), 1.0)
                share = -logprobs.sum() / (len(batch) * (length - 1))
                self.accelerator.backward(self.stage.ptx_coef * share)
            loss += share.detach()
        return loss
