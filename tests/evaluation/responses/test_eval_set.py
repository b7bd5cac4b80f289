"""The measurement at the end of DPO and PPO, compared with known numbers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.evaluation.responses.eval_set import Scorer, measure, prompts, sources
from rlhf.modeling import adapters, loading
from rlhf.runs.run import Run
from rlhf.stages import execute


@pytest.fixture
def ready(chain: Path, beside_chain: Callable[..., Settings], tmp_path: Path) -> Callable[..., tuple]:
    """Return a function for settings, a started run, its prompts, the starting policy twice, and its tokenizer."""

    def of(*more: str) -> tuple:
        settings = beside_chain("dpo", f"data.cache={tmp_path}/cache", *more)
        run = Run.start(tmp_path / "dpo", settings)
        tokenizer = loading.load_tokenizer(run["policy"], settings.model)
        policies = [loading.load_policy(run["policy"], settings.model, tokenizer) for _ in range(2)]
        return settings, run, prompts(settings, run), *policies, tokenizer

    return of


def count(prompts: list, completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def test_an_untrained_policy_has_kl_zero_and_wins_half(ready: Callable[..., tuple]) -> None:
    settings, run, asked, policy, reference, tokenizer = ready("eval_set.prompts=12", "eval_set.samples=8")
    found = measure(settings, run, asked, policy, reference, tokenizer, {"gold": Scorer(count, "count")})
    assert found["kl"] == pytest.approx(0.0, abs=1e-5)
    assert found["win_rate"] == pytest.approx(0.5, abs=0.15)  # other samples of the same policy
    assert found["gold"] == pytest.approx(found["start/gold"], rel=0.3)
    assert run.manifest["held_out"]["prompts"] == 12
    run.stop("failed", "on purpose")


def test_a_better_policy_always_wins_and_the_start_is_scored_once(ready: Callable[..., tuple]) -> None:
    settings, run, asked, policy, reference, tokenizer = ready()
    calls = []

    def better(prompts: list, completions: list[str]) -> list[float]:
        """Score the policy higher: it is scored first, and again in the second run, since its scores are not cached."""
        calls.append(len(completions))
        return [float(len(calls) == 1 or len(calls) == 3)] * len(completions)

    first = measure(settings, run, asked, policy, reference, tokenizer, {"gold": Scorer(better, "better")})
    assert (first["win_rate"], first["gold"], first["start/gold"]) == (1.0, 1.0, 0.0)
    second = measure(settings, run, asked, policy, reference, tokenizer, {"gold": Scorer(better, "better")})
    assert second == first
    assert calls == [8, 8, 8]  # the policy, the start, the policy
    run.stop("failed", "on purpose")


def test_an_adapted_policy_is_measured_against_itself_without_the_adapter(ready: Callable[..., tuple]) -> None:
    import torch

    settings, run, asked, policy, reference, tokenizer = ready("adapter=lora", "eval_set.samples=16")
    torch.manual_seed(0)  # LoRA's A is random
    adapted = adapters.adapt(policy, settings.adapter, adapters.TaskType.CAUSAL_LM)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
    scorers = {"gold": Scorer(count, "count")}
    without = measure(settings, run, asked, adapted, None, tokenizer, scorers)
    assert without["kl"] > 0.01
    assert without == pytest.approx(measure(settings, run, asked, adapted, reference, tokenizer, scorers), abs=1e-5)
    run.stop("failed", "on purpose")


def test_nothing_is_measured_without_prompts(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    metrics = execute(beside_chain("dpo", "eval_set.prompts=0"), tmp_path / "dpo")
    assert not {"gold", "kl", "win_rate"} & set(metrics)


@pytest.mark.parametrize("stage", ["dpo", "ppo"])
def test_both_methods_measure_the_same_under_the_same_names(
    beside_chain: Callable[..., Settings], tmp_path: Path, stage: str
) -> None:
    metrics = execute(beside_chain(stage), tmp_path / stage)
    assert {"gold", "win_rate", "kl", "length", "start/gold"} <= set(metrics)
    assert ("score" in metrics) == (stage == "ppo")
    manifest = Run.open(tmp_path / stage).manifest
    assert manifest["held_out"]["prompts"] == 4
    assert manifest["content"]["eval_set.samples"] == 2


def test_prompts_of_pairs_are_distinct(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    rows = [{"prompt": f"{n % 40}?", "chosen": "a", "rejected": f"b{n}"} for n in range(120)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = beside_chain("dpo", f"data.path={tmp_path}/pairs.jsonl", "data.holdout=0.5", "eval_set.prompts=100")
    run = Run.start(tmp_path / "dpo", settings)
    kept = prompts(settings, run)
    assert len(kept) == len(set(map(str, kept))) > 5
    run.stop("failed", "on purpose")


def test_a_reward_is_identified_by_its_code() -> None:
    from rlhf.almanac import gold

    assert "gold.py" in {path.name for path in sources(gold)}
    assert "facts.py" in {path.name for path in sources(gold)}
    assert sources(len) == []
