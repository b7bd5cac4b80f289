import numpy as np

from rlhf.evaluation.reward_card.ensemble import MeanModel
from tests.evaluation.reward_card.conftest import Counting


class Plain(Counting):
    tokenizer, max_length = None, 7


def test_the_mean_of_the_members() -> None:
    mean = MeanModel([Plain(len), Plain(lambda text: 10.0 if "a" in text else 0.0)])
    assert mean(["p", "p"], ["aa", "bbbb"]) == [6.0, 2.0]
    assert mean.max_length == 7
    assert np.allclose(mean.score([mean.encode("p", "aa")]), [6.0])
