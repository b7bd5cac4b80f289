"""stage=ppo with rewards that read other columns of the row, and with rewards that fail."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.errors import ConfigError, DataError, RunError, TrainingError
from rlhf.ppo import PPOTrainer
from rlhf.runs.run import Run
from rlhf.stages import execute
from tests.evaluation.judges.test_endpoint import Server, server  # noqa: F401  a fixture
from tests.ppo.conftest import interrupted_in_the_second_update

# ruff: noqa: F811

Configure = Callable[..., Settings]
OWN = """
import os
import time
from pathlib import Path

def fail(completions):
    raise ValueError("no verdict")

FAILURES = {
    "nan": lambda completions: [float("nan")] * len(completions),
    "short": lambda completions: [1.0] * (len(completions) - 1),
    "exception": fail,
    "hang": lambda completions: time.sleep(60),
}

def right(prompts, completions, answer, level=None, unit="none"):
    assert unit == "none"
    for prompt, one, rank in zip(prompts, answer, level, strict=True):
        assert prompt[0]["content"] == f"What is {one}?", (prompt, one)
        assert rank == (None if one % 2 else {"deep": [one]})
    failing = Path(os.environ.get("FAILING", "nowhere"))
    if failing.exists():
        return FAILURES[failing.read_text()](completions)
    return [len(text) + one for one, text in zip(answer, completions, strict=True)]

def gold(completions, **columns):
    assert set(columns) == {"prompts", "prompt", "answer", "level"}
    return [float(number) for number in columns["answer"]]
"""


@pytest.fixture
def ppo(beside_chain: Configure, tmp_path: Path) -> Configure:
    """Return a function that returns settings of stage=ppo with a reward and a gold reward that read columns."""
    (tmp_path / "own.py").write_text(OWN)
    rows = [
        {"prompt": [{"role": "user", "content": f"What is {n}?"}], "answer": n}
        | ({} if n % 2 else {"level": {"deep": [n]}})
        for n in range(40)
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def of(*overrides: str, terms: str = "mine: {function: FILE:right, normalization: running}") -> Settings:
        terms = terms.replace("FILE", f"{tmp_path}/own.py")
        data = (f"data.path={tmp_path}/asked.jsonl", f"stage.gold={tmp_path}/own.py:gold", "eval_set.prompts=2")
        return beside_chain(
            "ppo", *data, "stage.reward=null", f"stage.rewards={{{terms}}}", "stage.updates=3", *overrides
        )

    return of


def results(directory: Path) -> tuple[bytes, str]:
    [weights] = (directory / "model").glob("*.safetensors")
    return weights.read_bytes(), (directory / "metrics.jsonl").read_text()


def test_columns_reach_the_rewards_in_order_also_after_a_resume(ppo: Configure, tmp_path: Path) -> None:
    execute(ppo(), tmp_path / "straight")
    metrics = Run.open(tmp_path / "straight").manifest["metrics"]
    assert {"gold", "score", "start/gold", "reward/mine", "objective/gold"} <= metrics.keys()
    assert metrics["gold"] == metrics["start/gold"], "it depends on the row only"
    with interrupted_in_the_second_update():
        execute(ppo(), tmp_path / "ppo")
    execute(ppo("resume=true"), tmp_path / "ppo")
    assert results(tmp_path / "ppo") == results(tmp_path / "straight")


def test_every_process_reads_the_rows_of_its_prompts(ppo: Configure, tmp_path: Path) -> None:
    settings = ppo("stage.updates=1", "eval_set.prompts=0")
    execute(settings, tmp_path / "one")
    execute(
        ppo("stage.updates=1", "eval_set.prompts=0", "hardware.strategy=ddp", "hardware.processes=2"), tmp_path / "two"
    )
    one, two = (json.loads(results(tmp_path / name)[1]) for name in ("one", "two"))
    for name in ("reward/mine", "reward/mine_std", "objective/gold"):
        assert one[name] == pytest.approx(two[name])


def test_a_column_that_does_not_exist_is_refused_before_a_model_is_loaded(
    ppo: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.modeling.loading.load_policy", None)
    with pytest.raises(DataError, match=r"^stage\.rewards\.n reads the column 'solution'.*prompt, answer, level$"):
        execute(ppo(terms="n: {number: {column: solution}}"), tmp_path / "ppo")
    with pytest.raises(
        DataError, match=r"^data\.prompts \(train\) row 1 cannot be scored by stage\.rewards\.n: the options"
    ):
        execute(ppo(terms="n: {choice: {column: answer, options_column: level}}"), tmp_path / "ppo")
    with pytest.raises(ConfigError, match=r"json_schema\.schema=nowhere\.json is not a JSON schema"):
        execute(ppo(terms="n: {json_schema: {schema: nowhere.json}}"), tmp_path / "ppo")
    assert not (tmp_path / "ppo").exists()


MESSAGES = {  # how a reward fails -> the sentence that ends the run
    "nan": r"^the reward 'mine' scored row 0 \('.*'\) as nan",
    "short": r"^the reward 'mine' returned \d+ scores for \d+ completions: it must return a list",
    "exception": r"^stage\.rewards\.mine\.function=\S+ failed on a batch of \d+ completions, first on row 0 \('.*'\) "
    r"\(ValueError: no verdict\)",
    "hang": r"^stage\.rewards\.mine\.function=\S+ took more than timeout=1 seconds for \d+ completions, "
    r"rows 0 \('.*'\) to \d+ \('.*'\): fix it",
}


def test_a_failed_reward_leaves_a_checkpoint_to_resume_from(
    ppo: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last periodic checkpoint would be missing: stage.save_every is larger than the number of updates.

    The run continues with a corrected file and a longer timeout, and ends with the same bytes as one that never failed.
    """
    monkeypatch.setenv("FAILING", str(tmp_path / "failing"))
    mine = "mine: {function: FILE:right, normalization: running, timeout: SECONDS}"
    terms = f"brief: {{length: {{max: 1}}, normalization: running}}, {mine}"
    execute(ppo("stage.save_every=10", terms=terms.replace("SECONDS", "null")), tmp_path / "straight")
    step = PPOTrainer.step
    for how, message in MESSAGES.items():

        def failing(trainer: PPOTrainer, prompts: list, how: str = how) -> dict[str, float]:
            if trainer.update == 2:
                (tmp_path / "failing").write_text(how)
            return step(trainer, prompts)

        monkeypatch.setattr(PPOTrainer, "step", failing)
        with pytest.raises(TrainingError, match=message):
            execute(ppo("stage.save_every=10", terms=terms.replace("SECONDS", "1")), tmp_path / how)
        assert list((tmp_path / f".{how}.partial").rglob("update-2"))
        monkeypatch.setattr(PPOTrainer, "step", step)
        (tmp_path / "failing").unlink()
        (tmp_path / "own.py").write_text(f"{OWN}\n# corrected: {how}\n")
        execute(ppo("stage.save_every=10", "resume=true", terms=terms.replace("SECONDS", "60")), tmp_path / how)
        assert results(tmp_path / how) == results(tmp_path / "straight")


