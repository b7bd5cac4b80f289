import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.config import Input, Settings
from rlhf.data import load
from rlhf.data.render import question
from rlhf.errors import ConfigError, DataError
from rlhf.modeling import loading
from rlhf.modeling.generation import generate
from rlhf.preference import negatives
from rlhf.preference.losses import bradley_terry
from rlhf.rewards import RewardModel
from rlhf.runs.parents import find_parent
from rlhf.runs.run import Run
from rlhf.stages import execute
from rlhf.training import loop
from rlhf.training.exact_resume import Keeper


def test_it_loads_with_transformers_alone_and_its_metrics_are_what_it_scores(
    chain: Path, settings: Callable[..., Settings]
) -> None:
    """The metrics of run.json equal a second computation, row by row and without padding."""
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
    tokenizer = loading.load_tokenizer(parent, settings.model)
    texts = ["Lima.", "I do not know.", "Paris is nice."]
    prompts = [[{"role": "user", "content": "What is the capital of Peru?"}]] * 3
    scores = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = loading.load_reward_model(parent, settings.model, tokenizer)
        scores.append(RewardModel(model, tokenizer, max_length=128)(prompts, texts))
    assert scores[0] == scores[1]


def test_head_and_adapter_come_back_to_the_bit(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = {}
    save = loading.save

    def keep(model, *others) -> None:
        trained.update({name: value.clone() for name, value in model.state_dict().items()})
        save(model, *others)

    monkeypatch.setattr(loading, "save", keep)
    settings = beside_chain("reward", "adapter=lora", "stage.trainer.learning_rate=0.1")
    execute(settings, tmp_path / "reward")
    parent = find_parent("policy", Input(settings.stage.policy, ("sft",)), settings)
    tokenizer = loading.load_tokenizer(parent, settings.model)
    worn = loading.load_members(parent, [tmp_path / "reward" / "model"], settings.model, tokenizer)
    found = {re.sub(r"(lora_[AB]|modules_to_save)\.0", r"\1.default", name): v for name, v in worn.state_dict().items()}
    ours = {name: value for name, value in trained.items() if "lora" in name or "score.modules_to_save" in name}
    assert any("score" in name for name in ours)
    for name, value in ours.items():
        assert torch.equal(found[name], value), name


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
    monkeypatch.setattr(loading, "load_reward_model", None)
    with pytest.raises(DataError, match=r"stage.margin=true, but the train pairs .* have no margin: add a"):
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
        (["+stage.trainer.eos_token=nope"], "eos_token cannot be set, since the rows are already token ids"),
    ],
)
def test_a_refusal_of_the_trainer_is_reported(
    beside_chain: Callable[..., Settings], tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        execute(beside_chain("reward", *overrides), tmp_path / "reward")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_argument_is_reported_before_a_model_is_loaded(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_reward_model", None)
    with pytest.raises(ConfigError, match="stage.trainer.learning_rate must be a number, got 'fast'"):
        execute(beside_chain("reward", "stage.trainer.learning_rate=fast"), tmp_path / "reward")


def ranked(path: Path, k: int = 3, **extra: object) -> str:
    """All pairs of rankings of ``k`` answers to each of sixty prompts."""
    answers = ["Yes, it is.", "It may be.", "No.", "?"][:k]
    rows = [
        {"prompt": f"Is it {i}?", "chosen": answers[a], "rejected": answers[b], **extra}
        for i in range(60)
        for a in range(k)
        for b in range(a + 1, k)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return f"data.path={path}"


def test_rankings_are_learned_from(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    own = (ranked(tmp_path / "pairs.jsonl"), "stage.trainer.max_steps=12", "stage.trainer.learning_rate=1e-2")
    final = execute(beside_chain("reward", "stage.loss=plackett_luce", *own), tmp_path / "reward")
    assert final["eval/loss"] < 1.5  # without learning it is log 3 + log 2 = 1.79
    assert final["test/accuracy"] > 0.9


def test_a_ranking_of_two_is_a_pair(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    own = ranked(tmp_path / "pairs.jsonl", k=2)
    for name, loss in (("pairs", "bradley_terry"), ("rankings", "plackett_luce")):
        execute(beside_chain("reward", f"stage.loss={loss}", own), tmp_path / name)
    one, other = (Run.open(tmp_path / name).manifest for name in ("pairs", "rankings"))
    assert one["metrics"]["eval/loss"] == pytest.approx(other["metrics"]["eval/loss"], abs=1e-5)
    assert one["metrics"]["scores/mean"] == pytest.approx(other["metrics"]["scores/mean"], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        (["stage.label_smoothing=0.3"], {}),
        ([], {"weight": 0.5}),  # the same for all: nothing changes
        (["+stage.trainer.center_rewards_coefficient=10.0"], {}),
    ],
)
def test_an_option_changes_the_loss_as_it_says(
    beside_chain: Callable[..., Settings], tmp_path: Path, options: list[str], extra: dict
) -> None:
    """At the start of training the scores are known to be small: the loss is log 2, whatever is smoothed."""
    still = ("stage.trainer.learning_rate=1e-9", "stage.trainer.max_steps=1")
    options = [option.replace("+stage.trainer.center", "stage.trainer.center") for option in options]
    plain = execute(beside_chain("reward", ranked(tmp_path / "a.jsonl", k=2), *still), tmp_path / "plain")
    other = execute(
        beside_chain("reward", ranked(tmp_path / "b.jsonl", k=2, **extra), *still, *options), tmp_path / "o"
    )
    rows = json.loads((tmp_path / "plain" / "rewardbench_scores.json").read_text())
    chosen, rejected = (torch.tensor(rows[f"scores_{side}"]) for side in ("chosen", "rejected"))
    smoothing = 0.3 if "stage.label_smoothing=0.3" in options else 0.0
    expected = bradley_terry(chosen, rejected, 0.0, smoothing).mean()
    if any("center" in option for option in options):
        expected += 10.0 * ((chosen + rejected) ** 2).mean()
    assert plain["eval/loss"] == pytest.approx(bradley_terry(chosen, rejected).mean().item(), rel=1e-4)
    assert other["eval/loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_the_best_model_is_kept_and_training_stops(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    """At a learning rate at which the held-out loss only grows, training ends early and the best weights are saved."""
    early = ("stage.early_stopping=1", "stage.trainer.eval_strategy=steps", "stage.trainer.save_steps=1")
    own = ("stage.trainer.max_steps=12", "stage.trainer.learning_rate=0.3", "stage.trainer.lr_scheduler_type=constant")
    final = execute(beside_chain("reward", *early, *own), tmp_path / "reward")
    lines = [json.loads(line) for line in (tmp_path / "reward" / "metrics.jsonl").read_text().splitlines()]
    seen = [line["eval/loss"] for line in lines if "eval/loss" in line]
    assert final["steps"] < 12
    assert final["eval/loss"] == pytest.approx(min(seen))
    assert seen[-2] > min(seen)  # the last is of the best model again


def test_an_ensemble_over_one_base(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    """The first member is the single model to the bit; the others are runs inside the run, and differ."""
    own = ("adapter=lora", "stage.trainer.learning_rate=0.05", "adapter.dropout=0.0")
    execute(beside_chain("reward", *own), tmp_path / "single")
    final = execute(beside_chain("reward", *own, "stage.ensemble=2"), tmp_path / "reward")
    first, second = Run.open(tmp_path / "reward"), Run.open(tmp_path / "reward" / "member-1")
    assert first.manifest["weights"] == Run.open(tmp_path / "single").manifest["weights"]
    assert first.manifest["weights"] != second.manifest["weights"]
    card = json.loads((tmp_path / "reward" / "metrics.json").read_text())
    assert len(card["members"]["accuracy"]) == 2
    assert final["test/deviation"] == card["members"]["deviation"] > 0

    rows = json.loads((tmp_path / "reward" / "rewardbench_scores.json").read_text())
    settings, found, parents = beside_chain("reward", *own), [], []
    for run in (first, second):
        parent = find_parent("reward", Input(str(run.directory), ("reward",)), settings)
        parents.append(parent)
        tokenizer = loading.load_tokenizer(parent, settings.model)
        scorer = RewardModel(loading.load_reward_model(parent, settings.model, tokenizer), tokenizer, max_length=128)
        found.append(scorer(rows["prompt"], rows["text_chosen"]))
        assert run.manifest["metrics"]["scores/std"] > 0
    worn = loading.load_adapted(parents, settings.model, tokenizer)  # as PPO loads an ensemble
    assert set(worn.peft_config) == {"0", "1"}
    mean = [(a + b) / 2 for a, b in zip(*found, strict=True)]
    assert mean == pytest.approx(rows["scores_chosen"], abs=1e-4)


def test_the_mean_of_an_ensemble_is_one_adapter(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    """Its products and its head are the means of the members', which start from the same head."""
    own = ("adapter=lora", "adapter.rank=2", "stage.trainer.learning_rate=0.05", "adapter.dropout=0.0")
    execute(beside_chain("reward", *own, "stage.ensemble=2", "stage.average=4"), tmp_path / "reward")
    merged = Run.open(tmp_path / "reward" / "member-average")
    assert {"scores/mean", "scores/std", "test/accuracy"} <= merged.manifest["metrics"].keys()
    assert merged.manifest["metrics"]["error"] < 1e-5
    settings, weights = beside_chain("reward", *own), []
    for place in ("reward", "reward/member-1", "reward/member-average"):
        parent = find_parent("reward", Input(str(tmp_path / place), ("reward",)), settings)
        tokenizer = loading.load_tokenizer(parent, settings.model)
        weights.append(loading.load_reward_model(parent, settings.model, tokenizer).state_dict())
    first, second, mean = weights
    for name, value in mean.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, atol=1e-6, rtol=1e-5)
    assert not torch.equal(first["score.weight"], second["score.weight"])


def test_pairs_that_balance_lengths_are_left_out_and_counted(
    beside_chain: Callable[..., Settings], tmp_path: Path
) -> None:
    rows = [{"prompt": f"{i}?", "chosen": "yes" if i % 3 else "yes!!", "rejected": "no!!"} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    own = (f"data.path={tmp_path}/pairs.jsonl", "data.ceiling=null")
    execute(beside_chain("reward", "stage.balance_lengths=5", *own), tmp_path / "reward")
    record = Run.open(tmp_path / "reward").manifest["data"]["preferences"]["train"]
    assert 0 < record["left out to balance lengths"] < record["rows"] / 2
    rows = [row for row in rows if row["chosen"] == "yes"]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(DataError, match=r"stage.balance_lengths=5 leaves no pair of data.preferences \(train\): set a"):
        execute(beside_chain("reward", "stage.balance_lengths=5", *own), tmp_path / "none")


def test_responses_of_the_base_model_are_negatives(
    beside_chain: Callable[..., Settings], chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those that stage=compare samples: to the question without a chat template. A resumed run reads them."""
    own = ("stage.negatives={sampled: 0.5}", f"stage.sampler={chain}/almanac/base", "stage.trainer.save_steps=1")
    settings, seen = beside_chain("reward", *own), []

    def noted(*arguments, **named) -> list:
        seen.append((arguments[2], generate(*arguments, **named)))
        return seen[-1][1]

    monkeypatch.setattr(negatives, "generate", noted)
    train = loop.train

    def interrupted(*parts, **options) -> dict:
        train(*parts, **options)
        raise KeyboardInterrupt

    execute(settings, tmp_path / "whole")
    manifest = Run.open(tmp_path / "whole").manifest
    assert manifest["parents"]["sampler"]["stage"] == "base"
    assert manifest["data"]["preferences"]["train"]["negatives"] == {"sampled": 12}
    [(prompts, _)] = seen
    assert len(prompts) == 12
    assert all(isinstance(prompt, str) and "<|" not in prompt for prompt in prompts)
    monkeypatch.setattr(loop, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(settings, tmp_path / "reward")
    assert seen[1] == seen[0]
    monkeypatch.setattr(loop, "train", train)
    execute(beside_chain("reward", *own, "resume=true"), tmp_path / "reward")
    assert len(seen) == 2
    assert Run.open(tmp_path / "reward").manifest["weights"] == manifest["weights"]


def test_an_interrupted_ensemble_continues_with_the_interrupted_member(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ("adapter=lora", "stage.ensemble=2", "stage.trainer.save_steps=1")
    execute(beside_chain("reward", *own), tmp_path / "whole")
    train, trained = loop.train, []

    def interrupted(*parts, **options) -> dict:
        trained.append(options["before"])
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(*parts, **options)

    monkeypatch.setattr(loop, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(beside_chain("reward", *own), tmp_path / "reward")
    execute(beside_chain("reward", *own, "resume=true"), tmp_path / "reward")
    assert trained == [0, 2, 2]  # the first member is not trained again
    for name in ("", "member-1"):
        one, other = (Run.open(tmp_path / run / name).manifest for run in ("whole", "reward"))
        assert one["weights"] == other["weights"]
        assert one["metrics"] == other["metrics"]
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "reward" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("own", [(), ("adapter=lora", "stage.ensemble=2")], ids=["full", "adapters"])
def test_a_resumed_run_with_a_residual_head_is_the_uninterrupted_one(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: tuple[str, ...]
) -> None:
    """The weights of the head and their optimizer state are in the checkpoint, and not in the model."""
    own = (*own, "stage.residual=[length,bold]", "stage.trainer.save_steps=1", "stage.trainer.max_steps=3")
    whole = execute(beside_chain("reward", *own), tmp_path / "whole")
    assert whole["eval/residual/length"] != 0
    assert whole["eval/residual/bold"] == 0  # the data has no bold text
    assert 0 <= whole["eval/accuracy_with_residual"] <= 1
    saved = load_file(next((tmp_path / "whole" / "model").glob("*.safetensors")))
    assert not any("residual" in name for name in saved)
    on_save = Keeper.on_save

    def interrupted(*parts, **named) -> None:
        on_save(*parts, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(Keeper, "on_save", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            execute(beside_chain("reward", *own, "resume=true"), tmp_path / "reward")
    monkeypatch.setattr(Keeper, "on_save", on_save)
    execute(beside_chain("reward", *own, "resume=true"), tmp_path / "reward")
    for name in ("", "member-1") if "adapter=lora" in own else ("",):
        one, other = (Run.open(tmp_path / run / name).manifest for run in ("whole", "reward"))
        assert one["weights"] == other["weights"]
        assert one["metrics"] == other["metrics"]
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "reward" / "metrics.jsonl").read_text()


def test_members_are_replaced_with_their_run(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    execute(beside_chain("reward", "adapter=lora", "stage.ensemble=2"), tmp_path / "reward")
    execute(beside_chain("reward", "adapter=lora", "overwrite=true"), tmp_path / "reward")
    assert not (tmp_path / "reward" / "member-1").exists()
