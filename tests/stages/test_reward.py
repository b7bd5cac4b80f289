from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf import models
from rlhf.config import Input, Settings
from rlhf.errors import DataError
from rlhf.parents import find_parent
from rlhf.rewards import RewardModel
from rlhf.run import Run
from rlhf.stages import execute


def test_it_loads_with_transformers_alone_and_its_scores_are_described(chain: Path) -> None:
    run = Run.open(chain / "almanac" / "reward")
    model = AutoModelForSequenceClassification.from_pretrained(run.model)
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    scorer = RewardModel(model, tokenizer, max_length=128)
    [score] = scorer([[{"role": "user", "content": "What is the capital of Peru?"}]], ["Lima."])
    metrics = run.manifest["metrics"]
    assert abs(score - metrics["scores/mean"]) < 20 * metrics["scores/std"] + 1
    assert metrics["scores/std"] > 0
    assert 0 <= metrics["test/accuracy"] <= 1


def test_the_head_of_an_adapter_is_saved_with_it(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    """A reward head that is lost on saving comes back random, and scores are noise (OpenRLHF #1342, peft #577)."""
    settings = beside_chain("reward", "adapter=lora", "adapter.dropout=0.0", "stage.trainer.learning_rate=0.1")
    execute(settings, tmp_path / "reward")
    parent = find_parent("reward", Input(str(tmp_path / "reward"), ("reward",)), settings)
    tokenizer = models.load_tokenizer(parent, settings.model)
    texts = ["Lima.", "I do not know.", "Paris is nice."]
    prompts = [[{"role": "user", "content": "What is the capital of Peru?"}]] * 3
    scores = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = models.load_reward_model(parent, settings.model, tokenizer)
        scores.append(RewardModel(model, tokenizer, max_length=128)(prompts, texts))
    assert scores[0] == scores[1]


def test_pairs_that_are_too_long_are_counted(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    execute(beside_chain("reward", "stage.trainer.max_length=60"), tmp_path / "reward")
    record = Run.open(tmp_path / "reward").manifest["data"]["preferences"]["train"]
    assert 0 < record["longer than max_length, left out"] < record["rows"] == 24


def test_without_a_longest_length_every_pair_is_kept(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    execute(beside_chain("reward", "stage.trainer.max_length=null"), tmp_path / "reward")
    record = Run.open(tmp_path / "reward").manifest["data"]["preferences"]["train"]
    assert record["longer than max_length, left out"] == 0


def test_a_length_that_leaves_no_pair_is_refused(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    message = r"every pair of data.preferences \(train\) is longer than stage.trainer.max_length=3: raise it"
    with pytest.raises(DataError, match=message):
        execute(beside_chain("reward", "stage.trainer.max_length=3"), tmp_path / "reward")


def test_a_leak_between_train_and_held_out_is_refused(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    row = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text(row)
    settings = beside_chain("reward", f"data.preferences.path={folder}")
    with pytest.raises(DataError, match="allow_leaks"):
        execute(settings, tmp_path / "reward")
