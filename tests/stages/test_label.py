import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.data import load
from rlhf.errors import ConfigError, DataError, LineageError, RunError
from rlhf.runs.run import Run
from rlhf.stages import execute
from tests.conftest import composed, manifest, tiny_overrides

Configure = Callable[..., Settings]
PROMPTS = [[{"role": "user", "content": f"What is {i}?"}] for i in range(8)]


def write_sample(place: Path, responses: Callable[[int], list[str]]) -> None:
    """A finished run of stage=sample, without the model that it takes."""
    place.mkdir(parents=True)
    lines = [json.dumps({"prompt": prompt, "responses": responses(i)}) for i, prompt in enumerate(PROMPTS)]
    (place / "responses.jsonl").write_text("\n".join(lines) + "\n")
    (place / "run.json").write_text(json.dumps(manifest("sample", output="digest")))


@pytest.fixture
def label(tmp_path: Path) -> Configure:
    write_sample(tmp_path / "almanac" / "sample", lambda i: ["short", f"a longer answer to {i}", "short"])

    def of(*overrides: str) -> Settings:
        return composed(*tiny_overrides("label", tmp_path), *overrides)

    return of


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


LENGTH = ("judge=function", "judge.function=tests.stages.test_label:brief")


def brief(prompts, completions) -> list[float]:
    return [-float(len(text)) for text in completions]


def test_a_function_labels_and_its_output_is_preference_data(label: Configure, tmp_path: Path) -> None:
    final = execute(label(*LENGTH), tmp_path / "label")
    found = rows(tmp_path / "label" / "preferences.jsonl")
    assert len(found) == final["preferences"] == 8
    assert all(row["chosen"] == [{"role": "assistant", "content": "short"}] for row in found)
    assert all(row["margin"] >= 15 for row in found)
    assert final["equal_texts"] == 8
    data = composed("stage=reward", f"data.path={tmp_path}/label/preferences.jsonl").data
    train, held_out = (load(data, "preferences", split, 0) for split in ("train", "validation"))
    assert len(train) + len(held_out) == 8
    assert train[0]["source"] == "function"


def test_a_reward_run_labels(label: Configure, chain: Path, tmp_path: Path) -> None:
    final = execute(label("judge=reward", f"judge.model={chain}/almanac/reward"), tmp_path / "label")
    assert final["preferences"] == 8
    parents = Run.open(tmp_path / "label").manifest["parents"]
    assert parents["judge"]["stage"] == "reward"
    assert parents["sample"]["digest"] == "digest"


def test_a_reward_run_picks_the_pairs(label: Configure, chain: Path, tmp_path: Path) -> None:
    """It scores both responses to a prompt; the labeled pairs are those with the smallest margins."""
    run = f"{chain}/almanac/reward"
    judge = ("judge=reward", f"judge.model={run}", "stage.pairs=3")
    execute(label(*judge), tmp_path / "all")
    picked = ("stage.limit=3", "stage.pick=disagreement", f"stage.pick_by={run}")
    execute(label(*judge, *picked), tmp_path / "label")
    margins = sorted(row["margin"] for row in rows(tmp_path / "all" / "preferences.jsonl"))
    found = [row["margin"] for row in rows(tmp_path / "label" / "preferences.jsonl")]
    assert found == pytest.approx(margins[:3], abs=1e-5)
    assert Run.open(tmp_path / "label").manifest["parents"]["pick_by.0"]["stage"] == "reward"


def test_a_pick_without_reward_runs_is_refused(label: Configure) -> None:
    with pytest.raises(
        ConfigError, match=r"stage.pick=disagreement and stage.pick_by=None do not fit: the reward runs"
    ):
        label("stage.pick=disagreement")


def test_a_local_model_labels(label: Configure, chain: Path, tmp_path: Path) -> None:
    final = execute(label("judge=local", f"judge.model={chain}/almanac/sft"), tmp_path / "label")
    assert final["preferences"] + final["ties"] + final["no_verdict"] == 8
    assert 0 <= final["judge/consistent"] <= 1
    assert all(0 < row["confidence"] <= 1 for row in rows(tmp_path / "label" / "preferences.jsonl"))


