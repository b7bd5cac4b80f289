import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.errors import ConfigError, DataError, LineageError
from rlhf.evaluation.comparison.scoring import trained_on
from rlhf.modeling import loading as models
from rlhf.runs.parents import Parent
from rlhf.runs.run import Run
from rlhf.stages import execute
from tests.conftest import composed, tiny_overrides

Configure = Callable[..., Settings]


@pytest.fixture
def compare(chain: Path, tmp_path: Path) -> Configure:
    """Settings that compare the chain's runs and write below the test's own directory."""

    def of(models: str, *overrides: str) -> Settings:
        given = f"stage.models={{{models.format(chain=f'{chain}/almanac')}}}"
        reward = f"stage.reward={chain}/almanac/reward"
        return composed(*tiny_overrides("compare", tmp_path), given, reward, *overrides)

    return of


def read(directory: Path) -> dict:
    return json.loads((directory / "metrics.json").read_text(encoding="utf-8"))


def test_base_against_sft(compare: Configure, tmp_path: Path) -> None:
    final = execute(compare("base: {chain}/base, sft: {chain}/sft"), tmp_path / "compare")
    assert Run.open(tmp_path / "compare").manifest["metrics"] == final
    assert {"gold/base", "gold/sft", "reward/sft", "win_rate/gold/base", "text/perplexity/sft"} <= set(final)
    found = read(tmp_path / "compare")
    assert found["models"]["base"]["gold"]["mean"] == final["gold/base"]
    assert found["notes"] == ["base was prompted without a chat template."]
    assert "kl" not in found["models"]["base"]  # of another prompt
    lines = [json.loads(line) for line in (tmp_path / "compare" / "responses.jsonl").read_text().splitlines()]
    assert len(lines) == 6 * 2 * 2
    assert all({"gold", "reward", "ended", "length"} <= set(line) for line in lines)
    mean = sum(line["gold"] for line in lines if line["model"] == "sft") / 12
    assert final["gold/sft"] == pytest.approx(mean)
    record = Run.open(tmp_path / "compare").manifest["data"]
    assert set(record) == {"prompts", "text", "preferences"}
    assert found["costs"]["sft"]["tokens"] > 0
    assert found["costs"]["reward"]["seconds"] > 0
    assert sum(one["count"] for one in found["reward_model"]["bins"]) == record["preferences"]["test"]["rows"] == 24
    assert {"win_rate_previous/gold/sft", "win_rate/lc/reward/base"} <= set(final)
    assert found["previous"] == {"base": None, "sft": "base"}
    assert [(line["level"], line["name"]) for line in found["tree"]] == [(0, "base"), (1, "sft")]
    page = (tmp_path / "compare" / "report.html").read_text(encoding="utf-8")
    assert "Who won the World Cup?" in page
    assert "Training of reward" in page


def test_domains_are_measured_on_every_column(compare: Configure, tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) + "\n" for text in ("def f(x):", "return x", "for i in y:")]
    (tmp_path / "code.jsonl").write_text("".join(lines))
    settings = compare("base: {chain}/base, sft: {chain}/sft", f"stage.domains={{code: {tmp_path}/code.jsonl}}")
    metrics = execute(settings, tmp_path / "compare")
    assert metrics["text/tax/code/base"] == pytest.approx(
        metrics["text/domain/code/base"] - metrics["text/domain/code/sft"], abs=1e-9
    )
    assert "text/tax/code/sft" not in metrics
    assert "Alignment tax" in (tmp_path / "compare" / "report.md").read_text()


