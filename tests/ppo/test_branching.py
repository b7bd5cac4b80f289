import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.errors import RunError
from rlhf.ppo import Critic, PPOTrainer
from rlhf.ppo.branching import branch
from rlhf.stages import execute
from tests.conftest import composed, tiny_overrides
from tests.ppo.conftest import new_reward_model, same, weights
from tests.test_resume import command, kill_in, results

Trainers = Callable[..., PPOTrainer]
ADAPTIVE = {"kl_target": 0.5, "kl_coef": 0.1}


@pytest.fixture
def source(new_trainer: Trainers, tmp_path: Path) -> PPOTrainer:
    """A run of four updates with an adaptive β; its checkpoints of updates 3 and 4 are in the test's folder."""
    trainer = new_trainer(**ADAPTIVE)
    trainer.train(tmp_path)
    return trainer


def test_an_average_starts_from_the_weights_of_the_checkpoint(
    source: PPOTrainer, new_trainer: Trainers, tmp_path: Path
) -> None:
    trainer = new_trainer(updates=6, ema=0.75)
    assert branch(trainer, tmp_path / "update-4", 0.1) == 4
    assert same(weights(trainer.policy), weights(source.policy))
    for mean, parameter in zip(trainer.learner.average.weights, source.policy.parameters(), strict=True):
        assert torch.equal(mean, parameter)


@pytest.mark.parametrize(
    ("options", "continues"),
    [(ADAPTIVE, True), (ADAPTIVE | {"kl_target": 0.7}, True), (ADAPTIVE | {"kl_coef": 0.3}, False), ({}, False)],
)
def test_an_adaptive_coefficient_continues_unless_another_is_set(
    source: PPOTrainer, new_trainer: Trainers, tmp_path: Path, options: dict[str, Any], continues: bool
) -> None:
    trainer = new_trainer(updates=6, **options)
    branch(trainer, tmp_path / "update-4", 0.1)
    assert source.kl_coef != 0.1
    assert trainer.kl_coef == (source.kl_coef if continues else trainer.stage.kl_coef)


def test_a_checkpoint_of_another_critic_is_refused(
    source: PPOTrainer, new_trainer: Trainers, tokenizer: Any, tmp_path: Path
) -> None:
    small = new_reward_model(tokenizer)
    small.score = torch.nn.Linear(16, 1)  # with a bias
    trainer = new_trainer(critic=Critic(small))
    with pytest.raises(RunError, match="update-4 has other weights than the critic: use the model that it was"):
        branch(trainer, tmp_path / "update-4", 0.1)


@pytest.fixture(scope="module")
def kept(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two updates that has kept both."""
    root = tmp_path_factory.mktemp("kept")
    place = root / "almanac" / "ppo"
    parents = [f"stage.policy={chain}/almanac/sft", f"stage.reward={chain}/almanac/reward"]
    execute(composed(*tiny_overrides("ppo", root), *parents, "stage.keep_every=1"), place)
    return place


def test_a_branch_killed_after_its_first_checkpoint_ends_with_the_same_bytes(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the second of three updates; the other settings of the branch are kept, too."""

    def arguments(name: str, *more: str) -> list[str]:
        own = [f"name={name}", f"from={kept}@2", "stage.updates=5", "stage.kl_coef=0.5"]
        return ["rlhf", *tiny_overrides("ppo", tmp_path)[1:], *own, *more]

    kill_in(arguments("cut"), "rlhf.ppo.checkpoint.save", 2)
    assert not (tmp_path / "cut" / "ppo").exists()
    for argv in (arguments("cut", "resume=true"), arguments("whole")):
        with monkeypatch.context() as patched:
            patched.setattr("sys.argv", argv)
            command(argv)
    assert results(tmp_path / "cut" / "ppo") == results(tmp_path / "whole" / "ppo")


def test_branches_are_swept_and_the_best_is_published_with_the_run_that_it_left(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["rlhf", "-m", *tiny_overrides("ppo", tmp_path)[1:], "name=swept", "stage.updates=3"]
    with monkeypatch.context() as patched:
        patched.setattr("sys.argv", given)
        command([*given, f"from={kept}@1,{kept}@2"])
    found = json.loads((tmp_path / "swept" / "ppo" / "sweep" / "leaderboard.json").read_text())
    assert len(found["rows"]) == 2
    assert not found["unfinished"]
    monkeypatch.setattr("sys.argv", given)
    command(["rlhf", *shlex.split(found["publish"])[3:], *tiny_overrides("publish", tmp_path)[1:]])
    [card] = (tmp_path / "almanac" / "publish" / "bundles").glob("*/README.md")
    stages = [
        line.split(" | ")[:2] for line in card.read_text(encoding="utf-8").splitlines() if line.startswith("| ppo")
    ]
    assert [[stage, name.partition(",")[0]] for stage, name in stages] == [
        ["| ppo", "almanac/ppo"],
        ["| ppo", "swept/ppo"],
    ]