def test_two_runs_meet_and_one_wins(label: Configure, tmp_path: Path) -> None:
    write_sample(tmp_path / "other", lambda i: [f"a very much longer answer to the question {i}"])
    samples = f"stage.samples={{mine: {tmp_path}/almanac/sample, other: {tmp_path}/other}}"
    final = execute(label(*LENGTH, samples, "stage.pairs=2"), tmp_path / "label")
    assert final["pairs"] == 16
    assert final["win_rate/mine/other"] == 1.0
    assert rows(tmp_path / "label" / "preferences.jsonl")[0]["chosen_model"] == "mine"


def test_a_judge_by_another_way_is_the_same_run(label: Configure) -> None:
    from rlhf.runs.identity import content

    one = label("judge=endpoint", "judge.model=m", "judge.timeout=1")
    other = label("judge=endpoint", "judge.model=m", "judge.timeout=9", "judge.workers=1")
    assert content(one, {}) == content(other, {})
    assert content(one, {}) != content(label("judge=endpoint", "judge.model=n"), {})
    assert not [key for key in content(composed("stage=sft", "judge=endpoint", "judge.model=m"), {}) if "judge." in key]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("judge=function", r"judge=function needs judge\.function"),
        ("judge=reward", r"judge=reward needs judge\.model"),
        ("judge=endpoint", r"judge=endpoint needs judge\.model"),
        ("stage.pairs=0", r"stage\.pairs must be positive"),
        ("stage.port=70000", r"stage\.port must lie"),
        ("stage.samples={judge: checkpoints/a}", r"not use the title of the judge"),
    ],
)
def test_settings_that_cannot_be_are_refused(label: Configure, given: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        label(given)


def test_nobody_labels_nothing(label: Configure, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="judge=none"):
        execute(label("judge=none"), tmp_path / "label")


def test_a_judge_that_is_not_there_is_named_by_its_key(label: Configure, tmp_path: Path) -> None:
    with pytest.raises(LineageError, match=r"judge\.model"):
        execute(label("judge=reward", f"judge.model={tmp_path}/nobody"), tmp_path / "label")


def test_samples_that_are_all_equal_are_refused(label: Configure, tmp_path: Path) -> None:
    write_sample(tmp_path / "same", lambda i: ["one", "one"])
    with pytest.raises(DataError, match=r"no two different responses.*8 equal pairs"):
        execute(label(*LENGTH, f"stage.samples={{same: {tmp_path}/same}}"), tmp_path / "label")


class Session:
    """``stage=label`` in a separate process, and the requests of its page."""

    def __init__(self, root: Path, *overrides: str):
        command = [sys.executable, "-m", "rlhf", "stage=label", f"checkpoints={root}", "hardware=cpu", *overrides]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.told = ""
        while not (found := re.search(r"Open (http://127\.0\.0\.1:\d+)/\?token=([\w-]+)", self.told)):
            line = self.process.stdout.readline()
            assert line, self.told
            self.told += line
        self.url, self.token = found.groups()

    def call(self, path: str, body: dict | None = None, token: str | None = None, annotator: str = "ann") -> dict:
        request = urllib.request.Request(f"{self.url}{path}", None if body is None else json.dumps(body).encode())
        request.add_header("x-token", self.token if token is None else token)
        request.add_header("x-annotator", annotator)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return {"status": reply.status} | json.load(reply)
        except urllib.error.HTTPError as error:
            return {"status": error.code} | json.load(error)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self.process.stdout.close()

    def end(self) -> int:
        self.told += self.process.stdout.read()
        self.process.stdout.close()
        return self.process.wait(30)


@pytest.fixture
def session(label: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Session]]:
    pytest.importorskip("uvicorn", reason="the page's server is an extra: pip install 'rlhf[label]'")
    opened: list[Session] = []

    def of(*overrides: str) -> Session:
        opened.append(Session(tmp_path, *overrides))
        return opened[-1]

    yield of
    for one in opened:
        if one.process.poll() is None:
            one.kill()


