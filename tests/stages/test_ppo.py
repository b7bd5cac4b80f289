import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

from rlhf.config import Settings
from rlhf.data.templates import chat_template
from rlhf.errors import ConfigError, DataError, LineageError, ModelError, TrainingError
from rlhf.modeling.from_scratch import new_tokenizer
from rlhf.modeling.generation import sample
from rlhf.ppo import PPOTrainer
from rlhf.runs.run import Run
from rlhf.stages import execute
from tests.conftest import composed, tiny_overrides
from tests.ppo.conftest import interrupted_in_the_second_update, interrupted_in_update, new_policy
from tests.rewards.test_model import new_encoder

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


def test_scores_are_normalized_as_the_reward_run_says(chain: Path, beside_chain: Configure, tmp_path: Path) -> None:
    """At the first update the KL is zero, so the reward is the normalized score."""
    execute(beside_chain("ppo", *FASTER, "stage.updates=1", "stage.missing_eos=keep"), tmp_path / "ppo")
    statistics = Run.open(chain / "almanac" / "reward").manifest["metrics"]
    [first] = [json.loads(line) for line in logged(tmp_path / "ppo").splitlines()]
    normalized = (first["objective/scores"] - statistics["scores/mean"]) / statistics["scores/std"]
    assert first["objective/rlhf_reward"] == pytest.approx(normalized, abs=1e-4)


def test_every_option_of_the_algorithm_is_taken_from_the_settings(beside_chain: Configure, tmp_path: Path) -> None:
    options = (
        "kl_in=loss", "kl_estimator=k2", "kl_target=0.1", "clip_high=0.28", "dual_clip=3", "value_clip=null",
        "target_kl=0.5", "entropy_coef=0.01", "loss_mean=response", "importance_cap=2", "whiten_rewards=true",
    )  # fmt: skip
    execute(beside_chain("ppo", *FASTER, "stage.updates=2", *(f"stage.{option}" for option in options)), tmp_path / "x")
    first, second = [json.loads(line) for line in logged(tmp_path / "x").splitlines()]
    assert second["objective/kl_coef"] == pytest.approx(first["objective/kl_coef"] * 0.98)  # the KL was 0
    assert second["val/clipfrac_avg"] == 0
    assert first["policy/steps"] > 0


def test_only_the_adapter_is_saved(beside_chain: Configure, tmp_path: Path) -> None:
    execute(beside_chain("ppo", "adapter=lora", *FASTER), tmp_path / "ppo")
    [file] = (tmp_path / "ppo" / "model").glob("*.safetensors")
    assert file.name == "adapter_model.safetensors"
    assert all("lora_" in name for name in load_file(file))
    lines = [json.loads(line) for line in logged(tmp_path / "ppo").splitlines()]
    assert lines[0]["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert lines[-1]["objective/kl"] != pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "more", [(), ("stage.ptx_coef=0.5", "stage.ptx_block_length=16", "stage.ema=0.5")], ids=["plain", "ptx and ema"]
)
def test_one_base_ends_where_four_models_end(
    beside_chain: Configure, tmp_path: Path, capsys: pytest.CaptureFixture, more: tuple[str, ...]
) -> None:
    """Adam's first steps have the size of the learning rate whatever the gradient's, so rounding may weigh more."""
    execute(beside_chain("reward", "adapter=lora"), tmp_path / "reward")
    logs, adapters = [], []
    for share_base_model in ("true", "false"):
        place = tmp_path / share_base_model
        options = (f"stage.reward={tmp_path}/reward", f"stage.share_base_model={share_base_model}", "stage.updates=3")
        execute(beside_chain("ppo", "adapter=lora", *options, *more, "stage.critic_learning_rate=0.01"), place)
        logs.append([json.loads(line) for line in logged(place).splitlines()])
        adapters.append(load_file(place / "model" / "adapter_model.safetensors"))
    assert "its own" not in capsys.readouterr().out
    assert logs[0][0]["objective/kl"] == pytest.approx(0, abs=1e-5)
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, abs=1e-4, rel=1e-4)
    assert adapters[0].keys() == adapters[1].keys()
    for name, value in adapters[0].items():
        assert torch.allclose(value, adapters[1][name], atol=1e-6), name


