"""Rewards from settings and runs: models, statistics, and errors before anything is loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rlhf.config import Settings
from rlhf.errors import ConfigError, LineageError, ModelError
from rlhf.modeling import loading
from rlhf.rewards import CompositeReward, Ensemble, FixedNormalizer, LengthReward, RewardModel, Scorer
from rlhf.rewards.build import Builder, statistics
from rlhf.rewards.distance import FILE, Distance
from rlhf.runs.parents import find_parents
from rlhf.runs.run import Run
from rlhf.stages import execute
from tests.conftest import composed, tiny_overrides
from tests.rewards.test_model import new_encoder

Build = Callable[..., Builder]
PROMPTS = [[{"role": "user", "content": "What is the capital of Peru?"}]] * 2
TEXTS = ["Lima.", "No, it is not, not at all."]


@pytest.fixture
def builder(chain: Path, tmp_path: Path) -> Build:
    """Return a function that makes a Builder for stage=ppo with the chain's policy."""

    def of(*overrides: str) -> Builder:
        settings: Settings = composed(*tiny_overrides("ppo", tmp_path), f"stage.policy={chain}/almanac/sft", *overrides)
        parents = find_parents(settings)
        return Builder(settings, parents, loading.load_tokenizer(parents["policy"], settings.model))

    return of


@pytest.fixture(scope="module")
def measured(chain: Path) -> FixedNormalizer:
    metrics = Run.open(chain / "almanac" / "reward").manifest["metrics"]
    return FixedNormalizer(metrics["scores/mean"], metrics["scores/std"])


def test_a_single_reward_run_is_a_plain_reward_with_its_statistics(
    builder: Build, chain: Path, measured: FixedNormalizer
) -> None:
    reward, normal = builder(f"stage.reward={chain}/almanac/reward").reward()
    assert isinstance(reward, RewardModel)
    assert normal == measured


def test_with_other_terms_the_run_is_one_and_the_sum_is_not_normalized(
    builder: Build, chain: Path, measured: FixedNormalizer
) -> None:
    run = f"{chain}/almanac/reward"
    terms = f"stage.rewards={{again: {{run: {run}, weight: 2}}, brief: {{length: {{max: 3}}}}}}"
    one = builder(terms, f"stage.reward={run}")
    reward, normal = one.reward()
    assert isinstance(reward, CompositeReward)
    assert normal == (0.0, 1.0)
    assert list(reward.terms) == ["reward", "again", "brief"]
    assert [term.normalization for term in reward.terms.values()] == [measured, None, None]
    raw = reward.terms["again"].function(PROMPTS, TEXTS)
    expected = [score + 2 * plain for score, plain in zip(measured(raw), raw, strict=True)]
    assert reward(PROMPTS, TEXTS) == pytest.approx([expected[0], expected[1] - 4], abs=1e-5)
    plain = builder(terms, f"stage.reward={run}", "stage.normalize_scores=false").reward()[0]
    assert plain.terms["reward"].normalization is None


def test_stored_statistics_are_those_of_the_run(builder: Build, chain: Path, measured: FixedNormalizer) -> None:
    terms = f"stage.rewards={{a: {{run: {chain}/almanac/reward, normalization: stored}}}}"
    assert builder(terms).reward()[0].terms["a"].normalization == measured


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a third-party encoder with one output and a different tokenizer."""
    folder = tmp_path_factory.mktemp("foreign")
    model, tokenizer = new_encoder()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_classifier_from_elsewhere_reads_with_its_own_tokenizer(builder: Build, foreign: Path) -> None:
    """It has 16 positions, even if the policy's texts are longer."""
    reward, _ = builder(f"stage.rewards={{other: {{run: {foreign}}}}}", "model.chat_template=plain").reward()
    model = reward.terms["other"].function
    assert model.max_length == 16
    ids = model.encode("a good day " * 9, "bad")
    assert model.tokenizer.convert_ids_to_tokens(ids)[:3] == ["[CLS]", "day", "a"]
    assert len(reward(["a good day"] * 2, [" one bad", " good"])) == 2


