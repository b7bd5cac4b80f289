import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf import models
from rlhf.config import Input, Settings
from rlhf.data import load
from rlhf.data.render import question
from rlhf.errors import ConfigError, DataError
from rlhf.generate import generate
from rlhf.parents import find_parent
from rlhf.rewards import RewardModel
from rlhf.run import Run
from rlhf.stages import execute


def test_it_loads_with_transformers_alone_and_its_metrics_are_what_it_scores(
    chain: Path, settings: Callable[..., Settings]
) -> None:
    """A second computation, a row at a time and without padding, of what run.json says."""
    run = Run.open(chain / "almanac" / "reward")
    model = AutoModelForSequenceClassification.from_pretrained(run.model)
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    policy = AutoModelForCausalLM.from_pretrained(chain / "almanac" / "sft" / "model")
    one = settings("reward")

    def score(prompt: list[dict], answer: str) -> float:
        talk = [*prompt, {"role": "assistant", "content": answer}]
        ids = tokenizer.apply_chat_template(talk, return_dict=True, return_tensors="pt")
        return model(**ids).logits.item()

    prompts = load(one.data, "preferences", "train", one.seed)["prompt"][:4]  # stage.statistics_prompts
    said = generate(
        policy, tokenizer, prompts, max_prompt_length=128, max_response_length=4, temperature=0.7, seed=one.seed,
        batch_size=64,
    )  # fmt: skip
    scores = torch.tensor([score(prompt, response.text) for prompt, response in zip(prompts, said, strict=True)])
    held_out = load(one.data, "preferences", "test", one.seed)
    wins = [
        score(row["prompt"], question(row["chosen"])) > score(row["prompt"], question(row["rejected"]))
        for row in held_out
    ]
    metrics = run.manifest["metrics"]
    assert metrics["scores/mean"] == pytest.approx(scores.mean().item(), rel=1e-4)
    assert metrics["scores/std"] == pytest.approx(scores.std().item(), rel=1e-3)
    assert metrics["test/accuracy"] == pytest.approx(sum(wins) / len(wins))


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


def test_margins_that_are_not_there_are_missed_before_a_model_is_loaded(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load_reward_model", None)
    with pytest.raises(DataError, match=r"stage.margin=true, but the train pairs .* have no margin: give every row"):
        execute(beside_chain("reward", "stage.margin=true"), tmp_path / "reward")
    assert list(tmp_path.iterdir()) == []


def test_margins_that_are_there_are_used(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    """A margin that no score reaches makes the loss large."""
    rows = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no", "margin": 50} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings = beside_chain("reward", "stage.margin=true", f"data.path={tmp_path}/pairs.jsonl", "data.ceiling=null")
    assert execute(settings, tmp_path / "reward")["eval/loss"] > 40


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter=lora", "adapter.target_modules=[nope]"], "adapter.target_modules={'nope'} cannot be used"),
        (["+stage.trainer.eos_token=nope"], r"stage.trainer cannot be used \(The specified `eos_token` \('nope'\)"),
    ],
)
def test_what_the_trainer_refuses_is_told(
    beside_chain: Callable[..., Settings], tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        execute(beside_chain("reward", *overrides), tmp_path / "reward")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_argument_is_told_before_a_model_is_loaded(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load_reward_model", None)
    with pytest.raises(ConfigError, match="stage.trainer.learning_rate must be a number, got 'fast'"):
        execute(beside_chain("reward", "stage.trainer.learning_rate=fast"), tmp_path / "reward")