def test_after_ctrl_c_one_base_continues_and_ends_with_the_same_bytes(beside_chain: Configure, tmp_path: Path) -> None:
    execute(beside_chain("reward", "adapter=lora"), tmp_path / "reward")
    options = ("adapter=lora", "stage.share_base_model=true", f"stage.reward={tmp_path}/reward", *FASTER)
    execute(beside_chain("ppo", *options), tmp_path / "whole")
    with interrupted_in_the_second_update():
        execute(beside_chain("ppo", *options), tmp_path / "ppo")
    execute(beside_chain("ppo", *options, "resume=true"), tmp_path / "ppo")
    assert weights(tmp_path / "ppo") == weights(tmp_path / "whole")
    assert logged(tmp_path / "ppo") == logged(tmp_path / "whole")


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_the_critic_can_be_a_head_on_the_policy(
    beside_chain: Configure, tmp_path: Path, adapter: str, capsys: pytest.CaptureFixture
) -> None:
    """At update 1 its values are all zero, so that they explain nothing; then it has learned."""
    options = (f"adapter={adapter}", "stage.critic_kind=value_head", "stage.critic_learning_rate=0.01", *FASTER)
    execute(beside_chain("ppo", *options), tmp_path / "ppo")
    first, *_, last = [json.loads(line) for line in logged(tmp_path / "ppo").splitlines()]
    assert first["val/explained_variance"] == pytest.approx(0, abs=1e-6)
    assert last["val/explained_variance"] != pytest.approx(0, abs=1e-6)
    assert "with a zero head" not in capsys.readouterr().out
    [file] = (tmp_path / "ppo" / "model").glob("*.safetensors")
    assert not [name for name in load_file(file) if "score" in name]


@pytest.mark.parametrize(("kind", "adapter"), [("rloo", "none"), ("grpo", "lora"), ("reinforce_pp", "lora")])
def test_other_estimators_train_without_a_critic_in_every_way(
    beside_chain: Configure, tmp_path: Path, kind: str, adapter: str
) -> None:
    """Whole and on one base; interrupted and continued to the same bytes; the plan has no critic."""
    execute(beside_chain("reward", f"adapter={adapter}"), tmp_path / "reward")
    options = (f"adapter={adapter}", f"stage.reward={tmp_path}/reward", f"stage.advantage={kind}", "stage.samples=3")
    if adapter == "lora":
        options = (*options, "stage.share_base_model=true")
    execute(beside_chain("ppo", *options, *FASTER), tmp_path / "whole")
    run = Run.open(tmp_path / "whole")
    assert "critic" not in {role["name"] for role in run.manifest["memory"]["roles"]}
    line = json.loads(logged(tmp_path / "whole").splitlines()[-1])
    assert "loss/value_avg" not in line
    assert line["episode"] == 4 * 3 * run.manifest["settings"]["stage"]["batch_size"]
    with interrupted_in_the_second_update():
        execute(beside_chain("ppo", *options, *FASTER), tmp_path / "ppo")
    execute(beside_chain("ppo", *options, *FASTER, "resume=true"), tmp_path / "ppo")
    assert weights(tmp_path / "ppo") == weights(tmp_path / "whole")
    assert logged(tmp_path / "ppo") == logged(tmp_path / "whole")


def test_on_one_base_prompts_are_computed_once_with_the_same_numbers(beside_chain: Configure, tmp_path: Path) -> None:
    execute(beside_chain("reward", "adapter=lora"), tmp_path / "reward")
    options = ("adapter=lora", "stage.share_base_model=true", f"stage.reward={tmp_path}/reward", "stage.samples=3")
    lines = []
    for shared in ("on", "off"):
        execute(beside_chain("ppo", *options, f"stage.shared_prefix={shared}", *FASTER), tmp_path / shared)
        lines.append([json.loads(line) for line in logged(tmp_path / shared).splitlines()])
    assert lines[0] != lines[1]  # rounding
    for one, other in zip(*lines, strict=True):
        clipped = "val/clipfrac_avg"  # rounding can move the ratio of a token over the edge
        assert one.pop(clipped) == pytest.approx(other.pop(clipped), abs=0.02)
        assert one == pytest.approx(other, abs=1e-3, rel=1e-3)