def test_a_run_without_statistics_cannot_be_normalized_by_them(builder: Build, foreign: Path) -> None:
    with pytest.raises(LineageError, match="holds no statistics.*running or none"):
        builder(f"stage.rewards={{other: {{run: {foreign}, normalization: stored}}}}").reward()


def test_scores_without_statistics_are_not_normalized_with_a_message(
    builder: Build, foreign: Path, capsys: pytest.CaptureFixture
) -> None:
    made = builder(f"stage.reward={foreign}")
    assert made.reward()[1] == (0.0, 1.0)
    assert f"{foreign} is not a run of stage=reward" in capsys.readouterr().out
    builder(f"stage.reward={foreign}", "stage.normalize_scores=false").reward()
    assert "not a run of stage=reward" not in capsys.readouterr().out
    assert statistics(made.parents["reward"]) is None


def test_a_language_model_is_not_a_reward_model(builder: Build, chain: Path) -> None:
    """Its head would be random, and PPO would optimize it."""
    with pytest.raises(ModelError, match="no head that scores"):
        builder(f"stage.rewards={{a: {{run: {chain}/almanac/sft/model}}}}").reward()


def test_a_classifier_with_two_outputs_is_refused(builder: Build, tmp_path: Path) -> None:
    model, tokenizer = new_encoder(outputs=2)
    model.save_pretrained(tmp_path / "two")
    tokenizer.save_pretrained(tmp_path / "two")
    with pytest.raises(ModelError, match="another number of outputs"):
        builder(f"stage.rewards={{a: {{run: {tmp_path}/two}}}}").reward()


