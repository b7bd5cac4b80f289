"""What was measured, as a table."""

import json
from pathlib import Path

import pytest

from benchmarks import table
from tests.benchmarks.test_sides import measured

HEAD = {
    "command": "python -m benchmarks.dpo",
    "date": "2026-11-25",
    "machine": {"cpu": "a processor", "cores": 2, "python": "3.11.7"},
    "versions": {"torch": "2.13.0", "trl": "1.16.0"},
}


def test_rows_go_to_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dpo.json").write_text(json.dumps(HEAD | {"rows": [measured(2.5), measured(None)]}))
    scored = measured(3.0)
    for side in scored["sides"].values():
        side["utilization"] = None
    (tmp_path / "scoring.json").write_text(json.dumps(HEAD | {"rows": [scored | {"work": "scores"}]}))
    sides = {"ours": {"cpu": 0.02, "seconds": 0.03}, "trl": {"cpu": 0.3, "seconds": 0.31}}
    row = {"work": "help", "against": "trl 1.16", "ratio": 15.0, "spread": [14.0, 16.0], "rounds": 3, "sides": sides}
    (tmp_path / "startup.json").write_text(json.dumps(HEAD | {"rows": [row]}))
    parts = {"phases": {"sampling": 0.25, "learning": 0.75}, "kinds": {"matrix products": 0.66, "others": 0.34}}
    spent = {"work": "PPO", "cpu_seconds": 13.1, "the_least": 9.5, **parts, "products_of_peak": 0.9}
    (tmp_path / "ppo_profile.json").write_text(json.dumps(HEAD | {"rows": [spent]}))
    (tmp_path / "ppo_profile_ways.json").write_text(json.dumps(HEAD | {"rows": [spent | {"work": "GRPO"}]}))
    places = [f"<!-- {name} -->\nold\n<!-- end -->\n" for name in ("speed and memory", "shares")]
    (tmp_path / "results.md").write_text("before\n" + "between\n".join(places) + "after\n")
    monkeypatch.setattr(table, "HERE", tmp_path)
    monkeypatch.setattr(table, "PAGE", tmp_path / "results.md")
    table.main()
    once = (tmp_path / "results.md").read_text()
    assert once.startswith(
        "before\n<!-- speed and memory -->\n\n`python -m benchmarks.dpo`, 2026-11-25, a processor, 2"
    )
    assert "| DPO | trl | 2.0 | 2.0 to 3.0 | 2.5 | 0.6 | 4 / 1.33 | 400 / 133 | 12 / 20 | 25% / 75% |" in once
    assert "| DPO | trl | 2.0 | 2.0 to 3.0 |  | 0.6 |" in once
    assert "| scores | trl | 2.0 | 2.0 to 3.0 | 3.0 | 0.6 | 4 / 1.33 | 400 / 133 | 12 / 20 |  |" in once
    assert "| help | trl 1.16 | 15.0 | 14.0 to 16.0 | 0.02 / 0.3 |" in once
    assert "| PPO | 13.1 | 9.5 | 25% | 75% | 66% | 34% | 90% |" in once
    assert "| GRPO | 13.1 | 9.5 | 25% | 75% | 66% | 34% | 90% |" in once
    assert once.count("between") == 1
    assert once.endswith("<!-- end -->\nafter\n")
    assert "old" not in once
    table.main()
    assert (tmp_path / "results.md").read_text() == once


def test_every_script_is_listed() -> None:
    folder = Path(table.__file__).parent
    scripts = [path.stem for path in folder.glob("*.py") if "def main(" in path.read_text()]
    assert len(scripts) > 10
    listed = (folder / "README.md").read_text()
    assert [name for name in scripts if f"python -m benchmarks.{name}`" not in listed] == []


def test_an_empty_place_is_filled_once_and_text_around_it_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- first -->\n<!-- end -->\nb\n<!-- second -->\nkept\n<!-- end -->\n")
    for lines in (["| x |"], ["| y |", "| z |"]):
        table.place(page, "<!-- first -->", lines)
    assert page.read_text() == (
        "a\n<!-- first -->\n| y |\n| z |\n<!-- end -->\nb\n<!-- second -->\nkept\n<!-- end -->\n"
    )
