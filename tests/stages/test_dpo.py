import inspect
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from rlhf.config import DPOStage, Settings
from rlhf.config.stages import LOSSES, OWN_LOSSES
from rlhf.errors import ConfigError, DataError
from rlhf.modeling import loading
from rlhf.preference import reference
from rlhf.runs.run import Run
from rlhf.stages import execute
from rlhf.stages.dpo import Attributed, own_losses, weighted
from rlhf.storage import digests
from rlhf.training import loop
from tests.conftest import composed, tiny_overrides


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_it_moves_away_from_the_reference(
    chain: Path, beside_chain: Callable[..., Settings], tmp_path: Path, adapter: str
) -> None:
    """At the first step policy and reference agree, so the loss is log 2; training then widens the margin."""
    overrides = [
        "stage.loss=[sigmoid]",
        f"adapter={adapter}",
        "stage.trainer.learning_rate=0.01",
        "stage.trainer.warmup_steps=0",
    ]
    metrics = execute(beside_chain("dpo", *overrides, "stage.trainer.max_steps=6"), tmp_path / "dpo")
    run = Run.open(tmp_path / "dpo")
    first = (run.directory / "metrics.jsonl").read_text().splitlines()[0]
    assert '"train/loss": 0.6931' in first
    assert run.manifest["parents"]["policy"]["digest"] == Run.open(chain / "almanac" / "sft").manifest["weights"]
    assert metrics["eval/loss"] != pytest.approx(0.6931, abs=1e-4)
    assert metrics["objective"] == metrics["eval/rewards/accuracies"]


