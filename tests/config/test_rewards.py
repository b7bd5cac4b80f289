"""Composed rewards from the command line, and their defaults in stage.reward_defaults."""

import re
from collections.abc import Callable

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rlhf import ppo
from rlhf.cli.main import explain
from rlhf.config import Input, Normalization, RewardTermSettings, Settings
from rlhf.config.rewards import reward_terms
from rlhf.errors import ConfigError
from rlhf.runs.identity import content
from rlhf.runs.parents import Parent
from tests.conftest import composed


def refusal(*overrides: str) -> str:
    with pytest.raises((ConfigError, OmegaConfBaseException, HydraException)) as told:
        composed("stage=ppo", *overrides)
    return explain(told.value)


def test_by_default_the_reward_run_alone_scores_and_gold_is_the_datas() -> None:
    stage = composed("stage=ppo", "name=x").stage
    assert (stage.reward, stage.rewards, stage.critic) == ("checkpoints/x/reward", None, None)
    assert stage.terms() == {}
    assert set(stage.inputs()) == {"policy", "reward"}
    assert stage.gold_term().function == "rlhf.almanac:gold"
    assert composed("stage=ppo", "data.path=mine.jsonl").stage.gold_term() is None


def test_terms_take_the_place_of_the_reward_run_unless_it_is_given_too() -> None:
    terms = "stage.rewards={mine: {function: my_module:score}, brief: {length: {max: 40}, weight: 0.1}}"
    stage = composed("stage=ppo", terms).stage
    assert stage.reward is None
    assert set(stage.inputs()) == {"policy"}
    both = composed("stage=ppo", terms, "stage.reward=runs/reward").stage
    assert both.reward == "runs/reward"
    assert list(both.terms()) == ["mine", "brief"]


def test_what_a_term_does_not_say_is_as_term_says() -> None:
    terms = (
        "stage.rewards={a: {run: runs/a, normalization: stored}, b: {ensemble: {runs: [runs/b, c/d]}},"
        " c: {remote: {url: 'https://host/x', attempts: 3}, weight: -2},"
        " d: {format: {ends_with: ['.'], max_words: 9}}}"
    )
    found = composed(
        "stage=ppo", terms, "stage.reward_defaults.weight=0.5", "stage.reward_defaults.remote.timeout=7"
    ).stage.terms()
    assert [term.sources() for term in found.values()] == [["run"], ["ensemble"], ["remote"], ["format"]]
    assert [term.weight for term in found.values()] == [0.5, 0.5, -2, 0.5]
    assert [found["c"].remote.attempts, found["c"].remote.timeout, found["a"].remote.attempts] == [3, 7.0, 6]
    assert found["a"].normalization is Normalization.stored
    assert found["b"].ensemble.deviations == 1.0
    lowest = composed("stage=ppo", "stage.rewards={a: {ensemble: {runs: [x, y], deviations: null}}}").stage.terms()
    assert lowest["a"].ensemble.deviations is None
    verifiable = (
        "stage.rewards={a: {exact: {column: x}}, b: {number: {column: y, relative: 0.1}}, c: {ifeval: {score: all}}}"
    )
    found |= composed("stage=ppo", verifiable).stage.terms()
    assert [found[name].sources() for name in "abc"] == [["exact"], ["number"], ["ifeval"]]
    assert found["a"].exact.ignore == ["case", "punctuation", "articles", "whitespace"]
    assert (found["d"].format.ends_with, found["d"].format.max_words, found["d"].format.pattern) == (["."], 9, None)


def test_every_run_of_a_term_is_a_parent() -> None:
    terms = "stage.rewards={a: {run: runs/a}, b: {ensemble: {runs: [runs/b, runs/c]}}}"
    inputs = composed("stage=ppo", terms, "stage.gold={run: runs/g}", "stage.critic=runs/v").stage.inputs()
    assert {role: wanted.path for role, wanted in inputs.items() if role != "policy"} == {
        "rewards.a": "runs/a",
        "rewards.b.0": "runs/b",
        "rewards.b.1": "runs/c",
        "gold": "runs/g",
        "critic": "runs/v",
    }
    assert inputs["rewards.b.0"] == Input("runs/b", ("reward",))


