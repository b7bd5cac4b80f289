import math
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf.data.render import prompt_ids
from rlhf.errors import ConfigError, TrainingError
from rlhf.generate import response_text
from rlhf.rewards import RewardModel, checked, function


@pytest.fixture(scope="module")
def scorer(chain: Path) -> RewardModel:
    folder = chain / "almanac" / "reward" / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return RewardModel(model, AutoTokenizer.from_pretrained(folder), max_length=128, batch_size=3)


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_score_depends_neither_on_its_batch_nor_on_padding(scorer: RewardModel) -> None:
    prompts = [ask("What is the capital of Peru?")] * 7
    completions = ["Lima."] + [" ".join(["word"] * n) for n in (1, 30, 4, 17, 2, 9)]
    together = scorer(prompts, completions)
    alone = [scorer([prompt], [completion])[0] for prompt, completion in zip(prompts, completions, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert scorer(prompts[::-1], completions[::-1]) == pytest.approx(together[::-1], abs=1e-5)


def test_the_score_is_read_at_the_last_token(scorer: RewardModel) -> None:
    ids = scorer.encode(ask("What is the capital of Peru?"), "Lima.")
    assert ids[-1] == scorer.tokenizer.eos_token_id
    hidden = scorer.model.model(input_ids=scorer.model.model.embed_tokens.weight.new_tensor([ids]).long())
    by_hand = scorer.model.score(hidden.last_hidden_state[0, -1]).item()
    assert scorer([ask("What is the capital of Peru?")], ["Lima."]) == pytest.approx([by_hand], abs=1e-5)


def test_a_string_prompt_is_joined_and_ended(scorer: RewardModel) -> None:
    end = scorer.tokenizer.eos_token
    expected = scorer.tokenizer(f"Once upon a time{end}")["input_ids"]
    assert scorer.encode("Once upon", " a time") == scorer.encode("Once upon", f" a time{end}") == expected


def test_of_a_long_prompt_the_end_and_the_whole_response_are_scored(scorer: RewardModel) -> None:
    prompt = ask("What is the capital of Peru? " * 200)
    short, other = scorer.encode(prompt, "Lima."), scorer.encode(prompt, "Europe.")
    assert len(short) == scorer.max_length
    assert short != other
    assert short[-1] == scorer.tokenizer.eos_token_id


def test_a_function_by_its_path() -> None:
    assert function("math:sqrt") is math.sqrt
    for path in ("math", "math:no_such_name", "no_such_module:f"):
        with pytest.raises(ConfigError, match="the reward"):
            function(path)


@pytest.mark.parametrize("scores", [[1.0], [1.0, math.nan], [math.inf, 0.0]])
def test_scores_that_are_no_numbers_are_refused(scores: list[float]) -> None:
    with pytest.raises(TrainingError):
        checked(scores, ["a", "b"])


def test_any_callable_on_text_is_a_reward_function() -> None:
    length: Callable = lambda prompts, completions: [len(text) for text in completions]  # noqa: E731
    assert checked(length(["p", "p"], ["a", "bb"]), ["a", "bb"]) == [1.0, 2.0]


def test_a_sampled_response_is_scored_as_the_tokens_that_were_sampled(scorer: RewardModel) -> None:
    """What PPO and the comparison score is what the policy wrote, rendered as the training pairs were."""
    tokenizer = scorer.tokenizer
    for prompt, written in (("Once upon", " a time"), (ask("What is the capital of Peru?"), "Lima.")):
        expected = scorer.encode(prompt, written)
        start = prompt_ids(tokenizer, prompt)
        assert expected[: len(start)] == start
        sampled = expected[len(start) :]
        assert scorer.encode(prompt, response_text(tokenizer, prompt, sampled)) == expected
