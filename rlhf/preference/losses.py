"""The losses of reward models, those of policies without a reference, and the smoothed loss of DPO."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry(
    chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    """Return the negative log-likelihood of preferences, one loss per pair.

        ℓ = (1-ε) · -log σ(r_c - r_r - m) + ε · -log σ(r_r - r_c - m)

    ε, ``label_smoothing``, is the assumed share of flipped labels: the conservative loss of Mitchell 2023,
    https://ericmitchell.ai/cdpo.pdf, with scores instead of DPO's implicit rewards. Its minimum is at
    σ(r_c - r_r) = 1-ε, so scores stay finite on separable pairs. With ε = 0 and m = 0 it is Bradley and Terry 1952;
    the margin m is Touvron et al. 2023, https://arxiv.org/abs/2307.09288, eq. 2. All (B,) -> (B,), in nats.
    """
    difference = chosen - rejected
    kept = -logsigmoid(difference - margin)
    if not label_smoothing:
        return kept
    return (1 - label_smoothing) * kept - label_smoothing * logsigmoid(-difference - margin)


def plackett_luce(scores: Tensor, ordered: Tensor, mask: Tensor) -> Tensor:
    """Return the negative log-likelihood of rankings of K responses, one loss per ranking.

        ℓ = -Σ_{j < J} log( exp(r_j) / Σ_{i ≥ j} exp(r_i) )

    with r_1, r_2, ... the scores from the best response to the worst (Plackett 1975; Luce 1959): the best is drawn from
    all, the second from the rest, and so on. ``ordered`` is J, the number of responses that are known to be better than
    all later ones: K-1 for a complete ranking, 1 if only the best of K is known. With K = 2 the loss is
    `bradley_terry`.

    ``scores`` (G, K), best first, ``mask`` (G, K) True at responses, ``ordered`` (G,) -> (G,), in nats.
    """
    # Not -inf, whose differences, although unused, would make every gradient nan.
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    # log Σ_{i ≥ j} exp(r_i) for every j.
    rest = scores.flip(-1).logcumsumexp(-1).flip(-1)
    drawn = torch.arange(scores.shape[-1], device=scores.device) < ordered[:, None]
    return torch.where(drawn, rest - scores, 0.0).sum(-1)


def centering(scores: Tensor, mask: Tensor) -> Tensor:
    """Return a penalty on the mean score of each prompt, (2/K · Σ r)², per ranking of K responses.

    Losses of differences do not determine the level of scores. With K = 2 it is (r_c + r_r)², Eisenstein et al. 2023,
    https://arxiv.org/abs/2312.09244, section 3. ``scores`` and ``mask`` (G, K) -> (G,).
    """
    return (2 * torch.where(mask, scores, 0.0).sum(-1) / mask.sum(-1)).square()


def batch_sum(scores: Tensor) -> Tensor:
    """Return a penalty on the sum of a batch's scores, (Σ r)² / 2N of N scores.

    It is B · mean(r)² for B pairs, the batch-wise sum-to-zero regularization in the code of Hong et al. 2025,
    https://arxiv.org/abs/2505.07271: unlike `centering`, the scores of a pair may have any sum, only those of a batch
    have the sum 0. ``scores`` (N,) -> ().
    """
    return scores.sum().square() / (2 * len(scores))


def simpo(chosen: Tensor, rejected: Tensor, beta: float, ratio: float) -> Tensor:
    """Return SimPO's loss of pairs, with the mean log-probability per token as the reward.

        ℓ = -log σ(β/|y_c| log π(y_c|x) - β/|y_r| log π(y_r|x) - γ),   γ = β times ``ratio``

    Meng et al. 2024, https://arxiv.org/abs/2405.14734, eq. 6; γ is the target margin of the rewards. ``chosen`` and
    ``rejected`` (B,) are mean log-probabilities per token in nats -> (B,).
    """
    return -logsigmoid(beta * (chosen - rejected - ratio))


def orpo(chosen: Tensor, rejected: Tensor, weight: float) -> Tensor:
    """Return ORPO's loss of pairs: the SFT loss of the chosen response and the log odds ratio, times ``weight``.

        ℓ = -log P(y_c|x) - λ log σ( log odds(y_c|x) - log odds(y_r|x) ),   odds = P / (1 - P)

    Hong et al. 2024, https://arxiv.org/abs/2403.07691, eq. 3, 4, 6 and 7: P is the geometric mean of the probabilities
    of the response's tokens. The SFT loss counts only these, as with the authors' disable_prompt_loss; TRL counts the
    prompt's tokens, too. ``chosen`` and ``rejected`` (B,) are log P in nats -> (B,).
    """

    def odds(value: Tensor) -> Tensor:
        value = value.clamp(max=-torch.finfo(value.dtype).eps)  # at log P = 0 the odds are infinite
        return value - torch.log(-torch.expm1(value))

    return -chosen - weight * logsigmoid(odds(chosen) - odds(rejected))


def smoothed(
    losses: Sequence[str], weights: Sequence[float] | None, label_smoothing: float
) -> tuple[list[str], list[float] | None]:
    """Return TRL's losses and weights that smooth ``sigmoid``, which ignores ``label_smoothing`` in TRL.

        cDPO(x) = -(1-ε) log σ(x) - ε log σ(-x) = S(x) + εx,   S(x) = -log σ(x),  x = β times the margin

    Mitchell 2023, https://ericmitchell.ai/cdpo.pdf, eq. 3. TRL's ``robust`` is S(x) - εx / (1-2ε) (Chowdhury et al.
    2024, https://arxiv.org/abs/2403.00409), so cDPO = 2(1-ε) · sigmoid - (1-2ε) · robust, with TRL's weights.

    Args:
        losses: the names in ``stage.loss``.
        weights: ``stage.trainer.loss_weights``; None for 1 each.
    """
    if not label_smoothing or "sigmoid" not in losses:
        return list(losses), None if weights is None else list(weights)
    given = dict(zip(losses, weights or [1.0] * len(losses), strict=True))
    weight = given["sigmoid"]
    made = [(name, 2 * (1 - label_smoothing) * weight if name == "sigmoid" else value) for name, value in given.items()]
    made.append(("robust", -(1 - 2 * label_smoothing) * weight))
    return [name for name, _ in made], [value for _, value in made]