def test_another_file_of_a_reward_does_not_continue_a_run_that_was_interrupted(ppo: Configure, tmp_path: Path) -> None:
    with interrupted_in_the_second_update():
        execute(ppo(), tmp_path / "ppo")
    (tmp_path / "own.py").write_text(f"{OWN}\n# another reward\n")
    with pytest.raises(RunError, match=r"cannot be resumed, the data behind rewards\.mine has changed"):
        execute(ppo("resume=true"), tmp_path / "ppo")


def test_builtin_terms_and_rows_to_which_they_do_not_apply(ppo: Configure, tmp_path: Path) -> None:
    terms = "right: {number: {column: answer}}, some: {exact: {column: level}}"
    with pytest.raises(DataError, match=r"row 1 cannot be scored by stage\.rewards\.some: the answer must be a text"):
        execute(ppo(terms=terms), tmp_path / "ppo")
    execute(ppo(terms=terms.replace("level", "answer").replace("some", "same")), tmp_path / "ppo")
    assert {"reward/right", "reward/same"} <= Run.open(tmp_path / "ppo").manifest["metrics"].keys()


def judged(server: Server, tmp_path: Path, name: str, *overrides: str) -> list[str]:
    terms = "stage.rewards={helpful: {judge: {rubric: helpful, pairs: 8}}}"
    given = [f"judge.url={server.url}", f"judge.cache={tmp_path}/{name}.sqlite", "judge.attempts=1", "judge.workers=1"]
    shared = ["stage.reward=null", terms, "stage.updates=3", "stage.save_every=10", "eval_set.prompts=2"]
    return ["judge=endpoint", "judge.model=m", *given, *shared, *overrides]


