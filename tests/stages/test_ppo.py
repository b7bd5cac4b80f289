import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rlhf.config import Settings
from rlhf.errors import TrainingError
from rlhf.ppo import Critic, PPOTrainer
from rlhf.run import Run
from rlhf.stages import execute
from tests.conftest import composed, tiny_overrides

Configure = Callable[..., Settings]
FASTER = ("stage.learning_rate=0.01", "stage.critic_learning_rate=0.01", "stage.updates=4")


def weights(directory: Path) -> bytes:
    [file] = (directory / "model").glob("*.safetensors")
    return file.read_bytes()


def logged(directory: Path) -> str:
    return (directory / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def uninterrupted(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four updates, to which interrupted ones are compared."""
    root = tmp_path_factory.mktemp("uninterrupted")
    parents = [f"stage.policy={chain}/almanac/sft", f"stage.reward={chain}/almanac/reward"]
    execute(composed(*tiny_overrides("ppo", root), *parents, *FASTER), root / "ppo")
    return root / "ppo"


def test_it_moves_away_from_the_reference(chain: Path, uninterrupted: Path) -> None:
    lines = [json.loads(line) for line in logged(uninterrupted).splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert lines[-1]["objective/kl"] != pytest.approx(0, abs=1e-5)
    run = Run.open(uninterrupted)
    for role, stage in (("policy", "sft"), ("reward", "reward")):
        assert run.manifest["parents"][role]["digest"] == Run.open(chain / "almanac" / stage).manifest["weights"]
    assert run.manifest["metrics"]["objective"] == lines[-1]["objective/rlhf_reward"]
    assert [json.loads(line)["step"] for line in (uninterrupted / "samples.jsonl").read_text().splitlines()] == [4, 4]
    assert not (uninterrupted / "resume").exists()


def test_equal_settings_give_equal_bytes(beside_chain: Configure, uninterrupted: Path, tmp_path: Path) -> None:
    execute(beside_chain("ppo", *FASTER), tmp_path / "again")
    assert weights(tmp_path / "again") == weights(uninterrupted)
    assert logged(tmp_path / "again") == logged(uninterrupted)
    execute(beside_chain("ppo", *FASTER, "seed=1"), tmp_path / "other")
    assert weights(tmp_path / "other") != weights(uninterrupted)


def test_scores_are_normalised_as_the_reward_run_says(chain: Path, beside_chain: Configure, tmp_path: Path) -> None:
    """At the first update the KL is zero, so the reward is the normalised score."""
    execute(beside_chain("ppo", *FASTER, "stage.updates=1", "stage.missing_eos=keep"), tmp_path / "ppo")
    statistics = Run.open(chain / "almanac" / "reward").manifest["metrics"]
    [first] = [json.loads(line) for line in logged(tmp_path / "ppo").splitlines()]
    normalised = (first["objective/scores"] - statistics["scores/mean"]) / statistics["scores/std"]
    assert first["objective/rlhf_reward"] == pytest.approx(normalised, abs=1e-4)


def test_an_adapter_is_saved_alone(beside_chain: Configure, tmp_path: Path) -> None:
    execute(beside_chain("ppo", "adapter=lora", *FASTER), tmp_path / "ppo")
    [file] = (tmp_path / "ppo" / "model").glob("*.safetensors")
    assert file.name == "adapter_model.safetensors"
    assert all("lora_" in name for name in load_file(file))
    lines = [json.loads(line) for line in logged(tmp_path / "ppo").splitlines()]
    assert lines[0]["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert lines[-1]["objective/kl"] != pytest.approx(0, abs=1e-6)


def test_of_an_adapted_critic_the_adapter_and_the_head_are_trained(
    beside_chain: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Critic] = []
    monkeypatch.setattr("rlhf.stages.ppo.Critic", lambda classifier: made.append(Critic(classifier)) or made[-1])
    execute(beside_chain("ppo", "adapter=lora", *FASTER), tmp_path / "ppo")
    trained = [name for name, value in made[0].named_parameters() if value.requires_grad]
    heads = [name for name in trained if "lora_" not in name]
    assert len(trained) > len(heads)
    assert [name.split(".")[-4:] for name in heads] == [["score", "modules_to_save", "default", "weight"]]


@pytest.mark.parametrize("save_every", [1, 10])
def test_after_ctrl_c_it_goes_on_and_ends_with_the_same_bytes(
    beside_chain: Configure, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: int
) -> None:
    """The signal arrives within the second update; that one is finished and saved, whenever the next save was due."""
    options = (*FASTER, f"stage.save_every={save_every}")
    step = PPOTrainer.step

    def interrupted(trainer: PPOTrainer, prompts: list) -> dict[str, float]:
        if trainer.update == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, prompts)

    monkeypatch.setattr(PPOTrainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(beside_chain("ppo", *options), tmp_path / "ppo")
    assert not (tmp_path / "ppo").exists()
    left = tmp_path / ".ppo.partial"
    assert json.loads((left / "run.json").read_text())["status"] == "interrupted"
    assert len(logged(left).splitlines()) == 2

    monkeypatch.setattr(PPOTrainer, "step", step)
    execute(beside_chain("ppo", *options, "resume=true"), tmp_path / "ppo")
    assert weights(tmp_path / "ppo") == weights(uninterrupted)
    assert logged(tmp_path / "ppo") == logged(uninterrupted)
    assert (tmp_path / "ppo" / "samples.jsonl").read_text() == (uninterrupted / "samples.jsonl").read_text()


WATCHFUL = (
    "stage.sentinel.window=1",
    "stage.sentinel.kl_most=1e-9",
    "stage.sentinel.kl_least=-1e-9",
    "stage.sentinel.distinct=null",
    "stage.sentinel.repetition=null",
    "stage.sentinel.entropy_share=null",
)


def test_a_diagnosis_is_told_and_written_down(
    beside_chain: Configure, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    execute(beside_chain("ppo", *FASTER, *WATCHFUL), tmp_path / "ppo")
    lines = [json.loads(line) for line in (tmp_path / "ppo" / "sentinel.jsonl").read_text().splitlines()]
    assert Run.open(tmp_path / "ppo").manifest["diagnoses"] == lines
    line = lines[0]
    assert line["name"] in ("kl_running_away", "kl_negative")
    assert line["step"] == 2  # at the first the policy is the reference
    assert line["action"] == "warned"
    assert f"ppo: update {line['step']}: {line['text']}" in capsys.readouterr().out
    active = [json.loads(text)["sentinel/active"] for text in logged(tmp_path / "ppo").splitlines()]
    assert active[0] < max(active)
    assert weights(tmp_path / "ppo") == weights(uninterrupted)  # to warn changes nothing


def test_the_sentinel_can_end_a_run_which_can_go_on_with_warnings(beside_chain: Configure, tmp_path: Path) -> None:
    ill = (*FASTER, *WATCHFUL, "stage.save_every=100")
    stopping = (*ill, "stage.sentinel.action=stop")
    with pytest.raises(TrainingError, match="stopped at update"):
        execute(beside_chain("ppo", *stopping), tmp_path / "ppo")
    left = json.loads((tmp_path / ".ppo.partial" / "run.json").read_text())
    assert left["status"] == "failed"
    assert [item["action"] for item in left["diagnoses"]][-1] == "stopped"
    with pytest.raises(TrainingError, match="the run was stopped at update .* stage.sentinel.action=warn"):
        execute(beside_chain("ppo", *stopping, "resume=true"), tmp_path / "ppo")
    execute(beside_chain("ppo", *ill, "resume=true"), tmp_path / "ppo")
    assert [json.loads(text)["step"] for text in logged(tmp_path / "ppo").splitlines()] == [1, 2, 3, 4]


def test_a_rolled_back_run_logs_each_update_once(
    beside_chain: Configure, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    ill = (*FASTER, *WATCHFUL, "stage.sentinel.action=rollback")
    with pytest.raises(TrainingError, match="stopped at update"):
        execute(beside_chain("ppo", *ill, "stage.sentinel.rollbacks=1"), tmp_path / "ppo")
    left = tmp_path / ".ppo.partial"
    steps = [json.loads(text)["step"] for text in logged(left).splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    told = json.loads((left / "run.json").read_text())["diagnoses"]
    assert [item["action"] for item in told] == ["rolled back", "stopped"]
    assert f"back to update {told[0]['back_to']} at a lower learning rate" in capsys.readouterr().out