def side_of(pair: dict, text: str) -> str:
    return "left" if pair["left"] == text else "right"


def test_people_label_with_a_kill_in_the_middle_and_nothing_lost(session, tmp_path: Path) -> None:
    first = session()
    assert first.call("/state", token="wrong")["status"] == 403
    state = first.call("/state")
    for _ in range(3):
        state = first.call("/answer", {"pair": state["pair"]["id"], "verdict": side_of(state["pair"], "short")})
    assert (state["answered"], state["total"]) == (3, 8)
    first.kill()
    assert not (tmp_path / "almanac" / "label").exists()

    answers = tmp_path / "almanac" / ".label.partial" / "resume" / "answers.jsonl"
    before = answers.read_text()
    with pytest.raises(RunError, match="an interrupted run with answers.jsonl is here: resume=true continues it"):
        execute(composed("stage=label", f"checkpoints={tmp_path}", "hardware=cpu"), tmp_path / "almanac" / "label")
    assert answers.read_text() == before

    second = session("resume=true")
    again = second.call("/state")
    assert (again["answered"], again["pair"]["id"]) == (3, state["pair"]["id"])
    old = again["pair"]["id"]
    state = second.call("/answer", {"pair": old, "verdict": "tie"})
    twice = second.call("/answer", {"pair": old, "verdict": "left"})  # from a page that was open twice
    assert (twice["status"], twice["taken"], twice["answered"]) == (409, False, 4)
    state = second.call("/undo", {})
    assert state["pair"]["id"] == old
    assert second.call("/answer", {"pair": old, "verdict": "nonsense"})["status"] == 400
    for verdict in ("skip", "tie"):
        state = second.call("/answer", {"pair": state["pair"]["id"], "verdict": verdict})
    while state["pair"]:
        state = second.call("/answer", {"pair": state["pair"]["id"], "verdict": side_of(state["pair"], "short")})
    assert state["complete"]
    assert second.call("/finish", {})["finished"]
    assert second.end() == 0, second.told
    final = Run.open(tmp_path / "almanac" / "label").manifest["metrics"]
    assert (final["pairs"], final["preferences"], final["ties"], final["no_verdict"]) == (8, 6, 1, 1)
    found = rows(tmp_path / "almanac" / "label" / "preferences.jsonl")
    assert all(row["chosen"][0]["content"] == "short" and row["confidence"] == 1.0 for row in found)
    assert second.token not in (tmp_path / "almanac" / "label" / "run.json").read_text()


def test_several_annotators_and_their_agreement(session, tmp_path: Path) -> None:
    page = session("stage.annotators=2", "stage.limit=4")
    for annotator, wanted in (("ann", "short"), ("ben", "short")):
        state = page.call("/state", annotator=annotator)
        while state["pair"]:
            body = {"pair": state["pair"]["id"], "verdict": side_of(state["pair"], wanted)}
            state = page.call("/answer", body, annotator=annotator)
    page.call("/finish", {})
    assert page.end() == 0, page.told
    final = Run.open(tmp_path / "almanac" / "label").manifest["metrics"]
    assert final["agreement"] == 1.0
    assert len(rows(tmp_path / "almanac" / "label" / "answers.jsonl")[0]["answers"]) == 2


def test_ctrl_c_keeps_what_was_answered(session, tmp_path: Path) -> None:
    page = session()
    state = page.call("/state")
    page.call("/answer", {"pair": state["pair"]["id"], "verdict": "left"})
    os.kill(page.process.pid, signal.SIGINT)
    assert page.end() == 130
    assert "label has answers.jsonl, and this continues from it:\n  python -m rlhf stage=label" in page.told
    assert page.told.rstrip().endswith("resume=true")
    time.sleep(0.1)
    answers = tmp_path / "almanac" / ".label.partial" / "resume" / "answers.jsonl"
    assert len(answers.read_text().splitlines()) == 1