def test_a_judge_as_the_only_reward_may_refuse_and_a_budget_leaves_a_checkpoint(
    server: Server, chain: Path, beside_chain: Configure, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Questions before training: 8 pairs in two scores each; a refused response is left out of the loss."""
    pytest.importorskip("openai", reason="the endpoint's client is an extra: pip install 'rlhf[judge]'")
    server.refuses = True
    shadows = "stage.shadows={brief: {length: {max: 1}}, model: {run: CHAIN}}"  # they change no weight, see below
    shadows = shadows.replace("CHAIN", f"{chain}/almanac/reward")
    execute(beside_chain("ppo", *judged(server, tmp_path, "one"), shadows), tmp_path / "straight")
    shown = capsys.readouterr().out

    assert "ppo: stage.rewards.helpful.judge: Cohen's kappa" in shown
    metrics = Run.open(tmp_path / "straight").manifest["metrics"]
    assert {"judge/helpful/kappa", "judge/helpful/kappa_low", "reward/helpful", "score"} <= metrics.keys()
    assert {"shadow/brief", "shadow/model", "shadow/model_std"} <= metrics.keys()
    asked, unusable = (int(metrics[f"judge/{name}"]) for name in ("asked", "unusable"))
    assert 0 < unusable < asked
    assert metrics["judge/refused"] > 0
    server.requests.clear()
    limited = judged(server, tmp_path, "two", f"judge.budget_calls={asked - 1}")
    with pytest.raises(TrainingError, match=r"^judge\.budget_calls=\d+ calls are spent after \d+ questions: raise it"):
        execute(beside_chain("ppo", *limited), tmp_path / "ppo")
    assert list(tmp_path.rglob("update-2"))
    raised = judged(server, tmp_path, "two", "judge.budget_calls=10000", "resume=true")
    execute(beside_chain("ppo", *raised), tmp_path / "ppo")
    assert results(tmp_path / "ppo")[0] == results(tmp_path / "straight")[0]


SHADOWS = """
calls = {"score": 0, "shadow": 0}

def score(prompts, completions):
    calls["score"] += 1
    return [float(calls["score"])] * len(completions)

def shadow(prompts, completions):
    calls["shadow"] += 1
    return [0.1 * (calls["shadow"] % 2) - max(calls["shadow"] - 4, 0)] * len(completions)
"""


def test_a_shadow_that_falls_is_recorded_during_the_run_and_shown_on_the_page(
    beside_chain: Configure, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The shadow falls by 1 per update from the fifth on, ten times its noise before; the length never falls."""
    (tmp_path / "own.py").write_text(SHADOWS)
    given = [
        f"stage.rewards={{up: {{function: {tmp_path}/own.py:score}}}}",
        "stage.reward=null",
        "stage.gold=null",
        "stage.updates=8",
    ]
    given += [f"stage.shadows={{down: {{function: {tmp_path}/own.py:shadow}}, flat: {{length: {{max: 999}}}}}}"]
    given += ["stage.sentinel.window=2", "stage.sentinel.gold_fall=1", "curves=[html]", "eval_set.prompts=2"]
    seen: list[dict] = []
    with pytest.MonkeyPatch.context() as patched:
        record = Run.record_falls
        patched.setattr(Run, "record_falls", lambda run, found: (seen.append(found), record(run, found))[1])
        execute(beside_chain("ppo", *given), tmp_path / "runs" / "ppo")
    run = Run.open(tmp_path / "runs" / "ppo")
    down, flat = run.manifest["falls"]
    assert (down["name"], flat["name"], flat["update"]) == ("shadow/down", "shadow/flat", None)
    assert 5 < down["update"] <= 8
    assert run.manifest["metrics"]["shadow/down/fell_at"] == down["update"]
    early = [[fall["update"] for fall in found] for found in seen]  # after updates 2, 4, 6 and 8, and at the end
    assert early[:2] == [[], [None, None]]
    assert 4 < early[2][0] <= 6  # by the noise so far
    assert early[3:] == [[down["update"], None]] * 2
    sentence = f"down: fell at update {down['update']} while the score rose (best "
    assert f"ppo: {sentence}" in capsys.readouterr().out
    page = (tmp_path / "runs" / "watch.html").read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    [shown] = [one for one in data["runs"] if one["stage"] == "ppo"]
    assert shown["falls"][0].startswith(sentence)
    assert shown["fell"] == {"shadow/down": down["update"]}
    assert set(shown["panels"]["shadow rewards"]) == {"shadow/down", "shadow/flat"}


RELATION = """
def gold(prompts, completions, relation):
    assert all(relation), relation
    return [float(len(name)) for name in relation]
"""


def test_the_gold_reward_of_dpo_and_of_a_comparison_reads_columns(
    chain: Path, beside_chain: Configure, tmp_path: Path
) -> None:
    (tmp_path / "relation.py").write_text(RELATION)
    gold = f"data.gold={tmp_path}/relation.py:gold"
    execute(beside_chain("dpo", gold), tmp_path / "dpo")
    metrics = Run.open(tmp_path / "dpo").manifest["metrics"]
    assert metrics["gold"] == metrics["start/gold"] > 0
    models = f"stage.models={{sft: {chain}/almanac/sft, dpo: {tmp_path}/dpo}}"
    execute(beside_chain("compare", gold, models, "stage.reward=null"), tmp_path / "compare")
    compared = Run.open(tmp_path / "compare").manifest["metrics"]
    assert compared["gold/sft"] == compared["gold/dpo"] > 0
    other = f"data.path={tmp_path}/plain.jsonl"
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps({"prompt": f"What is {n}?"}) + "\n" for n in range(20)))
    with pytest.raises(DataError, match=r"^data\.gold reads the column 'relation', which data\.prompts \(test\)"):
        execute(beside_chain("compare", gold, models, "stage.reward=null", other), tmp_path / "refused")
