"""Baselines of a reward model: response length, TF-IDF with logistic regression, the policy's log-probability.

Each returns a difference for every held-out pair, above zero if it prefers the chosen response.
"""

from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import torch

from rlhf.data.render import prompt_ids
from rlhf.evaluation.reward_card.pairs import Side
from rlhf.modeling.forward import sequence_logprobs
from rlhf.modeling.generation import sampling_mode
from rlhf.rewards import encode

STRENGTHS = (0.1, 1.0, 10.0)  # values of scikit-learn's C, from strong to weak regularization
MOST_FEATURES = 100_000


class LogProb(NamedTuple):
    """log π of each response (n,) in nats: the sum over its tokens, and the mean."""

    total: np.ndarray
    per_token: np.ndarray


def longer(chosen: Side, rejected: Side) -> np.ndarray:
    """Return characters of the chosen response - those of the rejected one, for each pair (n,)."""
    return np.array([len(a) - len(b) for a, b in zip(chosen.completions, rejected.completions, strict=True)])


class Tfidf:
    """Logistic regression on the words of the two responses.

        P(chosen) = σ(wᵀ (x_c - x_r)),  x = TF-IDF of words and pairs of words, and log(1 + characters)

    The score is linear in the response; the prompt is the same on both sides and cancels. The regularization of w is
    selected by accuracy on ``validation``. Fitting is deterministic.
    """

    def __init__(self, train: tuple[Side, Side], validation: tuple[Side, Side]):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        texts = [text for side in train for text in side.completions]
        # One-letter words count, too: a response may be "a", which the default token_pattern drops.
        self._words = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+", max_features=MOST_FEATURES
        ).fit([*texts, "a"])  # the vocabulary must not be empty, even if every response is
        features = self._features(*train)
        labels = np.repeat([1, 0], features.shape[0])
        from scipy.sparse import vstack

        both = vstack([features, -features])
        candidates = []
        for strength in STRENGTHS:
            # Without an intercept, a pair with its sides exchanged gets the opposite difference.
            self._model = LogisticRegression(C=strength, fit_intercept=False, max_iter=1000).fit(both, labels)
            found = self(*validation)
            candidates.append((float(((found > 0) + 0.5 * (found == 0)).mean()), -strength, self._model))
        self._model = max(candidates, key=lambda candidate: candidate[:2])[2]

    def __call__(self, chosen: Side, rejected: Side) -> np.ndarray:
        return self._model.decision_function(self._features(chosen, rejected))

    def _features(self, chosen: Side, rejected: Side) -> Any:
        from scipy.sparse import csr_matrix, hstack

        words = self._words.transform(chosen.completions) - self._words.transform(rejected.completions)
        sizes = [np.log1p([len(text) for text in side.completions]) for side in (chosen, rejected)]
        return hstack([words, csr_matrix((sizes[0] - sizes[1])[:, None])], format="csr")


@torch.no_grad()
def log_probabilities(model: Any, tokenizer: Any, side: Side, max_length: int | None, batch_size: int) -> LogProb:
    """Return the policy's log-probability of each response given its prompt, including EOS.

    Texts are rendered like those of a reward model; only the last ``max_length`` tokens are kept.
    """
    rows, counts = [], []
    for prompt, completion in zip(side.prompts, side.completions, strict=True):
        ids, before = encode(tokenizer, prompt, completion, None), prompt_ids(tokenizer, prompt)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, before, strict=False)))
        kept = ids if max_length is None else ids[-max_length:]
        rows.append(kept)
        counts.append(max(min(len(ids) - shared, len(kept) - 1), 1))  # the first token has no context
    totals = np.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    with sampling_mode(model):
        for start in range(0, len(rows), batch_size):
            chosen = order[start : start + batch_size]
            before = [rows[i][: -counts[i]] for i in chosen]
            after = [rows[i][-counts[i] :] for i in chosen]
            totals[chosen] = sequence_logprobs(model, before, after).cpu()
    return LogProb(totals, totals / np.array(counts))