def test_equal_settings_give_equal_bytes(compare: Configure, tmp_path: Path) -> None:
    models = "base: {chain}/base, sft: {chain}/sft"
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        execute(compare(models, f"seed={seed}"), tmp_path / name)
    for file in ("metrics.json", "report.md", "report.html", "responses.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "same" / file).read_bytes()
        assert (tmp_path / "one" / file).read_bytes() != (tmp_path / "other" / file).read_bytes()


def test_a_copy_of_the_reference_does_not_diverge_from_it(compare: Configure, tmp_path: Path) -> None:
    execute(compare("sft: {chain}/sft, again: {chain}/sft"), tmp_path / "compare")
    again = read(tmp_path / "compare")["models"]["again"]
    assert again["kl"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert again["text/perplexity"] == read(tmp_path / "compare")["models"]["sft"]["text/perplexity"]


def test_a_model_folder_without_a_chat_template_is_asked_in_plain_text(
    compare: Configure, chain: Path, tmp_path: Path
) -> None:
    """As a base model on the Hub comes; the template of ``model=`` does not teach it turns."""
    for name in ("with", "without"):
        shutil.copytree(chain / "almanac" / "sft" / "model", tmp_path / name)
    (tmp_path / "without" / "chat_template.jinja").unlink()
    models = f"sft: {{chain}}/sft, with: {tmp_path}/with, without: {tmp_path}/without"
    execute(compare(models), tmp_path / "compare")
    found = read(tmp_path / "compare")
    assert found["notes"] == ["without was prompted without a chat template."]
    assert found["models"]["with"]["kl"]["mean"] == 0.0
    assert "kl" not in found["models"]["without"]


def test_stages_that_are_not_there_yet_are_left_out_and_named(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The columns of the progression itself, where neither dpo nor ppo has run."""
    root = tmp_path / "checkpoints"
    shutil.copytree(chain, root)
    shutil.rmtree(root / "almanac" / "reward")
    settings = composed(*tiny_overrides("compare", root), f"model.pretrained={root}/almanac/base")
    execute(settings, root / "almanac" / "compare")
    found = read(root / "almanac" / "compare")
    assert list(found["models"]) == ["base", "sft"]
    told = " ".join(found["notes"])
    assert "Left out, because they do not exist yet: dpo, ppo, online_dpo, raft, kto, merge." in told
    assert f"No response is scored by a reward model: {root}/almanac/reward is not there." in told
    assert "reward" not in found["models"]["sft"]


def test_a_column_that_is_null_is_left_out_in_silence(compare: Configure, tmp_path: Path) -> None:
    execute(compare("base: null, sft: {chain}/sft"), tmp_path / "compare")
    assert read(tmp_path / "compare")["notes"] == []
    assert list(read(tmp_path / "compare")["models"]) == ["sft"]


@pytest.mark.parametrize("models", ["sft: {chain}/sfft", "sft: {chain}/sft, mine: {chain}/pppo"])
def test_a_given_run_that_is_missing_is_refused(compare: Configure, tmp_path: Path, models: str) -> None:
    with pytest.raises(LineageError, match=r"sfft|pppo"):
        execute(compare(models), tmp_path / "compare")
    assert not (tmp_path / "compare").exists()


@pytest.mark.parametrize("reward", ["null", "checkpoints/nobody/reward"])
def test_a_world_without_gold_and_without_a_reward_model_cannot_be_compared(
    compare: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reward: str
) -> None:
    """Said before a model is loaded."""
    monkeypatch.setattr(models, "load_policy", None)
    settings = compare("sft: {chain}/sft", "data.gold=null", "data.judge=null", f"stage.reward={reward}")
    with pytest.raises(LineageError, match=r"stage=reward.*data\.gold"):
        execute(settings, tmp_path / "compare")
    assert not (tmp_path / "compare").exists()


@pytest.mark.parametrize("key", ["gold", "judge"])
def test_a_function_that_cannot_be_imported_is_refused_before_a_model_is_loaded(
    compare: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr(models, "load_policy", None)
    with pytest.raises(ConfigError, match=r"rlhf\.almanac:nothing"):
        execute(compare("sft: {chain}/sft", f"data.{key}=rlhf.almanac:nothing"), tmp_path / "compare")


def test_without_gold_the_reward_model_decides(compare: Configure, tmp_path: Path) -> None:
    settings = compare("base: {chain}/base, sft: {chain}/sft", "data.gold=null", "data.judge=null")
    execute(settings, tmp_path / "compare")
    found = read(tmp_path / "compare")["models"]["base"]
    assert {"reward", "win_rate/reward"} <= set(found)
    assert not [name for name in found if "gold" in name or "correct" in name or "format" in name]


def test_the_command_that_makes_a_missing_reference_is_named(tmp_path: Path) -> None:
    with pytest.raises(LineageError, match=r"run stage=sft first: python -m rlhf stage=sft"):
        execute(composed(*tiny_overrides("compare", tmp_path)), tmp_path / "compare")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("sft: null, base: {chain}/base", "stage.reference=sft is not among stage.models"),
        ("sft: {chain}/sft, reward: {chain}/base", "stage.models must not use the title of the reward model"),
        ("sft: {chain}/sft, judge: {chain}/base", "stage.models must not use the title of the judge"),
    ],
)
def test_titles_that_cannot_be_are_refused(compare: Configure, given: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        compare(given)


def test_what_was_trained_on_the_judging_reward_model_is_said(
    beside_chain: Configure, compare: Configure, tmp_path: Path
) -> None:
    execute(beside_chain("ppo"), tmp_path / "ppo")
    execute(compare(f"sft: {{chain}}/sft, ppo: {tmp_path}/ppo"), tmp_path / "compare")
    found = read(tmp_path / "compare")
    assert found["notes"] == ["Win rates by the reward model favor models that were trained on it: ppo."]
    assert found["models"]["ppo"]["kl"]["mean"] != 0
    assert list(found["over_optimization"]) == [f"{tmp_path}/ppo"]


def test_ppo_runs_below_a_folder_are_on_the_frontier(
    beside_chain: Configure, compare: Configure, tmp_path: Path
) -> None:
    execute(beside_chain("ppo"), tmp_path / "many" / "ppo" / "seed-1")
    execute(compare("sft: {chain}/sft", f"stage.frontier={tmp_path}/many"), tmp_path / "compare")
    assert list(read(tmp_path / "compare")["over_optimization"]) == [f"{tmp_path}/many/ppo/seed-1"]
    execute(compare("base: {chain}/base", "stage.reference=base", f"stage.frontier={tmp_path}/many"), tmp_path / "base")
    assert read(tmp_path / "base")["over_optimization"] == {}  # it does not start from base


def test_other_seeds_give_a_spread(compare: Configure, tmp_path: Path) -> None:
    for seed in (1, 2):
        execute(compare("sft: {chain}/sft", f"seed={seed}"), tmp_path / f"seed-{seed}" / "compare")
    execute(compare("sft: {chain}/sft", f"stage.seeds={tmp_path}/seed-*/compare"), tmp_path / "compare")
    found = read(tmp_path / "compare")["over_seeds"]
    assert found["seeds"] == [0, 1, 2]
    folders = ("compare", "seed-1/compare", "seed-2/compare")
    golds = [read(tmp_path / folder)["models"]["sft"]["gold"]["mean"] for folder in folders]
    assert found["metrics"]["sft"]["gold"][0] == pytest.approx(sum(golds) / 3)
    assert "Over seeds 0, 1, 2" in (tmp_path / "compare" / "report.md").read_text(encoding="utf-8")


def test_a_judge_compares_with_the_reference_and_with_the_stage_before(compare: Configure, tmp_path: Path) -> None:
    models = "base: {chain}/base, sft: {chain}/sft, again: {chain}/sft"
    settings = compare(
        models, "judge=function", "judge.function=rlhf.almanac:gold", "stage.reward=null", "stage.pairs=0"
    )
    final = execute(settings, tmp_path / "compare")
    found = read(tmp_path / "compare")["models"]
    assert {"win_rate/judge", "win_rate/lc/judge", "win_rate_previous/judge"} <= set(found["again"])
    assert "win_rate/judge" not in found["sft"]
    assert final["win_rate_previous/judge/sft"] == pytest.approx(1 - final["win_rate/judge/base"])
    assert "The judge is rlhf.almanac:gold (function)." in read(tmp_path / "compare")["notes"]
    assert read(tmp_path / "compare")["reward_model"] is None


def test_people_are_asked_elsewhere(compare: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load_policy", None)
    with pytest.raises(ConfigError, match="judge=person cannot be asked by stage=compare: .* stage=label"):
        execute(compare("sft: {chain}/sft", "judge=person"), tmp_path / "compare")


def test_what_was_trained_on_the_judge_is_said(beside_chain: Configure, compare: Configure, tmp_path: Path) -> None:
    execute(beside_chain("ppo"), tmp_path / "ppo")
    judge = compare("sft: {chain}/sft").stage.reward
    given = f"sft: {{chain}}/sft, ppo: {tmp_path}/ppo"
    settings = compare(given, "judge=reward", f"judge.model={judge}", "judge.limit=3", "stage.reward=null")
    execute(settings, tmp_path / "compare")
    found = read(tmp_path / "compare")
    assert "Win rates by the judge favor models that were trained on it: ppo." in found["notes"]
    assert "win_rate/judge" in found["models"]["ppo"]


def test_prompts_with_instructions_need_no_reward(compare: Configure, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Say {i}."}],
            "instruction_id_list": kinds,
            "kwargs": [{}] * len(kinds),
        }
        for i, kinds in enumerate([["punctuation:no_comma"], ["punctuation:no_comma", "startend:quotation"]] * 3)
    ]
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = [
        "experiment=none",
        "data=local",
        f"data.prompts.path={folder}",
        "data.prompts.test=test",
        "stage.reward=null",
    ]
    settings = compare("base: {chain}/base, sft: {chain}/sft", *prompts)
    execute(settings, tmp_path / "compare")
    found = read(tmp_path / "compare")["models"]["sft"]
    assert {"instructions/prompts", "instructions/all", "instructions/kind/startend:quotation"} <= set(found)
    assert not [name for name in found if "win_rate" in name]


def test_an_instruction_that_cannot_be_checked_is_reported_before_a_model_is_loaded(
    compare: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load_policy", None)
    row = {"prompt": "Say it.", "instruction_id_list": ["keywords:rhyme"], "kwargs": [{}]}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    prompts = ["experiment=none", "data=local", f"data.prompts.path={tmp_path}", "data.prompts.test=test"]
    with pytest.raises(DataError, match="keywords:rhyme"):
        execute(compare("sft: {chain}/sft", *prompts), tmp_path / "compare")


def test_a_reward_model_that_was_one_term_among_others_was_trained_on_too() -> None:
    def run(**parents: str) -> dict[str, Parent]:
        records = {role.replace("_", "."): {"digest": digest} for role, digest in parents.items()}
        judge = Parent("reward", "checkpoints/x/reward", {"parents": {}, "weights": "r"})
        return {"ppo": Parent("ppo", "checkpoints/x/ppo", {"parents": records}), "reward": judge}

    assert trained_on(run(policy="p", reward="r"), "ppo", "reward")
    assert trained_on(run(policy="p", rewards_careful_0="other", rewards_careful_1="r"), "ppo", "reward")
    assert not trained_on(run(policy="r", critic="r", gold="r", rewards_a="other"), "ppo", "reward")
