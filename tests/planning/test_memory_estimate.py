"""The memory by role and phase, computed by hand."""

from rlhf.planning.memory_estimate import Ledger, Phase, Role

ROLES = [Role("policy", 10, 10, "float32", 40, 40, 80), Role("reference", 10, 0, "float32", 40)]


def test_a_phase_counts_what_is_allocated_in_it() -> None:
    reading = Phase("reading", other=7, holds=("policy",))
    first = Phase("first step", activations=100, vocabulary=20, optimizer=())
    later = Phase("later", activations=50, cache=3, gradients=("policy",), optimizer=("policy",))
    ledger = Ledger(ROLES, [reading, first, later])
    assert [ledger.total(phase) for phase in ledger.phases] == [40 + 7, 80 + 120, 80 + 40 + 80 + 53]
    assert ledger.highest is later
    assert ledger.peak == 253
    assert Ledger(ROLES, [reading, first, later], beside=9).peak == 262


def test_the_record() -> None:
    record = Ledger(ROLES, [Phase("loss", activations=5)]).record()
    assert record["peak"] == 85
    assert record["phases"]["loss"]["total"] == 85
    assert [role["name"] for role in record["roles"]] == ["policy", "reference"]
