import pytest

from rlhf.errors import TrainingError
from rlhf.rewards.spending import Spending
from tests.conftest import composed


def test_the_questions_of_all_ranks_count_against_a_limit() -> None:
    """Until the ranks add up their counts, each assumes that the other has asked as many."""
    one = Spending(composed("stage=label", "judge.budget_calls=10").judge, ranks=2)
    one.ask(4)
    with pytest.raises(TrainingError, match=r"judge\.budget_calls=10 calls are spent after 8 questions"):
        one.ask(3)
    one.settle(lambda own: own + 1)  # the other rank has asked once
    assert one["asked"] == 5
    one.ask(2)
    assert one["asked"] == 9


def test_a_rollback_does_not_return_what_was_spent() -> None:
    one = Spending(composed("stage=label").judge)
    before = one.state_dict()
    one.ask(2)
    one.settle()
    one.load_state_dict(before)
    assert one["asked"] == 2
