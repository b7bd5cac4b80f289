"""Every command in README.md runs, in the order in which it stands there, on a tiny model."""

import json
import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from benchmarks import progression, reward_card
from rlhf.cli import main
from rlhf.storage.paths import PACKAGE
from tests.conftest import FAST, TINY
from tests.hub.server import Hub

README = PACKAGE.parent / "README.md"
STAGES = ("base", "sft", "reward", "dpo", "ppo", "compare")

pytestmark = pytest.mark.skipif(not README.exists(), reason="README.md is not in an installed wheel")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language; of none for ``""``."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in fences if name == language]


def commands() -> list[list[str]]:
    """The arguments of every `python -m rlhf` in a bash block."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part)[3:] for part in parts if part.startswith("python -m rlhf")]


def small(arguments: list[str], chain: Path) -> list[str]:
    """``arguments`` with what makes the run last a second appended."""
    given = dict(item.split("=", 1) for item in arguments if "=" in item)
    stages = given.get("stage", "status").split(",")
    more = [
        "hardware.device=cpu" if "hardware" in given else "hardware=cpu",
        *(TINY if given.get("experiment", "almanac") == "almanac" else ()),
    ]
    if given.get("experiment", "almanac") not in ("almanac", "none"):
        return []  # a real model's: tests/test_experiments.py runs each with a substitute
    if given.get("seed") == "1,2":  # one will do; the later override wins
        more.append("seed=1")
    if "sweep" in given:  # a search
        more.append("hydra.sweeper.n_trials=2")
    if "you/" in " ".join(arguments):
        return []  # of the Hub: the next test runs them
    if stages == ["progression"]:
        own = ", ".join(f"{name}: [{', '.join(map(repr, FAST[name]))}]" for name in STAGES)
        return [*arguments, *more, f"stage.overrides={{{own}}}"]
    if len(stages) > 1:  # settings of a stage cannot stand beside a sweep over stages; recipes can
        return [
            "--config-dir",
            "quick",
            *(item for item in arguments if "experiment" not in item),
            *more,
            "experiment=quick",
        ]
    return [*arguments, *more, *FAST.get(stages[0], ())]


@pytest.fixture
def elsewhere(chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's directory, with the files that the README takes for granted."""
    monkeypatch.chdir(tmp_path)
    Path("my_model").symlink_to(chain / "almanac" / "base" / "model")
    asked = [f"What is {n}?" for n in range(60)]
    demonstrations = [{"prompt": text, "completion": "It is."} for text in asked]
    pairs = [{"prompt": text, "chosen": "It is.", "rejected": "No."} for text in asked]
    for name, rows in {"my_demonstrations": demonstrations, "my_pairs": pairs}.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [code] = blocks("python")
    Path("my_reward.py").write_text(code[code.index("def ") : code.index("\n\n\ntrainer")])
    for stage in STAGES:
        recipe = Path("quick") / "recipe" / f"quick-{stage}.yaml"
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(f"# @package _global_\n{OmegaConf.to_yaml(OmegaConf.from_dotlist(list(FAST[stage])))}")
    Path("quick/experiment").mkdir()
    Path("quick/experiment/quick.yaml").write_text("# @package _global_\nname: quick\n")
    return tmp_path


