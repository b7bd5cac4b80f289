"""docs/: every command composes and runs, every snippet runs, every setting exists, every table is the measured one."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import plan_memory, progression, reward_card, reward_robust, table
from rlhf.cli import main
from rlhf.cli.overrides import named_by_path
from rlhf.config import CHAINS, STAGES
from rlhf.evaluation.comparison.comparison import CHANGE, DOMAIN, TASK, TAX
from rlhf.evaluation.reporting.tables import JUDGES, LABELS
from rlhf.storage.paths import PACKAGE, bundled
from tests.conftest import FAST, TINY, composed
from tests.docs import PAGES, README, ROOT, blocks, columns, commands, page, repeats, runnable, scripts, section, small
from tests.hub.server import Hub
from tests.test_layers import LAYERS

TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in (*PAGES, README, ROOT / "AGENTS.md")}
COMMANDS = {" ".join(arguments): arguments for text in TEXTS.values() for arguments in commands(text)}
# Page -> the commands that run there. Those of README.md run in test_readme.py, those of publishing.md below.
RUN = {
    path.stem: [
        arguments
        for arguments in commands(TEXTS[path.stem])
        if arguments not in commands(TEXTS["README"])
        and runnable(arguments)
        and not repeats(arguments)
        and not {"stage=progression", "stage=publish", "stage=ladder", "stage=overoptimize"} & set(arguments)
    ]
    for path in PAGES
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command: str) -> None:
    arguments = COMMANDS[command]
    given = [item for item in named_by_path(arguments) if not item.startswith(("-", "hydra")) and item != "job"]
    swept = "-m" in arguments
    single = [re.sub(r"^([\w.]+)=([^\[{,]+),.*", r"\1=\2", item) if swept else item for item in given]
    assert composed(*single).stage.name == next(
        (i.partition("=")[2] for i in single if i.startswith("stage=")), "status"
    )


@pytest.mark.parametrize("name", sorted({name for text in TEXTS.values() for name in scripts(text)}))
def test_every_benchmark_exists(name: str) -> None:
    assert (ROOT / "benchmarks" / f"{name}.py").exists()


@pytest.mark.parametrize("name", [name for name, found in RUN.items() if found])
def test_every_command_of_a_page_runs(
    name: str, elsewhere: Path, aligned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(aligned, "checkpoints")
    shutil.copytree(aligned / "almanac" / "sft", "checkpoints/mine/sft")
    for arguments in RUN[name]:
        monkeypatch.setattr("sys.argv", ["rlhf", *small(arguments)])
        main.main()


def test_most_commands_run() -> None:
    assert sum(map(len, RUN.values())) > 20


def test_the_publishing_page_runs(aligned: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = commands(TEXTS["publishing"])
    assert len(found) == 5
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_youwrite00001")
    Path("checkpoints").symlink_to(aligned)
    for arguments in found:
        stage = arguments[0].removeprefix("stage=")
        monkeypatch.setattr("sys.argv", ["rlhf", *arguments, "hardware=cpu", *TINY, *FAST[stage]])
        main.main()
    assert {repo for _, repo in hub.repos} == {
        f"you/almanac-{name}" for name in ("base", "sft", "reward", "ppo", "dpo")
    }
    assert set(hub.repos["models", "you/almanac-dpo"].branches) == {"main", "bfloat16"}
    assert Path("checkpoints/onward/dpo/run.json").exists()


SNIPPETS = [(path.stem, code) for path in PAGES if path.stem != "ppo" for code in blocks(TEXTS[path.stem], "python")]


@pytest.mark.parametrize(("name", "code"), SNIPPETS, ids=[name for name, _ in SNIPPETS])
def test_every_snippet_runs_as_printed(
    name: str, code: str, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").symlink_to(aligned)
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names) > 1


LOGGED = {"sft": ("base", "sft"), "reward": ("reward",), "dpo": ("dpo",), "kto": ("kto",)}


@pytest.mark.parametrize("name", LOGGED)
def test_every_logged_metric_is_explained(name: str, aligned: Path) -> None:
    lines = [
        json.loads(line)
        for stage in LOGGED[name]
        for line in (aligned / "almanac" / stage / "metrics.jsonl").read_text().splitlines()
    ]
    assert columns(section(TEXTS[name], "Metrics")) == {key for line in lines for key in line} - {"step"}


def test_every_metric_of_the_comparison_is_explained() -> None:
    judged = {f"{key}/{judge}" for key in LABELS if key.startswith("win_rate") for judge in JUDGES}
    named = {f"{group}/<name>" for group in (DOMAIN, TAX)} | {f"{group}/<task>:<metric>" for group in (TASK, CHANGE)}
    labeled = {key for key in LABELS if "win_rate" not in key}
    assert columns(section(TEXTS["compare"], "Metrics")) == labeled | judged | named


def test_every_setting_that_is_named_exists() -> None:
    known = set()
    for path in bundled("conf").rglob("*.yaml"):
        group = path.parent.name
        for key in re.findall(r"^ *([a-z_]+):", path.read_text(encoding="utf-8"), re.MULTILINE):
            known.add(f"{group}.{key}")
    pattern = r"`((?:stage|hardware|data|judge|model)\.[a-z_.]+)"
    named = {found for text in TEXTS.values() for found in re.findall(pattern, text)}
    assert len(named) > 60
    parts = {name: name.rstrip(".").split(".") for name in named - {"data.json"}}
    assert not [name for name, (group, *_, key) in parts.items() if f"{group}.{key}" not in known]
    assert set(STAGES) >= {name for text in TEXTS.values() for name in re.findall(r"stage=([a-z_]+)", text)}


def test_the_tables_are_the_measured_ones() -> None:
    result = json.loads(progression.RESULT.read_text())
    rows = result["seeds"]
    assert "\n".join(progression.table(rows)) in TEXTS["results"]
    assert "\n".join(["<!-- table over seeds -->", *result["published"], "<!-- end -->"]) in TEXTS["results"]
    found = [progression.checks(row) for row in rows]
    assert len(found) == 10
    near = [one.pop("reward model within 0.03 of the ceiling") for one in found]
    assert all(all(one.values()) for one in found)
    assert near.count(False) == 1  # seed 3, as the page says
    sweep = json.loads((ROOT / "benchmarks" / "sweep.json").read_text())
    assert "\n".join(["<!-- sweep -->", *sweep["published"], "<!-- end -->"]) in TEXTS["sweeps"]
    ladder = json.loads((ROOT / "benchmarks" / "ladder.json").read_text())
    for title, lines in {"ladder": ladder["published"], "advantages": ladder["published_rl"]}.items():
        assert "\n".join(["<!-- ladder -->", *lines, "<!-- end -->"]) in TEXTS[title]
    laws = json.loads((ROOT / "benchmarks" / "overoptimize.json").read_text())["published"]
    assert "\n".join(["<!-- overoptimize -->", *laws, "<!-- end -->"]) in TEXTS["ladder"]
    robust = json.loads(reward_robust.RESULT.read_text())["rows"]
    assert "\n".join(reward_robust.table(robust)) in TEXTS["reward"]
    assert "\n".join(reward_card.table(json.loads(reward_card.RESULT.read_text())["sets"])) in TEXTS["reward"]
    assert "\n".join(table.lines(table.HERE)) in TEXTS["results"]
    assert "\n".join(plan_memory.table(plan_memory.stored("rows"))) in TEXTS["planning"]


@pytest.mark.parametrize("name", TEXTS)
def test_every_table_has_a_head_and_rows_of_equal_length(name: str) -> None:
    """An empty line within a table ends it; a pipe in a cell begins another one, also in backticks."""
    text = re.sub(r"^```.*?^```", "", TEXTS[name], flags=re.DOTALL | re.MULTILINE)
    for rows in (found.splitlines() for found in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)):
        assert len(rows) > 2, rows
        assert re.fullmatch(r"\|[|: -]+\|", rows[1]), rows[0]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, rows[0]


def test_every_test_that_is_named_exists() -> None:
    every = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    named = {name for text in TEXTS.values() for name in re.findall(r"`(test_\w+)`", text)}
    assert len(named) > 60
    assert not [name for name in named if f"def {name}(" not in every]


def test_the_table_of_tests_has_every_method_and_every_cell_a_test_or_a_reason() -> None:
    lines = [line for line in section(TEXTS["ladder"], "Tested with every method").splitlines() if line.startswith("|")]
    rows = {row[0]: row[1:] for row in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])}
    named = re.findall(r"`([a-z_]+)`", " ".join(rows))
    assert {*named} >= {"kto", "dpo", "online_dpo", "raft", "ppo", "merge", *({*CHAINS} - {"progression"})}
    for title, (processes, *cells) in rows.items():
        assert all(cells), title
        assert "`test_" in cells[0] or cells[0] == "the same", title
        assert processes.startswith(("`test_", "the same", "one: `test_", "as `ladder`")), title


def test_the_site_has_every_page() -> None:
    def pages(item: Any) -> list[str]:
        return [item] if isinstance(item, str) else [name for part in item for name in pages(*part.values())]

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(pages(nav)) == [path.name for path in PAGES]


def test_every_link_leads_to_a_page_and_a_heading() -> None:
    for name in (path.stem for path in PAGES):
        for target, anchor in re.findall(r"\]\(([\w./]*)(?:#([\w-]+))?\)", TEXTS[name]):
            assert not target or (ROOT / "docs" / target).exists(), f"{name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)", page(Path(target).stem) if target else TEXTS[name], re.MULTILINE)
                slugs = {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", one).strip().lower()) for one in headings}
                assert anchor in slugs, f"{name}: {target}#{anchor}"


def test_the_layers_of_contributing_are_those_that_are_tested() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [layers] = [block for block in blocks(text, "text") if " < " in block]
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert re.findall(r"\w+", layers) == [name for name in LAYERS if name in packages]
    assert columns(section(text, "Layers")) == packages
