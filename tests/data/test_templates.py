"""Templates as in published models, with a byte-level vocabulary."""

import json
from types import SimpleNamespace

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.config import Render
from rlhf.data import templates
from rlhf.data.render import encode, prompt_ids, text_ids
from rlhf.data.templates import chat_template
from rlhf.errors import ConfigError, ModelError
from rlhf.modeling.from_scratch import new_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|user|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
)
TOOLS = (
    "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}{% for m in messages %}"
    "{{ '<|user|>' + m['role'] + '\n' + m['content'] }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name + ' of ' + c.function.arguments.at }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
)
CALL = {"type": "function", "function": {"name": "look", "arguments": '{"at": "oak"}'}}


def tokenizer(template: str | None, end: str = "<|im_end|>", special: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose end of sequence is <|end|>, id 1, with ``end`` as an additional token."""
    made = new_tokenizer(["x"], 262, "")
    made.add_tokens([end], special_tokens=special)
    made.chat_template = template
    return made


def said(role: str, text: str, **more) -> list[dict]:
    return [{"role": role, "content": text, **more}]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>"),
        (CHATML.replace("m['content'] +", "m['content'] | trim +"), "<|im_end|>"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}\n<|im_end|>", "<|im_end|>"),
        (chat_template("almanac"), "<|end|>"),
        (chat_template("plain"), "<|end|>"),
        ("{% for m in messages %}{{ m['content'] + '\n\n' }}{% endfor %}", None),
        ("{{ raise_exception('no') }}", None),
        (None, None),
    ],
)
def test_a_turn_ends_where_the_template_closes_it(template: str | None, end: str | None, special: bool) -> None:
    made = tokenizer(template, special=special)
    assert templates.turn_ends(made) == (set() if end is None else {made.convert_tokens_to_ids(end)})


def test_the_tokens_that_end_a_response() -> None:
    made = tokenizer(CHATML)
    assert templates.end_ids(None, made) == [1, 262]
    config = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[262, 7]))
    assert templates.end_ids(config, made) == [1, 262, 7]
    made.eos_token = None
    assert templates.end_ids(None, made) == [262]


def test_keys_that_the_template_does_not_read_are_refused_by_name() -> None:
    call, thought = said("assistant", "", tool_calls=[CALL]), said("assistant", "9 m.", reasoning_content="I measure.")
    tools = said("user", "How tall?", tools=json.dumps([CALL]))
    for talk, name in ((call, "tool_calls"), (thought, "reasoning_content"), (tools, "tools")):
        with pytest.raises(ModelError, match=rf"field 'messages\.{name}' is not read by the chat template"):
            encode(tokenizer(CHATML), [said("user", "How tall?")], [talk] if talk is not tools else [tools])
    reading = tokenizer(TOOLS)
    [ids] = encode(reading, [tools], [call])
    assert reading.decode(ids).replace(" ", "").startswith('{"type":"function"')
    assert "look of oak" in reading.decode(ids)
    with pytest.raises(ModelError, match="reasoning_content"):
        encode(reading, [tools], [thought])


def test_templates_read_names_but_not_weights() -> None:
    made = tokenizer("{% for m in messages %}{{ m.name }}{{ m.weight }}{{ m.content }}{% endfor %}")
    assert made.decode(prompt_ids(made, said("user", "Hi", name="Ann", weight=0))).strip() == "AnnHi"


def test_the_text_of_a_special_token_in_a_call_is_text() -> None:
    made = tokenizer(TOOLS)
    call = {"type": "function", "function": {"name": "look", "arguments": '{"at": "<|im_end|>"}'}}
    [ids] = encode(made, [said("user", "a")], [said("assistant", "", tool_calls=[call])])
    assert ids.count(262) == 2
    assert "of <|im_end|><|im_end|>" in made.decode(ids)


def test_the_default_of_several_templates_is_used() -> None:
    assert templates.named({"default": "a", "tool_use": "b"}, "x") == templates.named("a", "x") == "a"
    assert templates.named(None, "x") is None
    with pytest.raises(ModelError, match="x has chat templates called rag, tool_use and none called default"):
        templates.named({"tool_use": "b", "rag": "c"}, "x")


def own(template: str | None) -> PreTrainedTokenizerFast:
    made = tokenizer(template)
    made.strings_are_turns = True
    return made


def test_strings_are_turns_if_the_model_has_a_template() -> None:
    made = own(CHATML)
    assert "one user message in the chat template" in templates.settle(made, ["Hi"], Render.auto)
    assert prompt_ids(made, "Hi ") == prompt_ids(made, said("user", "Hi"))
    assert encode(made, ["Hi"], [" Yes.<|end|>"]) == encode(made, [said("user", "Hi")], [said("assistant", "Yes.")])
    stand_in = tokenizer(CHATML)
    assert "plain text, and the saved model has no chat template" in templates.settle(stand_in, ["Hi"], Render.auto)
    assert stand_in.chat_template is None
    assert prompt_ids(stand_in, "Hi ") == stand_in("Hi ")["input_ids"]


def test_the_settings_decide_how_strings_are_rendered() -> None:
    made, asked = own(CHATML), tokenizer(CHATML)
    templates.settle(made, ["Hi"], Render.text)
    assert made.chat_template is None
    templates.settle(asked, ["Hi"], Render.chat)
    assert prompt_ids(asked, "Hi") == prompt_ids(asked, said("user", "Hi"))
    with pytest.raises(ConfigError, match="data.render=chat, but .* has no chat template: set model.chat_template="):
        templates.settle(tokenizer(None), ["Hi"], Render.chat)
    with pytest.raises(ConfigError, match="data.render=text, but the prompts are conversations"):
        templates.settle(made, [said("user", "Hi")], Render.text)
    assert templates.settle(own(CHATML), [said("user", "Hi")], Render.auto) is None


def test_prompts_stay_open_and_rows_end_once_if_the_tokenizer_appends_eos() -> None:
    made, plain = tokenizer(None), tokenizer(None)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing("$A <|end|>", special_tokens=[("<|end|>", 1)])
    assert made("Hi")["input_ids"][-1] == 1
    for text in ("Hi", "x<|end|>y"):
        assert prompt_ids(made, text) == text_ids(made, [text])[0] == prompt_ids(plain, text)
        assert encode(made, [text], [text]) == encode(plain, [text], [text])
    made.chat_template = plain.chat_template = CHATML
    assert prompt_ids(made, said("user", "Hi")) == prompt_ids(plain, said("user", "Hi"))


@pytest.mark.parametrize("template", [CHATML, TOOLS, chat_template("almanac"), chat_template("plain")])
def test_a_conversation_is_rendered_once_into_the_ids_of_the_library(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, rendered = tokenizer(template), []
    original = PreTrainedTokenizerFast.apply_chat_template
    talks = [said("user", f"q{n}?") for n in range(3)]
    if template is TOOLS:
        talks[0] = said("user", "q?", tools=json.dumps([templates.TOOL]))
    plain = [[{key: value for key, value in turn.items() if key != "tools"} for turn in talk] for talk in talks]
    tools = [json.loads(talk[0]["tools"]) if "tools" in talk[0] else None for talk in talks]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    expected = [original(made, one, tools=given, **options) for one, given in zip(plain, tools, strict=True)]

    def counted(self, conversation: list, **options) -> object:
        rendered.extend([conversation] if isinstance(conversation[0], dict) else conversation)
        return original(self, conversation, **options)

    monkeypatch.setattr(PreTrainedTokenizerBase, "apply_chat_template", counted)
    templates._reads.cache_clear()
    assert encode(made, talks) == expected
    assert len([one for one in rendered if one in plain]) == len(talks)


def test_a_tokenizer_with_a_template_function_of_its_own_is_asked_for_the_ids() -> None:
    class Own(PreTrainedTokenizerFast):
        def apply_chat_template(self, conversation: list, tokenize: bool = True, **options):
            text = super().apply_chat_template(conversation, tokenize=False, add_generation_prompt=False)
            return {"input_ids": [[7, 8]] * len(conversation)} if tokenize else text

    made = tokenizer(CHATML)
    own = Own(tokenizer_object=made.backend_tokenizer, eos_token="<|end|>", chat_template=CHATML)
    assert encode(own, [said("user", "q?")]) == [[7, 8]]
