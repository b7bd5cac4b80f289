import json
from pathlib import Path

import pytest

from rlhf.config import Dtype, Settings
from rlhf.config.stage import POLICIES
from rlhf.data.render import Message
from rlhf.errors import LineageError
from rlhf.labeling.chat import LATEST, Answer, Chat, StoppedError, remarks, settings_of
from rlhf.modeling import loading
from rlhf.modeling.generation import generate
from rlhf.rewards import RewardModel
from rlhf.runs.parents import Parent, find_parents
from rlhf.storage.manifest import read_manifest
from tests.conftest import composed, tiny_overrides

TALK: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which tree is tallest?"},
]


@pytest.fixture(scope="module")
def settings(chain: Path) -> Settings:
    return composed(*tiny_overrides("chat", chain))


@pytest.fixture(scope="module")
def chat(settings: Settings) -> Chat:
    return Chat(settings, (), find_parents(settings)["reward"])


def test_an_answer_is_that_of_generate_in_pieces_and_has_its_reward(chat: Chat, settings: Settings) -> None:
    pieces: list[str] = []
    answer = chat.answer("sft", TALK, 1.0, pieces.append)
    policy = chat.policy("sft")
    limits = {"max_prompt_length": policy.max_prompt_length, "max_response_length": policy.max_response_length}
    seed = settings.seed + chat.asked
    [expected] = generate(policy.model, policy.tokenizer, [TALK], **limits, temperature=1.0, seed=seed, batch_size=1)
    assert answer.text == "".join(pieces) == expected.text
    assert len(pieces) > 1
    model = settings_of(find_parents(settings)["reward"], settings.model)
    tokenizer = loading.load_tokenizer(find_parents(settings)["reward"], model)
    reward = loading.load_reward_model(find_parents(settings)["reward"], model, tokenizer)
    assert answer.score == RewardModel(reward, tokenizer, max_length=None)([TALK], [answer.text])[0]


def test_a_model_is_loaded_once_and_each_answer_has_other_random_numbers(chat: Chat) -> None:
    first = chat.policy("sft")
    one, other = (chat.answer("sft", TALK, 1.0, lambda piece: None).text for _ in range(2))
    assert chat.policy("sft") is first
    assert one != other


def test_a_stop_keeps_the_text_so_far_without_a_score(chat: Chat) -> None:
    for kind in (StoppedError, KeyboardInterrupt):
        shown: list[str] = []

        def show(piece: str, shown: list[str] = shown, kind: type[BaseException] = kind) -> None:
            shown.append(piece)
            if len(shown) == 2:
                raise kind

        answer = chat.answer("sft", TALK, 1.0, show)
        assert answer == Answer("".join(shown), None, ended=False, stopped=True)
        assert len(shown) == 2


def test_a_base_model_continues_the_message_as_text(chat: Chat) -> None:
    assert chat.policy("base").prompt(TALK) == TALK[-1]["content"]
    assert chat.policy("sft").prompt(TALK) == TALK


def test_every_policy_of_a_chain_can_answer(aligned: Path) -> None:
    chat = Chat(composed(*tiny_overrides("chat", aligned)))
    assert chat.available() == ["ppo", "dpo", "kto", "sft", "base"]
    for name in ("kto", str(aligned / "almanac" / "kto")):
        assert chat.find(name).stage == "kto"
    assert {*LATEST} == {"base", *POLICIES}


def test_limits_fit_the_context_of_the_model(chain: Path) -> None:
    chat = Chat(composed(*tiny_overrides("chat", chain), "stage.max_response_length=200"))
    context = chat.policy("sft").model.config.max_position_embeddings
    assert chat.stage.max_prompt_length + chat.stage.max_response_length > context
    assert sum(chat.policy("sft")[-2:]) == context
    assert chat.policy("sft").max_response_length == context // 2


def test_policies_are_stages_of_the_chain_or_paths(chat: Chat, chain: Path) -> None:
    assert chat.available() == ["sft", "base"]
    assert chat.find("sft").path == str(chain / "almanac" / "sft")
    assert chat.find(f"{chain}/almanac/sft/model").manifest is None
    with pytest.raises(LineageError, match="stage=chat starts from .*almanac/ppo, which does not exist: run stage=ppo"):
        chat.find("ppo")
    with pytest.raises(LineageError, match="stage.policies=.*reward is a run of stage=reward, and stage=chat starts"):
        chat.find(f"{chain}/almanac/reward")


def test_a_run_keeps_its_dtype_and_template_and_a_foreign_model_gets_the_plain_one(chain: Path) -> None:
    model = composed("stage=chat").model
    manifest = read_manifest(chain / "almanac" / "sft")
    half = json.loads(json.dumps(manifest)) | {"dtype": "bfloat16"}
    of_a_run = settings_of(Parent("policies", "there", half), model)
    assert (of_a_run.dtype, of_a_run.chat_template) == (Dtype.bfloat16, None)
    assert settings_of(Parent("policies", "there", None), model).chat_template == "plain"
    named = composed("stage=chat", "model=gpt2", "model.chat_template=my.jinja").model
    assert settings_of(Parent("policies", "there", None), named) == named


def test_remarks_name_the_reward_and_an_end_that_is_not_eos() -> None:
    assert remarks(Answer("a", 1.25, ended=True, stopped=False)) == "reward 1.250"
    assert remarks(Answer("", None, ended=True, stopped=False)) == "empty answer"
    assert remarks(Answer("a", 0.5, ended=False, stopped=False)) == "reward 0.500, cut at the limit"
    assert remarks(Answer("", None, ended=False, stopped=True)) == "stopped"