def test_every_command_runs(elsewhere: Path, chain: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    found = commands()
    assert len(found) >= 12
    for arguments in found:
        if any(item.startswith("name=mine") for item in arguments) and "stage=dpo" in arguments:
            assert Path("checkpoints/mine/sft/run.json").exists()
        run = small(arguments, chain)
        if run and not _repeats(arguments):
            monkeypatch.setattr("sys.argv", ["rlhf", *run])
            main.main()
    for name in ("almanac/compare", "mine/dpo", "almanac/dpo/stage.beta-0.1"):
        assert list(Path("checkpoints").glob(f"{name}*/run.json")), name


def test_the_publishing_section_runs(aligned: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = README.read_text(encoding="utf-8")
    section = text.partition("\n## Publishing\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("python -m rlhf")]
    assert len(lines) == 5
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_youwrite00001")
    Path("checkpoints").symlink_to(aligned)
    for line in lines:
        arguments = shlex.split(line)[3:]
        stage = arguments[0].removeprefix("stage=")
        monkeypatch.setattr("sys.argv", ["rlhf", *arguments, "hardware=cpu", *TINY, *FAST[stage]])
        main.main()
    assert {repo for _, repo in hub.repos} == {
        f"you/almanac-{name}" for name in ("base", "sft", "reward", "ppo", "dpo")
    }
    assert set(hub.repos["models", "you/almanac-dpo"].branches) == {"main", "bfloat16"}
    assert Path("checkpoints/onward/dpo/run.json").exists()


def _repeats(arguments: list[str]) -> bool:
    """The stages that `stage=progression` has just run are finished: their commands would be refused, rightly."""
    return len(arguments) == 1 and arguments[0].removeprefix("stage=") in STAGES


def test_the_test_line_is_what_ci_runs() -> None:
    text = README.read_text(encoding="utf-8")
    section = text[text.index("<!-- test line -->") : text.index("<!-- end -->")]
    assert 'pip install -e ".[test]" -c constraints.txt && pytest' in section
    ci = (README.parent / ".ci" / "run").read_text(encoding="utf-8")
    assert "<!-- test line -->" in ci


def test_the_mistake_that_is_shown_is_answered_so(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = next(block for block in blocks("") if block.startswith("$ python -m rlhf"))
    command, answer = shown.strip().splitlines()
    monkeypatch.setattr("sys.argv", ["rlhf", *shlex.split(command)[4:]])
    with pytest.raises(SystemExit):
        main.main()
    assert capsys.readouterr().err.strip() == answer


def test_the_rows_that_are_shown_are_read(tmp_path: Path) -> None:
    from rlhf.data import load
    from tests.conftest import composed

    rows = next(block for block in blocks("") if block.startswith('{"prompt"')).strip().splitlines()
    for kind, row in zip(("demonstrations", "preferences", "prompts"), rows, strict=True):
        many = [row.replace("Peru", name) for name in ("Peru", "Chile", "Cuba", "Mali", "Oman", "Iran", "Iraq", "Togo")]
        (tmp_path / "rows.jsonl").write_text("\n".join(many) + "\n")
        settings = composed(f"data.path={tmp_path}/rows.jsonl", "data.holdout=0.3")
        assert len(load(settings.data, kind, "train", 0)) + len(load(settings.data, kind, "validation", 0)) == 8


def test_the_reward_of_ones_own_trains(chain: Path) -> None:
    import copy

    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    sft, reward = chain / "almanac" / "sft" / "model", chain / "almanac" / "reward" / "model"
    policy = AutoModelForCausalLM.from_pretrained(sft)
    names = {
        "policy": policy,
        "reference": copy.deepcopy(policy),
        "reward_model": AutoModelForSequenceClassification.from_pretrained(reward),
        "tokenizer": AutoTokenizer.from_pretrained(sft),
        "prompts": ["What is the capital of Peru?", "Name the first planet."],
    }
    [code] = blocks("python")
    exec(code, names)  # the README's own text
    assert names["trainer"].update == 2


def test_the_results_are_those_that_were_measured() -> None:
    result = json.loads(progression.RESULT.read_text())
    rows, text = result["seeds"], README.read_text(encoding="utf-8")
    assert "\n".join(progression.table(rows)) in text
    assert "\n".join(["<!-- table over seeds -->", *result["published"], "<!-- end -->"]) in text
    for path in re.findall(r"\]\((benchmarks/figures/[^)]+)\)", text):
        assert (README.parent / path).exists(), path
    for row in rows:
        assert all(progression.checks(row).values()), row["seed"]
    sweep = json.loads((README.parent / "benchmarks" / "sweep.json").read_text())
    assert "\n".join(["<!-- sweep -->", *sweep["published"], "<!-- end -->"]) in text
    assert all(command in text for command in sweep["commands"])
    for row, line in zip(sweep["rows"], sweep["published"][2:], strict=True):
        assert f"{row['metrics']['gold']['mean']:.3f} ±{row['metrics']['gold']['deviation']:.3f}" in line
    cards = json.loads(reward_card.RESULT.read_text())["sets"]
    assert "\n".join(reward_card.table(cards)) in README.read_text(encoding="utf-8")


def test_the_file_tree_is_the_checkout() -> None:
    tree = next(block for block in blocks("") if block.startswith("rlhf/"))
    for line in tree.splitlines():
        path = line.split()[0]
        assert (README.parent / path).exists(), path
