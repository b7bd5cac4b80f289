import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from rlhf.config import Settings
from rlhf.errors import ModelError
from rlhf.evaluation.benchmarks import scoring
from rlhf.rewards import RewardModel
from rlhf.runs.identity import Origin
from rlhf.runs.run import Run
from rlhf.stages import evaluate_reward, execute
from tests.conftest import composed, tiny_overrides
from tests.evaluation.benchmarks import layouts
from tests.evaluation.judges.test_endpoint import Server, server  # noqa: F401  a fixture
from tests.hub.server import Hub

# ruff: noqa: F811

Configure = Callable[..., Settings]


@pytest.fixture
def evaluate(chain: Path, tmp_path: Path) -> Configure:
    def of(reward: str, *overrides: str) -> Settings:
        return composed(*tiny_overrides("evaluate_reward", tmp_path), f"stage.reward={reward}", *overrides)

    return of


def encoder(folder: Path, labels: int = 1) -> Path:
    """Write a classifier of another family; its tokenizer has no EOS token and no chat template."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {token: i for i, token in enumerate([*marks, *map(chr, range(33, 127))])}
    plain = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=1))
    plain.normalizer = normalizers.Lowercase()
    plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    plain.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=48, num_labels=labels,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("rubric", ["helpful", "pairwise"])
def test_a_judge_is_evaluated_instead_of_a_reward_model(
    server: Server, evaluate: Configure, tmp_path: Path, rubric: str
) -> None:
    pytest.importorskip("openai", reason="the endpoint's client is an extra: pip install 'rlhf[judge]'")
    given = ["judge=endpoint", "judge.model=m", f"judge.url={server.url}", f"judge.cache={tmp_path}/cache.sqlite"]
    settings = evaluate("nowhere", *given, "judge.limit=6", f"stage.rubric={rubric}")
    metrics = execute(settings, tmp_path / "judge")
    assert metrics["test/pairs"] == 6
    assert metrics["test/kappa_low"] <= metrics["test/kappa"] <= metrics["test/kappa_high"]
    assert metrics["judge/asked"] == len(server.requests)
    assert "Cohen's kappa" in (tmp_path / "judge" / "report.md").read_text()


def test_the_judged_pairs_are_drawn_with_the_seed_in_their_order(
    server: Server, evaluate: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai", reason="the endpoint's client is an extra: pip install 'rlhf[judge]'")
    seen = []

    def agree(rows: list, *given: Any) -> Any:
        seen.append([json.dumps(row, sort_keys=True) for row in rows])
        return measured(rows, *given)

    measured = evaluate_reward.agree
    monkeypatch.setattr(evaluate_reward, "agree", agree)
    for number, limit in enumerate((6, 6, "null")):
        given = ["judge=endpoint", "judge.model=m", f"judge.url={server.url}", f"judge.limit={limit}"]
        given += [f"judge.cache={tmp_path}/cache.sqlite", "stage.rubric=helpful"]
        execute(evaluate("nowhere", *given), tmp_path / f"judge-{number}")
    first, again, every = seen
    assert first == again == [row for row in every if row in first]
    assert len(first) == 6
    assert first != every[:6]


def test_the_card_of_a_run_is_the_one_that_its_stage_wrote(
    chain: Path, evaluate: Configure, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    reward = chain / "almanac" / "reward"
    final = execute(evaluate(reward, f"stage.policy={chain}/almanac/sft"), tmp_path / "card")
    assert f"evaluate_reward: {reward} on " in capsys.readouterr().out
    written, again = (json.loads((one / "metrics.json").read_text()) for one in (reward, tmp_path / "card"))
    for name in ("accuracy", "baselines", "probes", "statistics", "parts", "prompts"):
        assert (
            again[name] == pytest.approx(written[name], abs=1e-5)
            if name == "statistics"
            else again[name] == written[name]
        )
    assert final["objective"] == written["accuracy"]["mean"]
    assert Run.open(tmp_path / "card").manifest["parents"].keys() == {"reward", "policy"}
    assert {path.name for path in (tmp_path / "card").iterdir()} >= {
        "report.md", "metrics.json", "rewardbench.json", "rewardbench_scores.json", "figures", "run.json",
    }  # fmt: skip


def test_a_classifier_with_another_tokenizer(evaluate: Configure, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": f" good {i}", "rejected": f" evil {i}", "source": "s"} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings = evaluate(encoder(tmp_path / "bert"), f"data.path={tmp_path}/pairs.jsonl", "data.holdout=0.3")
    final = execute(settings, tmp_path / "card")
    found = json.loads((tmp_path / "card" / "metrics.json").read_text())
    assert set(found["baselines"]) == {"longer wins", "TF-IDF"}
    assert found["probes"]["eos_removed"]["fell"] is None  # it has no end of sequence
    assert "scores/mean" not in final
    assert any("without stage.policy" in note for note in found["notes"])
    assert found["calibration"]["fitted_on"].startswith("half of the prompts")  # one file has no test split


def test_a_whole_file_is_judged(evaluate: Configure, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": f" good {i}", "rejected": f" evil {i}"} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings = evaluate(encoder(tmp_path / "bert"), f"data.path={tmp_path}/pairs.jsonl", "data.holdout=1")
    execute(settings, tmp_path / "card")
    found = json.loads((tmp_path / "card" / "metrics.json").read_text())
    assert set(found["baselines"]) == {"longer wins"}
    assert any("no TF-IDF baseline" in note for note in found["notes"])
    recorded = Run.open(tmp_path / "card").manifest["data"]["preferences"]
    assert {split: one["rows"] for split, one in recorded.items()} == {"validation": 20, "test": 20}


def test_conversations_are_read_by_a_classifier_with_a_plain_template(evaluate: Configure, tmp_path: Path) -> None:
    final = execute(evaluate(encoder(tmp_path / "bert"), "model.chat_template=plain"), tmp_path / "card")
    assert 0 <= final["test/accuracy"] <= 1


def test_a_model_without_a_head_is_refused(chain: Path, evaluate: Configure, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no head that scores, only a new one of random weights"):
        execute(evaluate(chain / "almanac" / "sft" / "model"), tmp_path / "card")
    assert not (tmp_path / "card").exists()


def test_a_classifier_with_more_outputs_is_refused(evaluate: Configure, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="another number of outputs than the one of a reward model"):
        execute(evaluate(encoder(tmp_path / "bert", labels=3)), tmp_path / "card")


def rewardbench(folder: Path) -> Path:
    """Write rows in the layout of RewardBench: one right and one wrong answer for a subset of each section."""
    subsets = ("alpacaeval-easy", "llmbar-natural", "donotanswer", "math-prm", "hep-go")
    rows = [
        {"id": i, "subset": subset, "prompt": f"q{i}", "chosen": f" good {i}", "rejected": f" bad {i}"}
        for i, subset in enumerate(subsets)
    ]
    path = folder / "data" / "filtered-00000-of-00001.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_a_benchmark_is_scored_by_a_run_by_a_foreign_classifier_and_by_their_mean(
    chain: Path, evaluate: Configure, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    reward, foreign = chain / "almanac" / "reward", encoder(tmp_path / "bert")
    given = ["stage.benchmark=rewardbench", f"stage.benchmark_path={rewardbench(tmp_path / 'bench')}"]
    scores = {}
    for name, model, more in (("a", reward, ""), ("b", foreign, ""), ("mean", reward, foreign)):
        final = execute(evaluate(model, *given, f"stage.members=[{more}]"), tmp_path / name)
        assert final["objective"] == final["benchmark/score"]
        lines = (tmp_path / name / "scores.jsonl").read_text().splitlines()
        scores[name] = [score for line in lines for score in json.loads(line)["scores"]]
    assert scores["mean"] == pytest.approx([(a + b) / 2 for a, b in zip(scores["a"], scores["b"], strict=True)])
    run = Run.open(tmp_path / "mean")
    assert run.manifest["parents"].keys() == {"reward", "members.0"}
    assert run.manifest["data"] == {"benchmark": {"rewardbench": {"rows": 5}}}
    assert "benchmark score" in capsys.readouterr().out


@pytest.mark.parametrize("name", layouts.WRITERS)
def test_each_benchmark_is_read_as_released_and_scored_by_its_definition(
    chain: Path, evaluate: Configure, tmp_path: Path, name: str
) -> None:
    layouts.WRITERS[name](tmp_path / "bench")
    given = [f"stage.benchmark={name}", f"stage.benchmark_path={tmp_path}/bench", "stage.bootstrap=20"]
    final = execute(evaluate(chain / "almanac" / "reward", *given), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text().splitlines()]
    expected = layouts.score(name, lines)
    if expected is None:
        assert "objective" not in final
        votes = [line for line in lines if line["subset"] == "human preference"]
        assert final["benchmark/human preference"] == layouts.subset_means(votes)["human preference"]
        assert len(votes) == 2  # a tie is left out
        assert {"benchmark/MATH: accuracy", "benchmark/correctness: best of K"} <= final.keys()
    else:
        assert final["objective"] == final["benchmark/score"] == pytest.approx(expected)
    assert len({score for line in lines for score in line["scores"]}) > 4
    report = (tmp_path / "run" / "report.md").read_text()
    assert "## Pairs by subset" in report
    assert ("## Pairs by language" in report) == (name == "ppe")


def test_a_benchmark_on_the_hub_is_reported_with_the_commit_that_was_read(
    hub: Hub, chain: Path, evaluate: Configure, tmp_path: Path
) -> None:
    """The path names a branch, and the report the commit."""
    rewardbench(tmp_path / "bench")
    HfApi().create_repo("alice/bench", repo_type="dataset")
    first = HfApi().upload_folder(folder_path=tmp_path / "bench", repo_id="alice/bench", repo_type="dataset").oid
    given = ["stage.benchmark=rewardbench", "stage.benchmark_path=alice/bench@main", "stage.bootstrap=20"]
    settings = evaluate(chain / "almanac" / "reward", *given)
    execute(settings, tmp_path / "run")
    assert re.fullmatch("[0-9a-f]{40}", first)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["path"] == f"alice/bench@{first}"
    assert f"From alice/bench&#64;{first}. " in (tmp_path / "run" / "report.md").read_text()
    assert Run.open(tmp_path / "run").manifest["content"]["files.benchmark_path"] == f"alice/bench@{first}"


def killed_in_the_second_part(settings: Settings, place: Path) -> None:
    call, calls = RewardModel.__call__, []

    def second_kills(self: RewardModel, *rows: Any) -> list[float]:
        calls.append(rows)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(self, *rows)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scoring, "PART", 4)  # two items
        patched.setattr(RewardModel, "__call__", second_kills)
        execute(settings, place)


def test_a_killed_benchmark_scores_only_the_other_rows_and_has_the_same_results(
    chain: Path, evaluate: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["stage.benchmark=rewardbench", f"stage.benchmark_path={rewardbench(tmp_path / 'bench')}"]
    settings = evaluate(chain / "almanac" / "reward", *given)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlhf.stages.evaluate_reward"])
    process = context.Process(target=killed_in_the_second_part, args=(settings, tmp_path / "cut"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.setattr(scoring, "PART", 4)
    call, asked = RewardModel.__call__, []

    def noted(self: RewardModel, prompts: list, completions: list[str]) -> list[float]:
        asked.extend(completions)
        return call(self, prompts, completions)

    monkeypatch.setattr(RewardModel, "__call__", noted)
    final = execute(replace(settings, resume=True), tmp_path / "cut")
    assert sorted(asked) == sorted(f" {kind} {i}" for i in (2, 3, 4) for kind in ("good", "bad"))
    assert execute(settings, tmp_path / "whole") == final
    for name in ("scores.jsonl", "metrics.json", "report.md"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_content_of_a_run_has_the_files_of_the_benchmark_and_not_their_place(
    evaluate: Configure, chain: Path, tmp_path: Path
) -> None:
    def content(folder: Path) -> dict:
        given = ["stage.benchmark=rewardbench", f"stage.benchmark_path={folder}"]
        return Origin.of(evaluate(chain / "almanac" / "reward", *given)).content

    first, second = (content(rewardbench(tmp_path / name)) for name in ("one", "two"))
    assert first == second
    assert first["stage.benchmark"] == "rewardbench"
    (tmp_path / "two" / "data" / "filtered-00000-of-00001.jsonl").write_text("")
    assert content(tmp_path / "two") != first
    plain = Origin.of(evaluate(chain / "almanac" / "reward")).content
    assert not [key for key in plain if "benchmark" in key or "members" in key or "prior" in key]


@pytest.mark.parametrize("rubric", ["helpful", "pairwise"])
def test_a_judge_is_scored_on_a_benchmark(server: Server, evaluate: Configure, tmp_path: Path, rubric: str) -> None:
    pytest.importorskip("openai", reason="the endpoint's client is an extra: pip install 'rlhf[judge]'")
    given = ["judge=endpoint", "judge.model=m", f"judge.url={server.url}", f"judge.cache={tmp_path}/cache.sqlite"]
    given += ["stage.benchmark=rewardbench", f"stage.benchmark_path={rewardbench(tmp_path / 'bench')}"]
    metrics = execute(evaluate("nowhere", *given, f"stage.rubric={rubric}"), tmp_path / "judge")
    assert 0 <= metrics["benchmark/score"] <= 1
    assert metrics["judge/asked"] == len(server.requests) == 10  # both responses, or both orders
    limited = evaluate("nowhere", *given, f"stage.rubric={rubric}", "judge.limit=3", "seed=1")
    execute(limited, tmp_path / "three")
    lines = [json.loads(line) for line in (tmp_path / "three" / "scores.jsonl").read_text().splitlines()]
    numbers = [int(line["id"]) for line in lines]
    assert numbers == sorted(numbers) != [0, 1, 2]
    assert len(numbers) == 3