def test_another_reference_is_not_the_policy(
    chain: Path, beside_chain: Callable[..., Settings], tmp_path: Path
) -> None:
    """At the first step the policy differs from the reference already; cached log-probabilities change nothing."""
    fast = ["stage.trainer.learning_rate=0.05", "stage.trainer.warmup_steps=0", "adapter=lora", "eval_set.prompts=0"]
    execute(beside_chain("dpo", *fast), tmp_path / "first")
    given = [f"stage.policy={tmp_path}/first", f"stage.reference={chain}/almanac/sft", *fast[2:]]
    logs = []
    for cached in ("true", "false"):
        execute(beside_chain("dpo", *given, f"stage.cache_reference={cached}"), tmp_path / cached)
        lines = (tmp_path / cached / "metrics.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
        assert set(Run.open(tmp_path / cached).manifest["parents"]) == {"policy", "reference"}
    assert abs(logs[0][0]["train/rewards/margins"]) > 1e-4
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_pairs_that_trl_cuts_or_leaves_out_are_counted(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against TRL's own rows, which it cuts batch by batch."""
    prepared = {}
    train = loop.train

    def spy(trainer: DPOTrainer, run: Run, *rest) -> dict[str, float]:
        prepared[run.directory.name] = {"train": trainer.train_dataset, "validation": trainer.eval_dataset}
        return train(trainer, run, *rest)

    monkeypatch.setattr(loop, "train", spy)
    for longest in ("null", "36"):
        execute(beside_chain("dpo", f"stage.trainer.max_length={longest}"), tmp_path / longest)
    recorded = {name: Run.open(tmp_path / name).manifest["data"]["preferences"] for name in prepared}
    for split in ("train", "validation"):
        left_out = 24 - len(prepared["36"][split])
        cut = sum(longest_of(row) > 36 for row in prepared["36"][split])
        assert left_out > 0
        assert cut > 0
        assert recorded["36"][split]["longer than max_length, cut"] == cut
        assert recorded["36"][split]["prompt fills max_length, left out"] == left_out
        assert recorded["null"][split]["longer than max_length, cut"] == 0
        assert recorded["null"][split]["prompt fills max_length, left out"] == 0


def longest_of(row: dict[str, list[int]]) -> int:
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def test_a_length_that_leaves_no_pair_is_refused(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    message = r"every prompt of data.preferences \(train\) is at least as long as stage.trainer.max_length=3: raise it"
    with pytest.raises(DataError, match=message):
        execute(beside_chain("dpo", "stage.trainer.max_length=3"), tmp_path / "dpo")


def test_equal_responses_are_refused(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    same = tmp_path / "same.jsonl"
    same.write_text('{"prompt": "a", "chosen": "b", "rejected": "b"}\n')
    with pytest.raises(DataError, match=r"same\.jsonl:1"):
        execute(beside_chain("dpo", f"data.path={same}"), tmp_path / "dpo")


@pytest.mark.parametrize("stage", ["dpo", "reward"])
def test_impossible_sharing_is_refused_before_a_model_is_loaded(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(loading, "_load", None)
    overrides = ["stage.shared_prefix=on", "model.attention=eager"]
    with pytest.raises(ConfigError, match="shared_prefix=on is not possible, since model.attention=eager does not"):
        execute(beside_chain(stage, *overrides), tmp_path / stage)


def test_a_reference_that_moves_is_not_kept(beside_chain: Callable[..., Settings]) -> None:
    with pytest.raises(ConfigError, match="stage.trainer.sync_ref_model=True needs .* stage.cache_reference=false"):
        beside_chain("dpo", "+stage.trainer.sync_ref_model=true")
    beside_chain("dpo", "+stage.trainer.sync_ref_model=true", "stage.cache_reference=false")


def test_the_losses_are_those_that_trl_computes() -> None:
    source = inspect.getsource(DPOTrainer)
    assert tuple(re.findall(r'if loss_type == "(\w+)"', source)) == LOSSES


@pytest.mark.parametrize(("mode", "limit"), [("keep_start", None), ("keep_start", 6), ("keep_end", 6)])
def test_in_completions_of_several_turns_the_others_turns_count_nothing(mode: str, limit: int | None) -> None:
    """Ids 1 2 | 3 4 5 6 7 8, of which 5 6 are the user's; and 1 2 | 9."""
    pair = {"prompt_ids": [1, 2], "chosen_ids": [3, 4, 5, 6, 7, 8], "rejected_ids": [9]}
    pair |= {"chosen_heard": [2, 4], "rejected_heard": []}
    collator = Attributed(DataCollatorForPreference(pad_token_id=0, max_length=limit, truncation_mode=mode))
    batch = collator([pair])
    learned = [
        ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    assert learned == [[id for id in (3, 4, 7, 8) if id in batch["input_ids"][0]], [9]]
    assert len(batch["input_ids"][0]) == (limit or 8)


def test_a_smoothed_loss_is_that_of_the_pair_and_of_the_flipped_pair(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against the formula, from the margin that TRL measures on one pair of which policy and reference differ."""
    found = {}

    def look(trainer: DPOTrainer, run: Run, *rest: object) -> dict[str, float]:
        batch = next(iter(trainer.get_train_dataloader()))
        batch["ref_chosen_logps"] -= 8.0
        loss = trainer.compute_loss(trainer.model, batch).item()
        found[run.directory.name] = (trainer._metrics["eval"]["rewards/margins"][-1], loss)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", look)
    for smoothing in (0.0, 0.25):
        one = ["stage.loss=[sigmoid]", "stage.beta=0.5", "stage.trainer.per_device_train_batch_size=1"]
        with pytest.raises(KeyboardInterrupt):
            execute(beside_chain("dpo", *one, f"stage.label_smoothing={smoothing}"), tmp_path / str(smoothing))
    (x, plain), (same, smooth) = found["0.0"], found["0.25"]
    assert x == same == pytest.approx(4.0, abs=1e-4)
    assert plain == pytest.approx(0.0181499, abs=1e-5)  # -log σ(4)
    assert smooth == pytest.approx(0.75 * 0.0181499 + 0.25 * 4.0181499, abs=1e-4)


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("loss", ["simpo", "orpo", "sft"])
def test_a_loss_without_a_reference_builds_and_caches_none(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str, adapter: str
) -> None:
    """Losses, gradients and metrics are the same with shared prefixes, and follow from log-probabilities."""
    monkeypatch.setattr(reference, "with_log_probs", None)
    found = {}

    def look(trainer: Any, run: Run, *rest: object) -> dict[str, float]:
        assert trainer.ref_model is None
        trainer.model.train()
        batch = next(iter(trainer.get_train_dataloader()))
        value = trainer.compute_loss(trainer.model, batch)
        value.backward()
        gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
        measured = {key: values[-1] for key, values in trainer._metrics["train"].items()}
        lengths = batch["completion_mask"][:, 1:].sum(1)
        found[run.directory.name] = (value.item(), gradients, measured, lengths)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", look)
    for shared in ("on", "off"):
        given = [f"stage.loss=[{loss}]", f'stage.shared_prefix="{shared}"', f"adapter={adapter}"]
        settings = beside_chain("dpo", *given, "stage.trainer.per_device_train_batch_size=1")
        with pytest.raises(KeyboardInterrupt):
            execute(settings, tmp_path / shared)
    (value, gradients, measured, lengths), (plain, plainly, apart, _) = found["on"], found["off"]
    assert value == pytest.approx(plain, rel=1e-5)
    assert measured == pytest.approx(apart, rel=1e-4, abs=1e-5)
    assert gradients.keys() == plainly.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, plainly[name], rtol=1e-5, atol=1e-5 * plainly[name].abs().max().item())
    means = [measured[f"logps/{side}"] / n for side, n in zip(("chosen", "rejected"), lengths.tolist(), strict=True)]
    stage = settings.stage_as(DPOStage)
    assert measured["rewards/margins"] == pytest.approx(stage.beta * (means[0] - means[1]), abs=1e-5)
    if loss != "sft":
        assert [name for name, _ in weighted(stage)] == [loss]
        [(own, weight)] = own_losses(stage)
        assert value == pytest.approx(weight * own(*torch.tensor(means).unsqueeze(1)).item(), rel=1e-5)


def test_own_losses_are_added_to_those_of_trl(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``sigmoid`` beside it, a loss without a reference leaves the reference in its place."""
    losses = {}

    def look(trainer: Any, run: Run, *rest: object) -> dict[str, float]:
        batch = next(iter(trainer.get_train_dataloader()))
        losses[run.directory.name] = trainer.compute_loss(trainer.model, batch).item()
        assert "ref_chosen_logps" in batch or run.directory.name == "simpo"
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", look)
    for name in ("simpo", "sigmoid", "simpo,sigmoid"):
        weights = ["+stage.trainer.loss_weights=[0.5,2.0]"] if "," in name else []
        with pytest.raises(KeyboardInterrupt):
            execute(beside_chain("dpo", f"stage.loss=[{name}]", "stage.beta=2", *weights), tmp_path / name)
    both = 0.5 * losses["simpo"] + 2 * losses["sigmoid"]
    assert losses["simpo,sigmoid"] == pytest.approx(both, rel=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["stage.loss=[orpo]", "stage.gamma_beta_ratio=0.5"], "stage.gamma_beta_ratio=0.5 has no effect under"),
        (["stage.loss=[simpo]", "stage.gamma_beta_ratio=null"], "stage.gamma_beta_ratio must be a number for"),
        (["stage.loss=[simpo]", "+stage.trainer.sync_ref_model=true"], "sync_ref_model=True has no effect under"),
        (["stage.loss=[orpo,sigmoid]", "+stage.trainer.ld_alpha=0.5"], "ld_alpha=0.5 has no effect under"),
        (["stage.loss=[simpo]", "stage.label_smoothing=0.1"], "stage.label_smoothing=0.1 has no effect under"),
    ],
)
def test_settings_that_a_loss_does_not_read_are_refused(
    beside_chain: Callable[..., Settings], given: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        beside_chain("dpo", *given)


def test_defaults_follow_the_loss() -> None:
    """Values of Zephyr, Tülu 3, SimPO's Llama-3-Base and ORPO's Mistral; of several losses, the first that has one."""
    found = {}
    for loss in ("sigmoid", "sigmoid_norm", *OWN_LOSSES, "sft,simpo"):
        stage = composed("stage=dpo", "experiment=none", "data=local", f"stage.loss=[{loss}]").stage_as(DPOStage)
        found[loss] = (stage.beta, stage.gamma_beta_ratio, stage.trainer["learning_rate"])
    simpo = (2.0, 0.5, 6e-7)
    expected = {"sigmoid": (0.1, None, 5e-7), "sigmoid_norm": (5.0, None, 5e-7), "orpo": (0.1, None, 5e-6)}
    assert found == expected | {"simpo": simpo, "sft,simpo": simpo}


def test_no_file_and_no_tokenizer_is_digested_twice(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second start on; a file of the last two seconds may still change, so it is read each time."""
    cache, read, texts = tmp_path / "cache", [], []
    settings = beside_chain("dpo", f"data.cache={cache}")
    execute(settings, tmp_path / "first")
    for path in cache.glob("*/*"):
        os.utime(path, ns=(path.stat().st_mtime_ns - 2 * digests.SETTLED,) * 2)
    digest, text_digest = digests.file_digest, digests.text_digest
    monkeypatch.setattr(digests, "file_digest", lambda path: read.append(str(path)) or digest(path))
    monkeypatch.setattr(digests, "text_digest", lambda text: texts.append(text) or text_digest(text))
    execute(settings, tmp_path / "second")
    assert [path for path, count in Counter(read).items() if count > 1] == []
    assert any(path.startswith(str(cache)) for path in read)
    assert len([text for text in texts if text.startswith("[[")]) == 1  # a vocabulary


FIRST_STEP = """
import os, sys
from rlhf.cli import main
from rlhf.training import loop

def began(*_, **__):
    print("IMPORTED", *{name.partition(".")[0] for name in sys.modules}, flush=True)
    os._exit(0)

loop.Reporter.on_step_begin = began
main.main()
"""
# transformers imports scipy and httpx2, and datasets imports pandas.
LATER = {"sklearn", "matplotlib", "evaluate", "rapidfuzz", "openai", "starlette", "uvicorn", "gguf"}


def test_the_first_step_begins_without_the_imports_of_later_work(chain: Path, tmp_path: Path) -> None:
    """They are for reports, pages and remote rewards, and take seconds that the first step would wait for."""
    words = [*tiny_overrides("dpo", tmp_path), f"stage.policy={chain}/almanac/sft"]
    done = subprocess.run([sys.executable, "-c", FIRST_STEP, *words], capture_output=True, text=True, check=False)
    imported = done.stdout.rpartition("IMPORTED ")[2].split()
    assert {"torch", "trl"} <= set(imported), done.stderr
    assert not LATER & set(imported)