WRONG = {
    "{a: {}}": "stage.rewards.a must name exactly one of run, ensemble, function, remote, length, format, exact, "
    "number, choice, json_schema, ifeval, judge, got None",
    "{a: {run: x, function: 'm:f'}}": "stage.rewards.a must name exactly one of",
    "{a: {runn: x}}": "there is no setting stage.rewards.a.runn; did you mean stage.rewards.a.run?",
    "{a: {length: {maxx: 3}}}": "there is no setting stage.rewards.a.length.maxx; did you mean",
    "{a: {length: 3}}": "stage.rewards.a.length must map some of min, max to values, got 3",
    "{a: {length: {max: soon}}}": "stage.rewards.a.length.max must be a whole number or null, got 'soon'",
    "{a: {length: {max: true}}}": "must be a whole number or null, got True",
    "{a: {length: {max: -1}}}": "stage.rewards.a.length.max must not be negative, got -1",
    "{a: {length: {min: 5, max: 2}}}": "stage.rewards.a.length.min must be at most max=2, got 5",
    "{a: {run: x, weight: much}}": "stage.rewards.a.weight must be a number, got 'much'",
    "{a: {run: x, normalization: some}}": "stage.rewards.a.normalization must be one of none, running, stored",
    "{a: {function: 'm:f', normalization: stored}}": "stage.rewards.a.normalization must not be stored",
    "{a: {function: mine}}": "stage.rewards.a.function must be package.module:name or file.py:name, got 'mine'",
    "{a: {remote: {url: 'ftp://x'}}}": "stage.rewards.a.remote.url must begin with http:// or https://, got 'ftp://x'",
    "{a: {remote: {url: 'http://x', attempts: 0}}}": "stage.rewards.a.remote.attempts must be positive, got 0",
    "{a: {format: {pattern: '('}}}": "stage.rewards.a.format.pattern must be a regular expression, got '('",
    "{a: {number: {column: x, after: '('}}}": "stage.rewards.a.number.after must be a regular expression, got '('",
    "{a: {number: {column: x, relative: 2}}}": "stage.rewards.a.number.relative must lie in [0, 1], got 2",
    "{a: {exact: {column: x, ignore: [accents]}}}": "stage.rewards.a.exact.ignore must have only case, punctuation, ",
    "{a: {choice: {column: x, options: [b], options_column: c}}}": "stage.rewards.a.choice.options must be null if",
    "{a: {json_schema: {schema: x, column: y}}}": "stage.rewards.a.json_schema.schema must be null if column is set",
    "{a: {ifeval: {score: most}}}": "stage.rewards.a.ifeval.score must be all, share or null, got 'most'",
    "{a: {judge: {rubric: helpful, scale: 1}}}": "stage.rewards.a.judge.scale must lie in [2, 100], got 1",
    "{a: {length: {max: 3}, timeout: 2}}": "stage.rewards.a.timeout must be null unless function is set, got 2",
    "{a: {function: 'm:f', timeout: 0}}": "stage.rewards.a.timeout must be positive, got 0",
    "{a: {ensemble: {runs: [x]}}}": "stage.rewards.a.ensemble.runs must name two runs or more",
    "{a: {ensemble: {runs: x}}}": "stage.rewards.a.ensemble.runs must be a list of texts or null, got 'x'",
    "{a: {ensemble: {runs: [x, y], deviations: -1}}}": "stage.rewards.a.ensemble.deviations must not be negative",
    "{a: {ensemble: {runs: [x, y], deviations: min}}}": "deviations must be a number or null, got 'min'",
    "{a/b: {run: x}}": "stage.rewards must name terms by letters, digits, - and _, got 'a/b'",
    "[a]": "stage.rewards must map names to terms, got ['a']",
}


@pytest.mark.parametrize(("given", "told"), WRONG.items(), ids=WRONG)
def test_a_mistake_is_one_sentence_with_its_key(given: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        reward_terms(yaml.safe_load(given), ppo.settings().reward_defaults)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_other_mistakes_are_reported_too() -> None:
    wrong = refusal("stage.rewards={a: {length: {maxx: 3}}}")
    assert wrong == "there is no setting stage.rewards.a.length.maxx; did you mean stage.rewards.a.length.max?"
    assert "stage.rewards has no term" in refusal("stage.reward=null")
    both = refusal("stage.reward=x", "stage.rewards={reward: {run: y}}")
    assert "stage.rewards must not be the name of a term unless stage.reward=null" in both
    assert "stage.gold.function must be package.module:name" in refusal("stage.gold=mine")
    assert "stage.reward_defaults.weight" in refusal("stage.reward_defaults.weight=much")


def test_the_library_has_the_values_of_the_file() -> None:
    """Read by PyYAML and by Hydra alike."""
    term = ppo.settings().reward_defaults
    assert isinstance(term, RewardTermSettings)
    assert term == composed("stage=ppo").stage.reward_defaults
    assert ppo.settings().gold is None


@pytest.fixture
def content_of() -> Callable[..., dict]:
    def of(path: str, digest: str, *overrides: str) -> dict:
        terms = f"stage.rewards={{a: {{run: {path}}}, b: {{ensemble: {{runs: [{path}, {path}]}}}}}}"
        settings: Settings = composed("stage=ppo", terms, "stage.gold=null", *overrides)
        manifest = {"stage": "reward", "weights": digest}
        parents = {role: Parent(role, wanted.path, manifest) for role, wanted in settings.stage.inputs().items()}
        return content(settings, parents)

    return of


def test_a_run_of_a_term_counts_by_its_weights_and_not_by_its_place(content_of: Callable[..., dict]) -> None:
    assert content_of("runs/x", "1") == content_of("runs/y", "1") != content_of("runs/x", "2")
    assert not [key for key in content_of("runs/x", "1") if re.search(r"rewards\..*runs?$", key)]
    assert content_of("runs/x", "1", "+stage.rewards.b.ensemble.deviations=2") != content_of("runs/x", "1")


def test_a_file_of_ones_own_counts_by_what_it_holds(tmp_path, content_of: Callable[..., dict]) -> None:
    def found() -> dict:
        return content(composed("stage=ppo", f"stage.rewards={{a: {{function: '{file}:f'}}}}", "stage.gold=null"), {})

    file = tmp_path / "mine.py"
    file.write_text("def f(p, c): return [0.0] * len(c)")
    before = found()
    assert found() == before
    file.write_text("def f(p, c): return [1.0] * len(c)")
    assert found() != before


def test_a_rubric_needs_a_language_model_as_judge() -> None:
    terms = "stage.rewards={a: {judge: {rubric: helpful, scale: 10}}}"
    assert refusal(terms).startswith("judge=none cannot score by a rubric, which needs a language model")
    local = ("judge=local", "judge.model=some/model")
    assert "stage.rewards.a.judge.scale must be at most 9 with judge=local" in refusal(terms, *local)
    asked = composed("stage=ppo", terms.replace("10", "9"), *local)
    assert asked.stage.judged
    assert not composed("stage=ppo", *local).stage.judged
