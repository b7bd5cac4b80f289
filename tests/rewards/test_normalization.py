import json
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.rewards import FixedNormalizer, RunningNormalizer

SCORES = st.floats(-1e6, 1e6)


def test_stored_statistics() -> None:
    assert FixedNormalizer(2.0, 4.0)([2.0, 6.0, -2.0]) == [0, 1, -1]


def test_running_statistics_include_the_current_batch() -> None:
    """1, 3: mean 2, variance 2. With 5: mean 3, variance 4."""
    running = RunningNormalizer()
    running.learn([1.0, 3.0])
    assert running([1.0, 3.0]) == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2)])
    running.learn([5.0])
    assert running([5.0, 1.0]) == pytest.approx([1, -1])


@given(st.lists(st.lists(SCORES, min_size=1, max_size=5), min_size=1, max_size=5))
def test_batches_add_up_to_the_statistics_of_all_of_them(batches: list[list[float]]) -> None:
    running = RunningNormalizer()
    for batch in batches:
        running.learn(batch)
    whole = [score for batch in batches for score in batch]
    assert running.mean == pytest.approx(statistics.fmean(whole), rel=1e-9, abs=1e-6)
    expected = statistics.stdev(whole) if len(whole) > 1 else 0.0
    assert running.std == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_ranks_learn_the_statistics_of_one_process_with_all_scores() -> None:
    """Each rank has its own scores; here the sums of the other rank are added to every sum."""
    ranks, alone = ([1.0, 2.0], [4.0, 9.0, 5.0]), RunningNormalizer()
    alone.learn([*ranks[0], *ranks[1]])
    mean = statistics.fmean([*ranks[0], *ranks[1]])
    others = [torch.tensor([3.0, 18.0]), torch.tensor(sum((score - mean) ** 2 for score in ranks[1]))]
    first = RunningNormalizer()
    first.learn(ranks[0], lambda x: x + others.pop(0))
    assert first.state_dict() == pytest.approx(alone.state_dict())


def test_equal_scores_become_zero_and_not_nan() -> None:
    running = RunningNormalizer()
    running.learn([3.0, 3.0, 3.0])
    assert running([3.0, 3.0]) == [0, 0]


def test_statistics_restored_from_json_are_bit_identical() -> None:
    one, other = RunningNormalizer(), RunningNormalizer()
    one.learn([0.1, 0.7, 1 / 3])
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for running in (one, other):
        running.learn([0.3])
    assert one.state_dict() == other.state_dict()