@pytest.mark.parametrize("save_every", [1, 10])
def test_after_ctrl_c_it_continues_and_ends_with_the_same_bytes(
    beside_chain: Configure, uninterrupted: Path, tmp_path: Path, save_every: int
) -> None:
    """The signal arrives within the second update; that one is finished and saved, whenever the next save was due."""
    options = (*FASTER, f"stage.save_every={save_every}")
    with interrupted_in_the_second_update():
        execute(beside_chain("ppo", *options), tmp_path / "ppo")
    assert not (tmp_path / "ppo").exists()
    left = tmp_path / ".ppo.partial"
    assert json.loads((left / "run.json").read_text())["status"] == "interrupted"
    assert len(logged(left).splitlines()) == 2

    execute(beside_chain("ppo", *options, "resume=true"), tmp_path / "ppo")
    assert weights(tmp_path / "ppo") == weights(uninterrupted)
    assert logged(tmp_path / "ppo") == logged(uninterrupted)
    assert (tmp_path / "ppo" / "samples.jsonl").read_text() == (uninterrupted / "samples.jsonl").read_text()


@pytest.fixture(scope="module")
def keeping(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a finished run of four updates that has kept the second and the fourth."""
    root = tmp_path_factory.mktemp("keeping")
    parents = [f"stage.policy={chain}/almanac/sft", f"stage.reward={chain}/almanac/reward"]
    execute(
        composed(*tiny_overrides("ppo", root), *parents, *FASTER, "stage.keep_every=2", "stage.kl_target=1"),
        root / "almanac" / "ppo",
    )
    return root


def test_a_branch_continues_an_update_of_another_run(
    settings: Configure, keeping: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same settings it ends with the same bytes, even if interrupted; policy and reward are the run's."""
    whole = keeping / "almanac" / "ppo"
    assert sorted(path.name for path in (whole / "updates").iterdir()) == ["update-2", "update-4"]
    same = (*FASTER, f"stage.branch_from={whole}@2", "stage.kl_target=1")
    with interrupted_in_update(3):
        execute(settings("ppo", *same), tmp_path / "ppo")
    execute(settings("ppo", *same, "resume=true"), tmp_path / "ppo")
    assert weights(tmp_path / "ppo") == weights(whole)
    assert logged(tmp_path / "ppo").splitlines() == logged(whole).splitlines()[2:]
    other = keeping / "branch" / "ppo"
    execute(settings("ppo", *FASTER, f"stage.branch_from={whole}@2", "stage.kl_coef=0.5", "name=branch"), other)
    assert weights(other) != weights(whole)
    assert json.loads(logged(other).splitlines()[0])["objective/kl_coef"] == 0.5
    record = Run.open(other).manifest["parents"]["branch_from"]
    assert (record["path"], record["stage"], record["update"]) == (str(whole), "ppo", 2)
    monkeypatch.setattr("rlhf.stages.status.console.width", 300)
    capsys.readouterr()
    execute(composed(f"checkpoints={keeping}"), Path("unused"))
    lines = capsys.readouterr().out.splitlines()
    [above] = [line for line in lines if "almanac/ppo " in line]
    [below] = [line for line in lines if "branch/ppo " in line]
    assert below.index("branch") == above.index("almanac") + 4
    assert "from update 2" in below


def test_a_branch_of_a_distilled_run_draws_the_same_text_and_ends_with_the_same_bytes(
    beside_chain: Configure, settings: Configure, chain: Path, tmp_path: Path
) -> None:
    options = (*FASTER, f"stage.teacher={chain}/almanac/base", "stage.ptx_coef=0.5", "stage.ptx_block_length=16")
    whole, branch = tmp_path / "whole", tmp_path / "branch"
    execute(beside_chain("ppo", *options, "stage.reward=null", "stage.keep_every=2"), whole)
    execute(settings("ppo", *options, f"stage.branch_from={whole}@2"), branch)
    assert list(Run.open(branch).manifest["parents"]) == ["branch_from", "policy", "teacher"]
    assert weights(branch) == weights(whole)
    assert logged(branch).splitlines() == logged(whole).splitlines()[2:]
    scored = settings("ppo", *FASTER, f"stage.branch_from={whole}@2", f"stage.reward={chain}/almanac/reward")
    with pytest.raises(LineageError, match="@2 has no critic, and the new run a separate critic: set the same stage.a"):
        execute(scored, tmp_path / "ppo")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage.branch_from={run}@3"], "@3: the run keeps only 2, 4: name one that it keeps, or train it with stage."),
        (["stage.branch_from={run}/nowhere@2"], "nowhere is not a run of stage=ppo on this machine"),
        (["stage.branch_from={run}@2", "adapter=lora"], "@2 has adapter.kind=none, and the new run lora"),
        (["stage.branch_from={run}@2", "stage.critic_kind=value_head"], "a separate critic, and the new run a value"),
        (["stage.branch_from={run}@2", "data.prompts.limit=23"], "@2 was trained on other prompts, whose order"),
    ],
)
def test_a_branch_that_cannot_continue_is_refused(
    settings: Configure, keeping: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    given = [item.format(run=keeping / "almanac" / "ppo") for item in overrides]
    with pytest.raises(LineageError, match=re.escape(message)):
        execute(settings("ppo", *FASTER, *given), tmp_path / "ppo")
    assert not (tmp_path / "ppo").exists()


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_teacher_replaces_reward_and_critic(
    beside_chain: Configure, chain: Path, tmp_path: Path, adapter: str, capsys: pytest.CaptureFixture
) -> None:
    """Interrupted and continued to the same bytes; the policy starts elsewhere; the final policy meets the teacher."""
    options = (
        *FASTER,
        "stage.updates=3",
        f"adapter={adapter}",
        f"stage.teacher={chain}/almanac/base",
        "stage.reward=null",
    )
    execute(beside_chain("ppo", *options), tmp_path / "whole")
    run = Run.open(tmp_path / "whole")
    assert list(run.manifest["parents"]) == ["policy", "teacher"]
    roles = {role["name"]: role["parameters"] for role in run.manifest["memory"]["roles"]}
    assert roles["teacher"] > 0
    assert "critic" not in roles
    first, *_ = (json.loads(line) for line in logged(tmp_path / "whole").splitlines())
    assert abs(first["objective/reverse_kl"]) > 0.001  # an estimate from a few samples may be below zero
    assert first["objective/rlhf_reward"] == pytest.approx(-first["objective/kl"], rel=1e-5)
    assert run.manifest["metrics"]["teacher/gold"] is not None
    assert "score" not in run.manifest["metrics"]
    assert "hardly moved" not in capsys.readouterr().out
    if adapter == "lora":
        return
    with interrupted_in_the_second_update():
        execute(beside_chain("ppo", *options), tmp_path / "ppo")
    execute(beside_chain("ppo", *options, "resume=true"), tmp_path / "ppo")
    assert weights(tmp_path / "ppo") == weights(tmp_path / "whole")
    assert logged(tmp_path / "ppo") == logged(tmp_path / "whole")


def test_a_teacher_of_other_tokens_is_refused(beside_chain: Configure, tmp_path: Path) -> None:
    words = new_tokenizer(["other words"] * 4, 300, chat_template("almanac"))
    for part in (new_policy(words), words):
        part.save_pretrained(tmp_path / "teacher")
    with pytest.raises(LineageError, match=r"stage\.teacher=.*another vocabulary.*: use a teacher with the same"):
        execute(beside_chain("ppo", "stage.reward=null", f"stage.teacher={tmp_path}/teacher"), tmp_path / "ppo")
    assert not (tmp_path / "ppo").exists()


def test_pretraining_text_is_learned_along(beside_chain: Configure, uninterrupted: Path, tmp_path: Path) -> None:
    """In every minibatch; interrupted and continued to the same bytes; the text is part of the run's content."""
    options = (*FASTER, "stage.updates=3", "stage.ptx_coef=0.5", "stage.ptx_block_length=16", "stage.ema=0.5")
    execute(beside_chain("ppo", *options), tmp_path / "whole")
    assert all(json.loads(line)["loss/ptx_avg"] > 0 for line in logged(tmp_path / "whole").splitlines())
    assert weights(tmp_path / "whole") != weights(uninterrupted)
    run = Run.open(tmp_path / "whole")
    assert run.manifest["data"]["text"]["train"]["rows"] == 24
    assert "files.text" in run.manifest["content"] or "data.text.limit" in run.manifest["content"]
    assert "files.text" not in Run.open(uninterrupted).manifest["content"]
    with interrupted_in_the_second_update():
        execute(beside_chain("ppo", *options), tmp_path / "ppo")
    execute(beside_chain("ppo", *options, "resume=true"), tmp_path / "ppo")
    assert weights(tmp_path / "ppo") == weights(tmp_path / "whole")
    assert logged(tmp_path / "ppo") == logged(tmp_path / "whole")


WATCHFUL = (
    "stage.sentinel.window=1",
    "stage.sentinel.kl_max=1e-5",
    "stage.sentinel.kl_min=-1e-5",
    "stage.sentinel.distinct=null",
    "stage.sentinel.repetition=null",
    "stage.sentinel.entropy_share=null",
)


def test_a_diagnosis_is_printed_and_recorded(
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


OWN = """
def score(prompts, completions):
    return [float(len(text)) for text in completions]

def noisy(prompts, completions):
    import random, torch
    return [random.random() + float(torch.rand(())) for _ in completions]
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A file with rewards of the user's own."""
    (tmp_path / "own.py").write_text(OWN)
    return f"{tmp_path}/own.py"


def steps(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in logged(directory).splitlines()]


def test_each_term_is_logged_and_the_total_is_their_weighted_sum(
    chain: Path, beside_chain: Configure, own: str, tmp_path: Path
) -> None:
    terms = (
        f"{{helpful: {{run: {chain}/almanac/reward, weight: 2}}, brief: {{length: {{max: 1}}, weight: 0.1}}, "
        f"mine: {{function: {own}:score, normalization: running}}}}"
    )
    execute(beside_chain("ppo", *FASTER, "stage.reward=null", f"stage.rewards={terms}"), tmp_path / "ppo")
    for line in steps(tmp_path / "ppo"):
        parts = {name: line[f"reward/{name}"] for name in ("helpful", "brief", "mine")}
        assert all(f"reward/{name}_std" in line for name in parts)
        assert -2 < line["objective/gold"] < 2.75
    first = steps(tmp_path / "ppo")[0]  # the running mean is then the batch's own, so that the term has mean 0
    expected = 2 * first["reward/helpful"] + 0.1 * first["reward/brief"]
    assert first["objective/scores"] == pytest.approx(expected, abs=1e-4)
    assert first["reward/mine"] > 0
    run = Run.open(tmp_path / "ppo")
    assert set(run.manifest["parents"]) == {"policy", "rewards.helpful"}
    assert run.manifest["metrics"]["objective/gold"] == steps(tmp_path / "ppo")[-1]["objective/gold"]


def test_gold_has_no_influence_on_the_weights(beside_chain: Configure, uninterrupted: Path, own: str, tmp_path) -> None:
    """For every score, for random numbers that it draws, and for a gold model that is loaded."""
    for name, gold in {"none": "null", "noisy": f"{own}:noisy", "model": None}.items():
        given = "{run: " + beside_chain("ppo").stage.reward + "}" if gold is None else gold
        execute(beside_chain("ppo", *FASTER, f"stage.gold={given}"), tmp_path / name)
        assert weights(tmp_path / name) == weights(uninterrupted)
        for line, usual in zip(steps(tmp_path / name), steps(uninterrupted), strict=True):
            assert ("objective/gold" in line) == (name != "none")
            golden = ("objective/gold", "objective/gold_std")
            assert {k: v for k, v in line.items() if k not in golden} == {
                k: v for k, v in usual.items() if k not in golden
            }
    for line in steps(tmp_path / "model"):
        assert line["objective/gold"] == pytest.approx(line["objective/scores"], abs=1e-5)


def test_without_a_reward_model_the_critic_starts_from_the_policy(
    beside_chain: Configure, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Its head is zero, so that it expects nothing: the first values are 0."""
    heads: list[float] = []
    step = PPOTrainer.step

    def watched(trainer: PPOTrainer, prompts: list) -> dict[str, float]:
        heads.append(trainer.critic.classifier.score.weight.abs().max().item())
        return step(trainer, prompts)

    monkeypatch.setattr(PPOTrainer, "step", watched)
    terms = f"stage.rewards={{mine: {{function: {own}:score}}}}"
    execute(beside_chain("ppo", *FASTER, "stage.reward=null", terms), tmp_path / "ppo")
    assert heads[0] == 0 < heads[1]
    assert "the critic starts from the policy" in capsys.readouterr().out
    assert set(Run.open(tmp_path / "ppo").manifest["parents"]) == {"policy"}


def test_without_vllm_its_engine_is_refused_before_anything_is_read(
    beside_chain: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = beside_chain("ppo", "stage.rollout.engine=vllm", "stage.importance_cap=2")
    with pytest.raises(ModelError, match=r"needs vllm: pip install 'rlhf\[vllm\]', or use engine=transformers"):
        execute(asked, tmp_path / "ppo")
    assert not (tmp_path / "ppo").exists()


class StandIn:
    """In the place of trl.generation.vllm_generation.VLLMGeneration: a copy in this process, as it was asked for."""

    made: ClassVar[dict[str, Any]] = {}

    def __init__(self, model: Any, accelerator: Any, tokenizer: Any, **options: Any):
        StandIn.made = options | {"synced": 0}
        self.model, self.own, self.options = model, copy.deepcopy(model), options

    def sync_weights(self) -> None:
        StandIn.made["synced"] += 1
        self.own.load_state_dict(self.model.state_dict())

    def generate(self, prompts: list[list[int]], images: None, number: int) -> tuple[Any, ...]:
        ends = set(self.options["generation_kwargs"]["stop_token_ids"])
        length, temperature = self.options["max_completion_length"], self.options["temperature"]
        found = sample(self.own, prompts, ends, 0, length, temperature)
        return prompts, [row.ids for row in found], [[[value] for value in row.logprobs] for row in found], None


def test_vllm_is_asked_for_what_the_stage_says_and_follows_the_policy(
    beside_chain: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.stages.ppo.find_spec", lambda name: name == "vllm")
    monkeypatch.setattr("trl.generation.vllm_generation.VLLMGeneration", StandIn)
    asked = beside_chain("ppo", "stage.rollout.engine=vllm", "stage.importance_cap=2")
    metrics = execute(asked, tmp_path / "ppo")
    assert StandIn.made["synced"] == asked.stage.updates
    assert StandIn.made["mode"] == "colocate"
    assert StandIn.made["max_model_length"] == asked.stage.max_prompt_length + asked.stage.max_response_length
    assert metrics["val/sampler_gap"] < 1e-4
    shared = beside_chain("ppo", "stage.rollout.engine=vllm", "stage.importance_cap=2", "adapter=lora")
    monkeypatch.setattr("rlhf.stages.ppo.OneBase", object)
    with pytest.raises(ConfigError, match=r"set stage\.share_base_model=false"):
        execute(shared, tmp_path / "shared")


def test_a_reward_of_other_tokens_leaves_the_critic_to_the_policy(
    chain: Path, beside_chain: Configure, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A critic reads the policy's tokens. One that is asked for and does not is refused."""
    model, tokenizer = new_encoder()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "encoder")
    other = f"stage.rewards={{other: {{run: {tmp_path}/encoder, normalization: running}}}}"
    template = tmp_path / "words.jinja"
    template.write_text("{% for message in messages %}{{ message['content'] }} {% endfor %}")
    given = (*FASTER, "stage.reward=null", other, f"model.chat_template={template}")
    with pytest.raises(LineageError, match=r"stage\.critic=.*another vocabulary"):
        execute(beside_chain("ppo", *given, f"stage.critic={tmp_path}/encoder"), tmp_path / "refused")
    execute(beside_chain("ppo", *given), tmp_path / "ppo")
    assert "the critic starts from the policy" in capsys.readouterr().out
    execute(beside_chain("ppo", *given, f"stage.critic={chain}/almanac/reward"), tmp_path / "given")
    assert "the critic starts from the policy" not in capsys.readouterr().out
    assert weights(tmp_path / "given") != weights(tmp_path / "ppo")
    assert set(Run.open(tmp_path / "given").manifest["parents"]) == {"policy", "critic", "rewards.other"}


def test_running_statistics_are_resumed(beside_chain: Configure, own: str, tmp_path: Path) -> None:
    terms = ("stage.reward=null", f"stage.rewards={{mine: {{function: {own}:score, normalization: running}}}}")
    execute(beside_chain("ppo", *FASTER, *terms), tmp_path / "straight")
    with interrupted_in_the_second_update():
        execute(beside_chain("ppo", *FASTER, *terms), tmp_path / "ppo")
    execute(beside_chain("ppo", *FASTER, *terms, "resume=true"), tmp_path / "ppo")
    assert weights(tmp_path / "ppo") == weights(tmp_path / "straight")
    assert logged(tmp_path / "ppo") == logged(tmp_path / "straight")


def test_prompts_that_are_too_long_are_left_out_and_each_is_tokenized_once(
    beside_chain: Configure, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked.jsonl"
    texts = [f"What is {n}?" for n in range(12)] + [
        "It grew and grew. " * 20 + f"How tall is tree {n}?" for n in range(8)
    ]
    asked.write_text("".join(json.dumps({"prompt": [{"role": "user", "content": text}]}) + "\n" for text in texts))
    seen: list[list[int]] = []
    found = sample

    def spy(policy: Any, rows: Any, *others: Any, **options: Any) -> Any:
        seen.extend(list(row) for row in rows)
        return found(policy, rows, *others, **options)

    monkeypatch.setattr("rlhf.ppo.collector.sample", spy)
    data = [f"data.path={asked}", "data.allow_leaks=true", "stage.max_prompt_length=40", "eval_set.prompts=0"]
    monkeypatch.setattr("rlhf.ppo.responses.prompt_ids", None)  # what the cache holds is not rendered again
    execute(beside_chain("ppo", *data), tmp_path / "ppo")
    counts = Run.open(tmp_path / "ppo").manifest["data"]["prompts"]["train"]
    left_out = counts["prompt longer than max_prompt_length, left out"]
    assert 0 < left_out <= 8
    out = capsys.readouterr().out
    assert f"ppo: {left_out} of {counts['rows']} rows of prompts/train: prompt longer than max_prompt_length" in out
    assert seen
    assert len({row[0] for row in seen}) == 1  # the template's own first token
    assert re.search(
        r"ppo: update 1: \d of 4 responses ended: \d scores? replaced by -1; set stage.missing_eos=keep", out
    )
    assert "EOS rate" in out


def test_prompts_that_are_all_too_long_are_refused(beside_chain: Configure, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"every prompt of data.prompts \(train\) is longer than stage.max_prompt_length=2"
    ):
        execute(beside_chain("ppo", "stage.max_prompt_length=2"), tmp_path / "ppo")
    assert not (tmp_path / "ppo").exists()


def test_a_reward_that_does_not_exist_is_reported_before_a_model_is_loaded(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.modeling.loading.load_policy", None)
    for given in ("stage.rewards={a: {function: 'nowhere:score'}}", "stage.gold=nowhere:score"):
        with pytest.raises(ConfigError, match="the reward 'nowhere:score' cannot be imported"):
            execute(beside_chain("ppo", given), tmp_path / "ppo")
    token = "stage.rewards={a: {remote: {url: 'http://127.0.0.1:9', token_variable: NOT_SET_HERE}}}"
    with pytest.raises(ConfigError, match="NOT_SET_HERE, which is not set"):
        execute(beside_chain("ppo", token), tmp_path / "ppo")
