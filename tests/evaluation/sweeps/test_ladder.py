"""Intervals, paired tests, Holm's correction and costs, against worked values and scipy."""

import pytest
from scipy import stats

from rlhf.evaluation.sweeps.ladder import Method, compare, cost, holm, interval, paired


def run(gold: float) -> dict:
    return {"metrics": {"gold": gold}}


def test_an_interval_of_three_seeds_by_hand() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)  # t(0.975, 2) s / √n with s = 1
    assert str(interval([1.0])) == "1.000"


def test_differences_are_paired_by_seed() -> None:
    ours, theirs = {1: 2.0, 2: 3.5, 3: 4.0, 9: 100.0}, {1: 1.0, 2: 2.0, 3: 3.5, 4: -100.0}
    found = paired(ours, theirs)
    assert found is not None
    assert found.difference.mean == pytest.approx(1.0)
    assert found.p == pytest.approx(stats.ttest_rel([2.0, 3.5, 4.0], [1.0, 2.0, 3.5]).pvalue)
    assert paired({1: 1.0}, {2: 1.0}) is None
    assert paired({1: 1.0, 2: 2.0}, {1: 0.0, 2: 1.0}).p is None  # no variance


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_methods_are_compared_with_the_baseline_only() -> None:
    golds = {"dpo": [1.0, 2.0, 3.0], "ppo": [2.0, 3.1, 4.2], "rloo": [1.0, 2.1, 2.9]}
    methods = [Method(name, {n: run(gold) for n, gold in enumerate(own)}) for name, own in golds.items()]
    found = compare(methods, "dpo", "gold")
    assert set(found) == {"ppo", "rloo"}
    assert found["ppo"].corrected == pytest.approx(2 * found["ppo"].p)
    assert found["rloo"].corrected == found["rloo"].p


def test_the_cost_of_dpo_and_of_ppo_with_its_passes() -> None:
    dpo = cost({"metrics": {"tokens": 100}, "settings": {"stage": {"beta": 0.1}}, "parents": {"policy": {}}})
    assert tuple(dpo) == (0.0, 100.0, 100.0)
    own = {"beta": 2.0, "loss": ["simpo", "sft"]}
    simpo = {"metrics": {"tokens": 100}, "settings": {"stage": own}, "parents": {"policy": {}}}
    assert tuple(cost(simpo)) == (0.0, 100.0, 0.0)
    spent = {"tokens": 100, "sampled_tokens": 30, "sample/tokens": 5.0}
    online = {"metrics": spent, "settings": {"stage": {"beta": 0.1}}, "parents": {"policy": {}, "reward": {}}}
    assert tuple(cost(online)) == (30, 100, 160)  # sampling and scoring, and the reference on the pairs
    drawn = {"tokens": 100, "sample/responses": 40, "sample/tokens": 5.5}
    raft = {"metrics": drawn, "settings": {"stage": {"name": "raft"}}, "parents": {"policy": {}, "reward": {}}}
    assert tuple(cost(raft)) == (220, 100, 440)
    stage = {"advantage": "gae", "critic_kind": "separate", "epochs": 2}
    parents = {"policy": {}, "reward": {}, "gold": {}}
    ppo = cost({"metrics": {"tokens": 100, "sampled_tokens": 30}, "settings": {"stage": stage}, "parents": parents})
    assert tuple(ppo) == (30, 400, 400)  # two epochs of two models; sampling, reference, critic, reward
    assert ppo.flops(10) == 2 * 10 * 400 + 6 * 10 * 400
    rloo = cost({
        "metrics": {"tokens": 100, "sampled_tokens": 30}, "parents": parents,
        "settings": {"stage": stage | {"advantage": "rloo"}},
    })  # fmt: skip
    assert tuple(rloo) == (30, 200, 300)