def test_functions_are_imported_before_a_model_is_loaded(
    builder: Build, chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_reward_model", lambda *_, **__: pytest.fail("a model was loaded"))
    terms = f"{{a: {{run: {chain}/almanac/reward}}, b: {{function: no_such_module:f}}}}"
    with pytest.raises(ConfigError, match="no_such_module"):
        builder(f"stage.rewards={terms}").reward()


def test_terms_without_a_model(builder: Build, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(prompts, completions): return [float(len(t)) for t in completions]")
    terms = f"{{mine: {{function: {tmp_path}/mine.py:score}}, brief: {{length: {{max: 1}}, weight: 0.5}}}}"
    reward, normal = builder(f"stage.rewards={terms}").reward()
    assert normal == (0.0, 1.0)
    assert reward(PROMPTS, TEXTS) == [5, len(TEXTS[1]) - 0.5 * 6]
    assert isinstance(reward.terms["brief"].function, LengthReward)


def test_gold_is_that_of_the_data_a_run_or_none(builder: Build, chain: Path, measured: FixedNormalizer) -> None:
    plain = [*("stage.reward=null", "stage.rewards={brief: {length: {max: 1}}}")]
    good, bad = builder(*plain).gold()([PROMPTS[0]] * 2, ["The capital of Peru is Lima.", "Berlin."])
    assert good > bad
    assert builder(*plain, "stage.gold=null").gold() is None
    run = f"{chain}/almanac/reward"
    raw = builder(*plain, f"stage.gold={{run: {run}}}").gold()(PROMPTS, TEXTS)
    brought = builder(*plain, f"stage.gold={{run: {run}, normalization: stored}}").gold()(PROMPTS, TEXTS)
    assert brought == pytest.approx(measured(raw))


@pytest.fixture(scope="module")
def adapted(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return two reward runs: adapters and heads on the chain's policy, with different seeds."""
    root = tmp_path_factory.mktemp("adapted")
    for seed in (1, 2):
        own = (f"stage.policy={chain}/almanac/sft", "adapter=lora", f"seed={seed}", "stage.trainer.learning_rate=0.05")
        execute(composed(*tiny_overrides("reward", root), *own), root / str(seed))
    return [root / "1", root / "2"]


def test_adapters_on_one_base_are_loaded_together(
    builder: Build, adapted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They score like the same adapters loaded and merged separately."""
    apart = [builder(f"stage.rewards={{a: {{run: {run}}}}}").reward()[0](PROMPTS, TEXTS) for run in adapted]
    loaded: list[Any] = []
    load = loading.load_reward_model
    monkeypatch.setattr(loading, "load_reward_model", lambda *a, **k: loaded.append(a) or load(*a, **k))
    runs = f"[{adapted[0]}, {adapted[1]}]"
    reward, _ = builder(f"stage.rewards={{sure: {{ensemble: {{runs: {runs}, deviations: 2}}}}}}").reward()
    assert len(loaded) == 1
    ensemble = reward.terms["sure"].function
    assert isinstance(ensemble, Ensemble)
    together = [member(PROMPTS, TEXTS) for member in ensemble.members]
    for one, other in zip(apart, together, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert abs(apart[0][0] - apart[1][0]) > 1e-3
    scores = torch.tensor(together, dtype=torch.float64)
    expected = scores.mean(0) - 2 * scores.std(0, unbiased=False)
    assert reward(PROMPTS, TEXTS) == pytest.approx(expected.tolist())
    lowest, _ = builder(f"stage.rewards={{sure: {{ensemble: {{runs: {runs}, deviations: null}}}}}}").reward()
    assert lowest(PROMPTS, TEXTS) == pytest.approx(scores.amin(0).tolist())


def test_other_runs_are_members_with_separate_normalization(
    builder: Build, chain: Path, adapted: list[Path], measured: FixedNormalizer
) -> None:
    runs = f"[{chain}/almanac/reward, {adapted[0]}]"
    terms = f"{{sure: {{ensemble: {{runs: {runs}}}, normalization: stored}}}}"
    ensemble = builder(f"stage.rewards={terms}").reward()[0].terms["sure"].function
    own = Run.open(adapted[0]).manifest["metrics"]
    assert ensemble.statistics == [measured, (own["scores/mean"], own["scores/std"])]
    assert builder(f"stage.rewards={terms}").reward()[0].terms["sure"].normalization is None


def test_far_responses_are_counted_and_their_score_is_lowered(
    builder: Build, beside_chain: Callable[..., Settings], chain: Path, tmp_path: Path
) -> None:
    execute(beside_chain("reward", "stage.distance_rows=30"), tmp_path / "reward")
    run = f"stage.reward={tmp_path}/reward"
    distance = Distance.load(tmp_path / "reward")
    assert distance is not None
    save_file(
        {name: value * 0 if name == "limit" else value for name, value in vars(distance).items()},
        tmp_path / "reward" / FILE,
    )
    plain, penalized = (builder(run, f"stage.distance_coef={coef}").reward() for coef in (0, 3))
    scorer = Scorer(plain[0])
    scores, found = scorer(PROMPTS, TEXTS), plain[0].detailed(PROMPTS, TEXTS)[1]
    metrics = scorer.metrics()
    assert metrics == {"reward/distance": pytest.approx(sum(found["distance"]) / 2), "reward/far": 1.0}
    lowered = [score - 3 * plain[1].std * far for score, far in zip(scores, found["distance"], strict=True)]
    assert penalized[0](PROMPTS, TEXTS) == pytest.approx(lowered, rel=1e-5)
    terms = f"stage.rewards={{again: {{run: {tmp_path}/reward}}}}"
    scorer = Scorer(builder(terms, run).reward()[0])
    scorer(PROMPTS, TEXTS)
    assert {"reward/again_far", "reward/reward_distance"} < scorer.metrics().keys()


def test_a_penalty_without_a_distance_is_refused(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(
        LineageError, match=r"stage.distance_coef=2 needs a distance, which stage.reward=.* lacks: train"
    ):
        execute(beside_chain("ppo", "stage.distance_coef=2"), tmp_path / "ppo")
