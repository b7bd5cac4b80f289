"""stage=overoptimize in miniature: two reward models, their laws, the proposed target and its check."""

import json
from pathlib import Path

import pytest

from rlhf.cli import main
from rlhf.evaluation.comparison.frontier import Law
from tests.cli.test_ladder import mapping
from tests.conftest import FAST, TINY
from tests.test_resume import kill_in, killed_in, results

SMALLER = ["model.architecture.hidden_size=8", "model.architecture.intermediate_size=16"]

# Five updates of noise have no peak to speak of; the driver is tested on one that is set.
PEAK = property(lambda law: 0.5)


def arguments(root: Path, *more: str) -> list[str]:
    parents = mapping({name: list(FAST[name]) for name in ("base", "sft", "reward")})
    trained = ["stage=ppo", *FAST["ppo"], "stage.updates=5", "stage.advantage=rloo", "stage.samples=2"]
    trained += ["stage.learning_rate=0.01"]  # the law needs a KL that is above its noise
    own = [
        f"stage.parents={{{parents}}}", f"stage.train=[{','.join(map(repr, trained))}]", "stage.pairs=[16]",
        f"++stage.sizes={{{mapping({'small': SMALLER, 'same': []})}}}", "stage.check=['stage.kl_coef=0.1']",
        "stage.sample=['stage.prompts=6','stage.samples=6','stage.max_response_length=6']",
    ]  # fmt: skip
    return ["rlhf", "stage=overoptimize", f"checkpoints={root}", *TINY, *own, *more]


def overoptimize(monkeypatch: pytest.MonkeyPatch, root: Path, *more: str) -> None:
    monkeypatch.setattr("sys.argv", arguments(root, *more))
    main.main()


def test_laws_of_each_reward_model_and_a_run_that_checks_the_proposed_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(Law, "peak", PEAK)
    overoptimize(monkeypatch, tmp_path)
    place = tmp_path / "almanac" / "overoptimize"
    found = json.loads((place / "report" / "overoptimize.json").read_text())
    titles = {path.name for path in (place / "seed-1").iterdir()}
    sizes = {f"{kind}-{size}-16" for kind in ("reward", "rl", "best_of_n") for size in ("small", "same")}
    # "same" is first: the defaults have it, and others are merged after it.
    assert titles == {"base", "sft", "base-small", "sft-small", "check", *sizes}
    small, same = (json.loads((place / "seed-1" / f"reward-{size}-16" / "run.json").read_text())["settings"]
                   for size in ("small", "same"))  # fmt: skip
    assert [one["model"]["architecture"]["hidden_size"] for one in (small, same)] == [8, 16]
    assert found["proposal"]["kl_target"] == 0.5
    assert found["proposal"]["model"] == "same-16"
    assert {"kl", "gold", "predicted", "held_out"} == set(found["check"])
    checked = json.loads((place / "seed-1" / "check" / "run.json").read_text())
    assert checked["settings"]["stage"]["kl_target"] == 0.5
    assert checked["parents"]["reward"]["path"].endswith("reward-same-16")
    out = capsys.readouterr().out
    assert "stage.kl_target=0.5" in out
    assert "a run with this target has gold" in (place / "report" / "overoptimize.md").read_text().lower()

    overoptimize(monkeypatch, tmp_path)
    assert capsys.readouterr().out.count("up to date, skipped") == len(titles)


def killed_with_a_peak(argv: list[str], function: str, call: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Law, "peak", PEAK)
        killed_in(argv, function, call)


KILLS = [  # function and the call in which the process is killed
    ("rlhf.ppo.checkpoint.save", 3),  # within RL, after two checkpoints
    ("rlhf.stages.sample.by_prompt", 1),  # within best-of-n
    ("rlhf.ppo.checkpoint.save", 3),  # within the check
]


def test_killed_in_rl_in_best_of_n_and_in_the_check_it_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Law, "peak", PEAK)
    one = ("stage.sizes.small=null", "eval_set.prompts=2")
    for function, call in KILLS:
        kill_in(arguments(tmp_path / "cut", *one), function, call, target=killed_with_a_peak)
    for name in ("cut", "whole"):
        overoptimize(monkeypatch, tmp_path / name, *one)
    cut, whole = (tmp_path / name / "almanac" / "overoptimize" for name in ("cut", "whole"))
    titles = sorted(path.name for path in (whole / "seed-1").iterdir())
    assert titles == ["base", "best_of_n-same-16", "check", "reward-same-16", "rl-same-16", "sft"]
    for title in titles:
        assert results(cut / "seed-1" / title) == results(whole / "seed-1" / title)
    pages = [json.loads((place / "report" / "overoptimize.json").read_text()) for place in (cut, whole)]
    assert pages[0] == pages[1]
    assert not list(cut.rglob(".*"))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("data.gold=null", "data.gold=null: stage=overoptimize needs a gold reward"),
        ("stage.train=['stage=dpo']", "stage.train must be a list of settings with stage=ppo"),
        ("stage.train=['stage=ppo','stage.bta=1']", "there is no setting stage.bta"),
        ("stage.pairs=[0]", "stage.pairs must be positive numbers"),
        ("stage.parents.reward=null", "stage.parents must have the stage reward"),
        ("stage.sizes={same: 1}", "stage.sizes must map names to lists of settings"),
    ],
)
def test_mistakes_are_reported_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, own: str, message: str
) -> None:
    monkeypatch.setattr("sys.argv", ["rlhf", "stage=overoptimize", f"checkpoints={tmp_path}", own])
    with pytest.raises(SystemExit):
        main.main()
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
