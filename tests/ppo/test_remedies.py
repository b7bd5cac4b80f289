"""The sentinel stops a run or rolls it back."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.errors import ConfigError, TrainingError
from rlhf.ppo import Diagnosis, PPOTrainer, checkpoint, rollout
from rlhf.ppo.sentinel import STOPPED
from tests.ppo.conftest import OF_REWARD, same, weights
from tests.ppo.test_failures import BLIND, EYES, QUICK, RUNAWAY, Trainers, only, run


def test_stop_leaves_a_checkpoint_and_ends_the_run(new_trainer: Trainers, tmp_path: Path) -> None:
    reported: list[Diagnosis] = []
    trainer = new_trainer(**RUNAWAY | {"save_every": 100}, **only("kl_max", 5.0, action="stop"))
    trainer.tell = reported.append
    with pytest.raises(TrainingError, match="stopped at update .* running away from its reference"):
        trainer.train(tmp_path)
    assert [diagnosis.action for diagnosis in reported] == [STOPPED]
    assert trainer.update == reported[0].update < 12
    assert [path.name for path in tmp_path.iterdir()] == [f"update-{trainer.update}"]
    again = new_trainer(**RUNAWAY, **only("kl_max", 5.0, action="stop"))
    with pytest.raises(TrainingError, match="the run was stopped at update .* stage.sentinel.action=warn"):
        again.restore(tmp_path)
    on = new_trainer(**RUNAWAY, **only("kl_max", 5.0))
    assert on.restore(tmp_path) == trainer.update
    assert run(on, tmp_path) == []  # it is still active, and was reported before
    assert on.update == 12


@pytest.mark.parametrize("kind", OF_REWARD)
def test_the_sentinel_stops_a_run_of_every_estimator(new_trainer: Trainers, tmp_path: Path, kind: str) -> None:
    """All rules read the metrics of the first update, which without a critic has no explained variance."""
    limits = {"approx_kl_max": 1e-9, "action": "stop", "window": 1, "grace": 0}
    trainer = new_trainer(advantage=kind, samples=2, missing_eos="keep", save_every=100, sentinel=limits)
    with pytest.raises(TrainingError, match="stopped at update 1: "):
        trainer.train(tmp_path)
    assert "steps_too_large" in {diagnosis.name for diagnosis in trainer.sentinel.raised}
    assert [path.name for path in tmp_path.iterdir()] == ["update-1"]


def test_rollback_goes_to_a_healthy_checkpoint_with_a_lower_rate(new_trainer: Trainers, tmp_path: Path) -> None:
    logged: list[tuple[int, float]] = []
    sentinel = only("kl_max", 5.0, action="rollback", rollbacks=2, rollback_factor=0.5)
    trainer = new_trainer(**RUNAWAY, **sentinel)
    trainer.log = lambda metrics, update: logged.append((update, metrics["lr"]))
    reported: list[Diagnosis] = []
    trainer.tell = reported.append
    with pytest.raises(TrainingError, match="stopped at"):
        trainer.train(tmp_path)
    assert [diagnosis.action for diagnosis in reported] == ["rolled back", "rolled back", STOPPED]
    for diagnosis in reported[:2]:
        assert diagnosis.back_to <= diagnosis.update - trainer.stage.sentinel.window
        assert diagnosis.back_to % 2 == 0
    first = next(i for i, (update, _) in enumerate(logged) if update == reported[0].update)
    assert logged[first + 1][0] == reported[0].back_to + 1
    rates = dict(logged[: first + 1])
    assert logged[first + 1][1] == pytest.approx(rates[reported[0].back_to + 1] / 2)
    assert reported[1].update >= reported[0].update  # half the rate takes it as long, or longer


def test_a_rolled_back_run_is_reproducible_and_can_be_killed(new_trainer: Trainers, tmp_path: Path) -> None:
    """Killed right after the rollback, the run fails again, is rolled back again, and ends the same."""

    def fresh() -> PPOTrainer:
        # Strong at first and weaker later, so that one rollback is enough.
        sentinel = only("approx_kl_max", 0.03, action="rollback", rollbacks=3, rollback_factor=0.3)
        return new_trainer(**QUICK | {"learning_rate": 0.02, "updates": 10}, **sentinel)

    straight = fresh()
    reported = run(straight, tmp_path / "straight")
    assert [diagnosis.action for diagnosis in reported] == ["rolled back"] * len(reported)
    assert reported
    killed = fresh()

    def kill(diagnosis: Diagnosis) -> None:
        raise InterruptedError

    killed.tell = kill
    with pytest.raises(InterruptedError):
        killed.train(tmp_path / "killed")
    resumed = fresh()
    resumed.restore(tmp_path / "killed")
    run(resumed, tmp_path / "killed")
    assert resumed.metrics == straight.metrics
    assert resumed.sentinel.state_dict() == straight.sentinel.state_dict()
    for name in ("policy", "critic"):
        assert same(weights(straight.learner.modules[name]), weights(resumed.learner.modules[name]))


def test_a_loss_that_is_not_finite_can_be_rolled_back(
    new_trainer: Trainers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss fails once, in the eighth update: the run is rolled back and succeeds on the second try."""
    trainer = new_trainer(**QUICK | {"updates": 10}, sentinel=BLIND | EYES | {"action": "rollback"})
    improve, met = trainer.learner.improve, []

    def overflowing(found: rollout.Rollout, advantages: torch.Tensor, *rest: Any) -> dict[str, float]:
        if trainer.update == 7 and not met:
            met.append(True)
            advantages = advantages * math.nan
        return improve(found, advantages, *rest)

    monkeypatch.setattr(trainer.learner, "improve", overflowing)
    [diagnosis] = run(trainer, tmp_path)
    assert (diagnosis.name, diagnosis.action) == ("not_finite", "rolled back")
    assert (diagnosis.update, diagnosis.back_to) == (8, 4)
    assert trainer.update == 10
    assert trainer.metrics["lr"] < 1e-2


def test_rollback_needs_a_folder(new_trainer: Trainers) -> None:
    with pytest.raises(ConfigError, match="stage.sentinel.action=rollback needs a folder"):
        new_trainer(sentinel={"action": "rollback"}).train()


def test_checkpoints_are_kept_for_rollback(new_trainer: Trainers, tmp_path: Path) -> None:
    """In addition to the last two: the last one that is a window old, and the one that will replace it."""
    trainer = new_trainer(**QUICK | {"updates": 9, "save_every": 1}, sentinel=BLIND | EYES | {"action": "rollback"})
    run(trainer, tmp_path)
    numbers = [int(path.name.removeprefix("update-")) for path in checkpoint.checkpoints(tmp_path)]
    assert numbers[-2:] == [8, 9]
    assert 3 <= len(numbers) <= 4
    assert 0 < numbers[0] <= 6
    assert checkpoint.healthy(tmp_path, 6).name == f"update-{numbers[0]}"
