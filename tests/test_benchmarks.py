"""benchmarks/: the scripts run, and what they print is what was measured."""

import gzip
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import (
    data,
    data_sheets,
    ppo_memory,
    ppo_seeds,
    progression,
    report_page,
    reward_card,
    reward_robust,
    sentiment,
)
from rlhf.cli import main
from rlhf.evaluation.reporting import report
from tests.conftest import FAST, TINY, blank
from tests.evaluation.making import whole

FIXTURES = Path(__file__).parent / "data" / "fixtures"
STAGES = ("base", "sft", "reward", "dpo", "ppo", "compare")


def test_the_progression_over_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progression, "RESULT", tmp_path / "progression.json")
    monkeypatch.setattr(progression, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(progression, "PAGE", tmp_path / "results.md")
    run = SimpleNamespace(run=lambda command, check: in_process(*command[3:]))
    monkeypatch.setattr(progression, "subprocess", run)
    Path("results.md").write_text("before\n<!-- table over seeds -->\nold\n<!-- end -->\nafter\n")
    own = ", ".join(f"{name}: [{', '.join(map(repr, FAST[name]))}]" for name in STAGES)
    last = ["--comparison", *FAST["compare"]]
    arguments = ["progression", "--seeds", "3", *last, "--", "hardware=cpu", *TINY, f"stage.overrides={{{own}}}"]
    monkeypatch.setattr("sys.argv", arguments)
    progression.main()
    measured = json.loads((tmp_path / "progression.json").read_text())
    [row] = measured["seeds"]
    page = Path("results.md").read_text()
    assert page == "\n".join(
        ["before", "<!-- table over seeds -->", *measured["published"], "<!-- end -->", "after", ""]
    )
    assert Path("figures/frontier.svg").read_text().startswith("<svg")
    compared = json.loads(Path("checkpoints/benchmark/seed-3/compare/metrics.json").read_text())
    assert row["gold"]["sft"] == compared["models"]["sft"]["gold"]["mean"]
    assert row["seconds"] > 0
    shown = capsys.readouterr().out
    assert "| seed | gold base | gold sft |" in shown
    assert "seed 3: Who won the World Cup?" in shown


def test_the_table_over_seeds_goes_to_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = whole()
    report.write(told, tmp_path)
    monkeypatch.setattr(progression, "FIGURES", tmp_path / "shown")
    monkeypatch.setattr(progression, "PAGE", tmp_path / "results.md")
    (tmp_path / "results.md").write_text("<!-- table over seeds -->\n<!-- end -->\n")
    lines = progression.publish(tmp_path)
    assert lines[0] == "|  | base | sft | dpo | ppo |"
    assert lines[2] == "| gold reward | 0 (0.5) | 1 (0.5) | 2 (0.5) | 3 (0.5) |"
    assert (tmp_path / "results.md").read_text() == "\n".join(["<!-- table over seeds -->", *lines, "<!-- end -->", ""])


def test_a_page_is_timed_in_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    if report_page.BINARY is None or report_page.DRIVER is None:
        pytest.skip("there is no chromium with its chromedriver: apt-get install chromium chromium-driver")
    monkeypatch.setattr(report_page, "RESULT", tmp_path / "report_page.json")
    monkeypatch.setattr(report, "figures", lambda comparison: [])
    monkeypatch.setattr("sys.argv", ["report_page", "--prompts", "6", "--samples", "2", "--rounds", "1"])
    report_page.main()
    found = json.loads((tmp_path / "report_page.json").read_text())
    assert (found["responses"], found["rounds"]) == (48, 1)
    assert {"interactive", "lost", "search"} <= set(found["milliseconds"])
    assert found["milliseconds"]["interactive"]["median"] > 0
    assert '"responses": 48' in capsys.readouterr().out


def test_checks_by_hand() -> None:
    row = {
        "gold": {"base": 0.0, "sft": 1.0, "dpo": 2.0, "ppo": 0.5},
        "win_rate": {"dpo": 0.65, "ppo": 0.64},
        "reward_accuracy": 0.86,
        "ceiling": 0.9,
    }
    assert list(progression.checks(row).values()) == [True, False, True, False, False]


def test_what_was_measured_is_shown_again(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["progression", "--show"])
    progression.main()
    rows = json.loads(progression.RESULT.read_text())["seeds"]
    assert "\n".join(progression.table(rows)) in capsys.readouterr().out
    assert len(rows) == 10


def test_data_beside_trl_keeps_the_same_rows(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    import datasets

    monkeypatch.setattr(data, "RESULT", tmp_path / "data.json")
    given = ["--file", str(FIXTURES / "alpaca_eval.jsonl"), "--tokenizer", f"{chain}/almanac/base/model"]
    monkeypatch.setattr("sys.argv", ["data", *given, "--rows", "6", "--repeats", "1"])
    try:
        data.main()
    finally:
        datasets.enable_progress_bars()
    found = json.loads((tmp_path / "data.json").read_text())
    assert found["rows"] == 6
    assert set(found["rows_per_second"]) == {"ours", "ours, second start", "trl"}
    assert "| rows per second and core |" in " ".join(capsys.readouterr().out.split())


def test_the_data_sheets_hold_only_numbers(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / data_sheets.MODEL).symlink_to(chain / "almanac" / "base" / "model")
    (tmp_path / "real" / "preference").mkdir(parents=True)
    with gzip.open(tmp_path / "real" / "preference" / "hh.jsonl.gz", "wb") as file:
        file.write((FIXTURES / "hh.jsonl").read_bytes())
    monkeypatch.setattr(data_sheets, "RESULT", tmp_path / "sheets.md")
    monkeypatch.setenv("RLHF_TEST_DATA", str(tmp_path / "real"))
    monkeypatch.setenv("RLHF_TEST_MODELS", str(tmp_path / "models"))
    data_sheets.main()
    written = (tmp_path / "sheets.md").read_text(encoding="utf-8")
    assert "| preference/hh.jsonl.gz | preferences, hh | 9 |" in written
    assert "example" not in written
    assert "read as" in capsys.readouterr().out


def test_ppo_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """One seed of each kind, with a sentinel that sees an illness in the first update of the first wrong setting."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", blank)
    monkeypatch.setattr(ppo_seeds, "RESULT", tmp_path / "ppo_seeds.json")
    monkeypatch.setattr(ppo_seeds, "rlhf", in_process)
    monkeypatch.setitem(ppo_seeds.BAD, "learning rates × 30", [ppo_seeds.REWARD, "stage.sentinel.window=1", *SEEN])
    own = [f"{stage}:{item}" for stage in ("base", "sft", "reward", "ppo", "compare") for item in FAST[stage]]
    arguments = ["ppo_seeds", "--seeds", "1", "--bad", "--", "hardware=cpu", *TINY, *own]
    monkeypatch.setattr("sys.argv", arguments)
    ppo_seeds.main()
    found = json.loads((tmp_path / "ppo_seeds.json").read_text())
    compared = json.loads(Path("checkpoints/ppo-seeds/compare/metrics.json").read_text())["models"]
    [row] = found["healthy"]
    assert row["gold"] == [compared["seed-0"]["gold"][part] for part in ("mean", "low", "high")]
    assert row["collapsed"] == (row["gold"][0] < compared["sft"]["gold"]["mean"])
    [caught] = found["bad"]["learning rates × 30"]
    assert caught["ended_early"]
    assert caught["diagnoses"][0] == ["steps_too_large", 1]
    assert not found["bad"]["no KL penalty"][0]["ended_early"]
    shown = capsys.readouterr().out
    assert "| learning rates × 30 | 1 of 1 | 1 (1 to 1) | steps_too_large (1) |" in shown
    assert "| no KL penalty | 0 of 1 | – | – |" in shown
    monkeypatch.setattr("sys.argv", ["ppo_seeds", "--show"])
    ppo_seeds.main()
    assert capsys.readouterr().out.strip() == "\n".join(ppo_seeds.table(found))


SEEN = ("stage.sentinel.approx_kl_max=1e-12", "stage.sentinel.explained_variance=null", "stage.sentinel.distinct=null")


def in_process(*overrides: str, check: bool = True) -> int:
    """``python -m rlhf`` without seconds of imports."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.argv", ["rlhf", *overrides])
        try:
            main.main()
        except SystemExit as error:
            assert not check, overrides
            return error.code
    return 0


def test_means_over_seeds_by_hand() -> None:
    """0, 1, 2: mean 1, deviation 1, and with two degrees of freedom 4.30 / √3 = 2.483."""
    assert ppo_seeds.interval([0.0, 1.0, 2.0]) == "1.000 ±2.483"
    assert ppo_seeds.interval([0.5]) == "0.500"


def test_reward_cards_of_real_sets(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "preference").mkdir()
    rows = [{"prompt": f"q{i}", "chosen": f" good {i}", "rejected": " evil", "who": f"s{i % 2}"} for i in range(90)]
    with gzip.open(tmp_path / "preference" / "pairs.jsonl.gz", "wt") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
    tiny = ("stage.trainer.max_steps=2", "stage.probe_rows=4", "stage.bootstrap=20", "stage.sample_length=4")
    monkeypatch.setattr(reward_card, "SETS", (reward_card.Set("toy", "pairs.jsonl.gz", "a toy", "who", tiny),))
    monkeypatch.setattr(reward_card, "MODEL", ("model=local", f"model.path={chain}/almanac/base/model"))
    monkeypatch.setattr(reward_card, "RESULT", tmp_path / "reward_card.json")
    monkeypatch.setenv("RLHF_TEST_DATA", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["reward_card"])
    reward_card.main()
    [row] = json.loads((tmp_path / "reward_card.json").read_text())["sets"]
    assert sum(row["rows"].values()) == 90
    assert row["card"]["pairs"] == row["rows"]["test"]
    policy = {"log-probability", "mean log-probability per token"}
    assert set(row["card"]["baselines"]) == {"longer wins", "TF-IDF"} | policy
    text = (tmp_path / "reward_card.md").read_text()
    assert "## toy: a toy" in text
    assert (tmp_path / "reward_card" / "toy-accuracy.png").is_file()
    assert str(tmp_path) not in text
    assert "\n".join(reward_card.table([row])) in capsys.readouterr().out
    prompts = [
        {json.loads(line)["prompt"] for line in path.read_text().splitlines()}
        for path in Path("checkpoints/benchmark/reward-card/toy/data").iterdir()
    ]
    assert len(set.union(*prompts)) == sum(map(len, prompts)) == 90


def test_a_real_reward_model_beats_what_cannot_read(capsys: pytest.CaptureFixture, monkeypatch) -> None:
    """The interval of the lead is above 0 on at least one real set; results on the others are printed, too."""
    monkeypatch.setattr("sys.argv", ["reward_card", "--show"])
    reward_card.main()
    rows = json.loads(reward_card.RESULT.read_text())["sets"]
    assert "\n".join(reward_card.table(rows)) in capsys.readouterr().out
    assert len(rows) >= 2
    assert any(all(rule["beaten"] for rule in row["card"]["baselines"].values()) for row in rows)


def test_the_ladder_on_sentiment_runs_is_measured_and_drawn(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With the chain's tiny model in the place of the real one, all stages in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLHF_TEST_MODELS", str(tmp_path))
    (tmp_path / "stories15M").symlink_to(chain / "almanac" / "base" / "model")
    places = {"RESULT": tmp_path / "r.json", "FIGURE": tmp_path / "f.svg", "NS": (1, 2)}
    sizes = {"DRAWN": 60, "SPLITS": {"validation": 2, "test": 3, "train": 20}}
    for name, value in (places | sizes).items():
        monkeypatch.setattr(sentiment, name, value)
    short = "stage.max_prompt_length=128"
    long = "stage.trainer.max_length=200"  # a tiny model's responses may be long
    ppo = ["stage=ppo", *FAST["ppo"], "stage.warmup_updates=1", "stage.critic_warmup_updates=0", short]
    given = {
        "methods": {"dpo": ["stage=dpo", *FAST["dpo"], long], "ppo": ppo, "rloo": None, "ppo-gold": None},
        "parents": {"sample": ["stage.prompts=20", short], "reward": [*FAST["reward"], long]},
    }
    ladder = [
        f"stage.{key}.{name}={'null' if own is None else json.dumps(list(own))}"
        for key, of in given.items()
        for name, own in of.items()
    ]
    small = {"stage=ladder": ladder, "stage=compare": ["stage.samples=2", short]}

    def run(command: list[str], check: bool) -> None:
        own = next(value for key, value in small.items() if key in command)
        monkeypatch.setattr("sys.argv", ["rlhf", *command[3:], *own, "hardware=cpu", "data.gold=length:score"])
        main.main()

    (tmp_path / "length.py").write_text(
        "def score(prompts, completions):\n    return [float(len(text)) for text in completions]\n"
    )
    monkeypatch.setattr(sentiment, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr("sys.argv", ["sentiment", "--seeds", "3", "4"])
    sentiment.main()
    found = json.loads((tmp_path / "r.json").read_text())["seeds"]
    assert [one["seed"] for one in found] == [3, 4]
    for one in found:
        assert [*one["policies"]] == ["dpo", "ppo", "best of 1", "best of 2"]
        assert one["policies"]["best of 1"]["gain"]["mean"] == pytest.approx(0)
        assert len(one["curves"]["ppo"]) == 2
    assert "| best of 2 | 0.19 |" in capsys.readouterr().out
    assert (tmp_path / "f.svg").read_text().startswith("<svg")


def test_robust_reward_models_are_trained_and_measured(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """On the tiny chain, all stages in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", blank)  # no figure of these runs is shown
    home = tmp_path / reward_robust.FOLDER / "seed-3"
    home.mkdir(parents=True)
    for name in ("base", "sft"):
        (home / name).symlink_to(chain / "almanac" / name)
    short = ["stage.max_prompt_length=128"]
    small = {"stage=reward": FAST["reward"], "stage=ppo": [*FAST["ppo"], *short], "stage=compare": short}

    def run(command: list[str], check: bool) -> None:
        monkeypatch.setattr("sys.argv", ["rlhf", *command[3:], *small[command[3]], *TINY, "hardware=cpu"])
        main.main()

    monkeypatch.setattr(reward_robust, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(reward_robust, "RESULT", tmp_path / "robust.json")
    monkeypatch.setattr(reward_robust, "SIZE", ["stage.prompts=3", "stage.samples=2", "stage.bootstrap=20"])
    monkeypatch.setattr(reward_robust, "LONG", ["stage.updates=1"])
    monkeypatch.setattr("sys.argv", ["x", "--seeds", "3", "--long", "--variants", "default", "sampled negatives"])
    reward_robust.main()
    rows = json.loads((tmp_path / "robust.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["default", "sampled negatives"]
    for row in rows:
        assert set(row["scores"]) == set(row["gold"]) == {"base", "sft", "ppo", "long"}
        assert -1 <= row["correlation"] <= 1
    assert rows[0]["scores"]["sft"] != rows[1]["scores"]["sft"]
    assert rows[0]["gold"]["sft"] == rows[1]["gold"]["sft"]
    monkeypatch.setattr("sys.argv", ["x", "--seeds", "3", "--no-ppo", "--variants", "batch sum to zero"])
    reward_robust.main()
    added, *others = json.loads((tmp_path / "robust.json").read_text())["rows"]
    assert (others, added["variant"]) == (rows, "batch sum to zero")
    assert set(added["scores"]) == {"base", "sft"}
    assert "| sampled negatives | 1 |" in capsys.readouterr().out


def test_robust_reward_models_by_hand() -> None:
    def row(seed: int, variant: str, base: float, ppo: float) -> dict:
        scores = {"base": base, "sft": 0.5, "ppo": 1.0}
        return {"seed": seed, "variant": variant, "accuracy": 0.5, "scores": scores, "gold": {"ppo": ppo},
                "correlation": 0.25}  # fmt: skip

    rows = [row(seed, "default", seed, 1.0 + seed) for seed in (0, 1)]
    rows += [row(seed, "all options", -1.0, 2.0 + seed) for seed in (0, 1)]
    rows.append(row(4, "residual head", 0.25, 0.0) | {"gold": {}})
    default, residual, every = (line.split(" | ") for line in reward_robust.table(rows)[2:])
    assert default[5:7] == ["1 of 2", "0.25"]
    assert residual[5:] == ["1 of 1", "0.25", "–", "– |"]
    assert every[5] == "2 of 2"
    assert every[-1].startswith("1.0")  # paired: the differences are equal
    assert reward_robust.table_long(rows) == []


def memory_rows(share_base_model: int) -> list[dict]:
    peaks = {"full": 1000, "four-model LoRA": 600, "one-base LoRA": share_base_model}
    return [
        {"model": "stories15M", "way": way, "peak": peak * 2**20, "planned": 900 * 2**20, "seconds": 1.234}
        for way, peak in peaks.items()
    ]


def test_memory_by_hand() -> None:
    lines = ppo_memory.table(memory_rows(400))
    assert lines[2] == "| stories15M | full | 1000 | 100% | 900 | -10% | 1.23 |"
    assert lines[4] == "| stories15M | one-base LoRA | 400 | 40% | 900 | +125% | 1.23 |"
    assert list(ppo_memory.checks(memory_rows(400)).values()) == [True]
    assert list(ppo_memory.checks(memory_rows(401)).values()) == [False]


@pytest.mark.slow
def test_memory_is_measured_in_a_separate_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get("RLHF_TEST_MODELS"):
        pytest.skip("RLHF_TEST_MODELS names no folder with stories15M")
    monkeypatch.setattr(ppo_memory, "RESULT", tmp_path / "ppo_memory.json")
    monkeypatch.setattr("sys.argv", ["ppo_memory", "--models", "stories15M", "--repeats", "1", "--updates", "2"])
    ppo_memory.main()
    rows = json.loads((tmp_path / "ppo_memory.json").read_text())["rows"]
    assert all(ppo_memory.checks(rows).values())
    for row in rows:
        assert row["planned"] == pytest.approx(row["peak"], rel=0.25)
