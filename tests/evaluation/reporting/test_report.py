"""The report holds the metrics, and model output in it is escaped."""

import html
import json
from pathlib import Path

import pytest
from rich.console import Console

from rlhf.evaluation.reporting import report, tables
from rlhf.evaluation.statistics.metrics import Estimate
from tests.evaluation.making import HOSTILE, comparison, whole


def cells(line: str) -> list[str]:
    """Return the cells of a line of a Markdown table as a reader sees them."""
    return [html.unescape(cell.strip().replace("<br>", "\n")) for cell in line.strip().strip("|").split("|")]


def test_an_empty_response_is_marked() -> None:
    assert [report.written(text) for text in ("", " \n", " Lima. ")] == ["(empty)", "(empty)", "Lima."]
    shown = list(report.markdown(comparison([" "], ["base", "sft"])))
    assert sum(line.count("(empty)") for line in shown) == 6


def test_every_table_of_a_hostile_report_is_rectangular(tmp_path: Path) -> None:
    report.write(comparison(HOSTILE, names=("sft|<b>", "ppo")), tmp_path)
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert {len(cells(line)) for line in tables} == {3}
    assert all(line.startswith(("|", "#", "- ", f"{len(HOSTILE)} held-out prompts")) or not line for line in lines)
    assert "sft|<b>" in cells(tables[0])


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text_on_a_terminal(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, width=400, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115
    monkeypatch.setattr(report, "console", console)
    made = comparison([text])
    made.previous = {"ppo": "sft"}
    made.answers["sft"].scores["gold"] = [[2.0]]  # so PPO lost, and the summary names the prompt
    report.show(made)
    console.file.close()
    shown = console.export_text()
    for line in text.splitlines():
        for word in line.split(" "):
            assert "".join(char if char.isprintable() else "\ufffd" for char in word) in shown


def test_the_summary_fits_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    made = whole()
    for name, mean in {"base": 0.1, "dpo": 0.7, "ppo": 0.8}.items():
        made.metrics[name] |= {
            "win_rate/gold": Estimate(mean, mean - 0.1, mean + 0.1),
            "correct": Estimate(0.5, 0.4, 0.6),
        }
    console = Console(record=True, width=80, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115
    monkeypatch.setattr(report, "console", console)
    report.show(made)
    console.file.close()
    shown = console.export_text().splitlines()
    assert len(shown) <= 12
    assert shown[0] == "PPO responds best: better than SFT in 80 of 100 comparisons, between 70 and 90."
    assert [line.partition("  ")[0] for line in shown[4:6]] == ["base", "└ SFT"]
    [last] = [line for line in shown if line.startswith("  └ PPO ")]
    for cell in ("80 % (70–90)", "50 % (40–60)", "(vs SFT)"):
        assert cell in last
    assert "PPO lost most" in "\n".join(shown)
    assert shown[-1] == "Every metric and 3 remarks: report.html or report.md."


def test_long_texts_are_cut_in_the_report_but_not_in_the_data(tmp_path: Path) -> None:
    long = "a|b " * 25_000
    example = comparison([long])
    report.write(example, tmp_path)
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) < 10_000
    assert {len(cells(line)) for line in lines if line.startswith("|")} == {3}
    assert any("…" in line for line in lines)
    assert json.loads((tmp_path / "responses.jsonl").read_text().splitlines()[0])["completion"] == long
    assert json.loads((tmp_path / "metrics.json").read_text())["questions"]["Who won the World Cup?"]["sft"] == long


def test_the_table_has_numbers_intervals_and_dashes() -> None:
    found = dict(tables.rows(comparison(["a"])))
    assert found["gold reward"] == ["1.25 ±0.25"] * 2
    assert found["distinct-1"] == ["0.5", "0.5"]
    assert found["KL to SFT (nats per response)"] == ["–", "0.50 ±0.25"]
    assert "perplexity" not in found


def test_a_whole_report_has_every_part(tmp_path: Path) -> None:
    report.write(whole(), tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for heading in ("Every metric", "Over seeds 0, 1", "What each stage cost"):
        assert f"## {heading}" in text
    assert "| seconds | 10 | 10 | 10 | 10 |" in text
    assert "| gold reward | 0 (0.5) | 1 (0.5) | 2 (0.5) | 3 (0.5) |" in text
    assert "| previous stage | – | base | sft | sft |" in text
    assert "## Runs\n\n- base: checkpoints/x/base\n    - sft: checkpoints/x/sft\n        - dpo: check" in text
    assert "orders 0.725 of 40 held-out pairs correctly; its ECE is 0.087 (expected for a calibrated model" in text
    found = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert found["costs"]["ppo"] == {
        "path": "checkpoints/x/ppo", "stage": "ppo", "seconds": 10.0, "tokens": 1000, "peak_memory_gib": 1.5,
    }  # fmt: skip
    assert set(found["over_optimization"]["checkpoints/x/ppo"]) == {"reward", "gold"}
    assert found["over_seeds"]["seeds"] == [0, 1]
    assert found["tree"][3] == {"level": 2, "name": "ppo", "text": "checkpoints/x/ppo"}
    assert found["reward_model"]["calibration_error"] == pytest.approx((10 * 0.05 + 30 * 0.1) / 40)
    assert {path.name for path in (tmp_path / "figures").iterdir()} >= {"frontier.svg", "law-1.svg", "lengths.svg"}


def test_the_report_begins_with_the_question_and_shows_each_task(tmp_path: Path) -> None:
    example = comparison([f"prompt {i}" for i in range(20)])
    report.write(example, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[0] == "## One prompt, every stage"
    assert "## Gold reward by task" in headings
    assert "## Correct by task" not in headings
    shown = [example.prompts[i]["task"] for i in report.examples(example)]
    assert len(shown) == report.EXAMPLES
    assert set(shown) == {"task 0", "task 1", "task 2"}
    assert max(map(shown.count, shown)) - min(map(shown.count, shown)) <= 1


def test_the_files_for_programs_are_complete(tmp_path: Path) -> None:
    report.write(comparison(HOSTILE), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["models"]["ppo"]["kl"] == {"mean": 0.5, "low": 0.25, "high": 0.75}
    assert metrics["models"]["sft"]["distinct_1"] == 0.5
    assert (metrics["reference"], metrics["prompts"], metrics["samples"], metrics["seed"]) == (
        "sft",
        len(HOSTILE),
        1,
        3,
    )
    assert metrics["questions"] == {"Who won the World Cup?": {"sft": HOSTILE[0], "ppo": HOSTILE[0]}}
    with (tmp_path / "responses.jsonl").open(encoding="utf-8", newline="\n") as file:
        lines = [json.loads(line) for line in file]
    assert len(lines) == len(HOSTILE) * 2
    assert lines[3] == {
        "prompt": HOSTILE[1], "model": "ppo", "sample": 0, "completion": HOSTILE[1],
        "length": len(HOSTILE[1]), "ended": True, "kl": 0.5, "gold": 1.0,
    }  # fmt: skip
