"""The choices in the losses of stage=ppo."""

from enum import Enum


class Ratio(Enum):
    """Importance ratio of the loss: per token, of the whole response, or its geometric mean over the response."""

    token = "token"
    response = "response"
    response_mean = "response_mean"


class KLIn(Enum):
    """Place of the KL penalty."""

    reward = "reward"
    loss = "loss"


class KLEstimator(Enum):
    """Estimator of the KL. Schulman 2020, http://joschu.net/blog/kl-approx.html; rlhf/ppo/kl.py has the formulas."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


class LossMean(Enum):
    """Mean of a loss: over all tokens, over the means of the responses, or the sum over B · K · max_response_length."""

    token = "token"
    response = "response"
    constant = "constant"
