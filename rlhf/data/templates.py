"""Properties of a chat template: how strings are rendered, which token ends a turn, which keys of a message are read.

A template comes with a tokenizer of other people, so these are unknown until a conversation is rendered with it.
docs/chat_templates.md lists the rules.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf.config import Render
from rlhf.data import bounds, segments
from rlhf.errors import ConfigError, ModelError
from rlhf.storage.paths import bundled

Message = dict[str, Any]
Prompt = str | list[Message]

LONGEST = bounds.AT_ONCE  # characters of a rendered conversation
# Keys of a message beside role and content. ``weight`` is 0 for turns that are not learned; templates do not read it.
EXTRAS = ("tool_calls", "tool_call_id", "name", "reasoning_content", "thinking", "weight")
OF_NO_TEMPLATE = ("weight", "tools")  # templates receive the tools beside the messages
MARK = "answer"
STAND_IN = "plain"  # a template without special tokens in conf/chat_template
ASK: Message = {"role": "user", "content": "question"}
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look at a tree.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string", "description": "a tree"}}},
    },
}
CALL = {"type": "function", "id": "000000000", "function": {"name": "look", "arguments": '{"at": "oak"}'}}
# Key that is refused if the template does not read it -> a conversation with it.
PROBES: dict[str, list[Message]] = {
    "tools": [ASK | {"tools": json.dumps([TOOL])}],
    "tool_calls": [ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}],
    "reasoning_content": [ASK, {"role": "assistant", "content": MARK, "reasoning_content": "reason"}],
    "thinking": [ASK, {"role": "assistant", "content": MARK, "thinking": "reason"}],
}


def chat_template(name: str | None) -> str:
    """Return the text of a chat template, by its name in conf/chat_template or as a file.

    Raises:
        ModelError: the template does not exist.
    """
    shipped = bundled("conf") / "chat_template"
    for path in (shipped / f"{name}.jinja", Path(str(name))):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    names = ", ".join(sorted(path.stem for path in shipped.glob("*.jinja")))
    raise ModelError(f"model.chat_template={name} is neither a file nor one of {names}")


def templated(tokenizer: Any, talks: Any, *, known: Any = None, **options: Any) -> Any:
    """Render one conversation, or several without tools, with the tokenizer's chat template.

    ``known``: a dictionary for rlhf.data.segments.token_ids.

    Raises:
        ModelError: the chat template is missing, refuses a conversation, or takes too much time or memory.
    """
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise ModelError(
            "the prompt is a conversation and the tokenizer has no chat template: "
            "set model.chat_template=plain or model.chat_template=<file>.jinja"
        )
    if isinstance(talks[0], dict):
        if "tools" in talks[0]:
            options["tools"] = json.loads(talks[0]["tools"])
        talks = [for_template(turn) for turn in talks]
    else:
        talks = [[for_template(turn) for turn in talk] for talk in talks]
    try:
        # First only the text, within bounds: a tokenizer that runs out of memory ends the process.
        text = {key: options[key] for key in ("add_generation_prompt", "tools") if key in options}
        with bounds.bounded():
            found = tokenizer.apply_chat_template(talks, tokenize=False, **text)
        texts = [found] if isinstance(found, str) else found
        if max(map(len, texts)) > LONGEST:
            raise MemoryError(f"it has written more than {LONGEST} characters")
        if not options.get("tokenize", True):
            return found
        if options.get("sanitize_control_tokens") or not _tokenizes_text(tokenizer):
            return tokenizer.apply_chat_template(talks, **options)
        ids = segments.token_ids(tokenizer, texts, known)
        return {"input_ids": ids[0] if isinstance(found, str) else ids}
    except (TimeoutError, MemoryError) as error:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path or 'the tokenizer'} takes too long or too much memory "
            f"({str(error) or 'out of memory'}): set another one with model.chat_template=<file>.jinja"
        ) from error
    except (TemplateError, ValueError, TypeError) as error:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path or 'the tokenizer'} refuses a conversation ({error}): leave "
            "such rows out, or set another template with model.chat_template=<file>.jinja"
        ) from error


def _tokenizes_text(tokenizer: Any) -> bool:
    """Return whether the ids of a conversation are those of its rendered text; Mistral's own tokenizers differ."""
    from transformers import PreTrainedTokenizerBase  # imported already if there is a tokenizer

    return type(tokenizer).apply_chat_template is PreTrainedTokenizerBase.apply_chat_template


def for_template(turn: Message) -> Message:
    """Return a message as chat templates read it: the arguments of calls are objects, which rows store as JSON text."""
    given = {key: value for key, value in turn.items() if key not in OF_NO_TEMPLATE}
    if "tool_calls" in given:
        calls = [call | {"function": dict(call["function"])} for call in given["tool_calls"]]
        for call in calls:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        given["tool_calls"] = calls
    return given


def check_read(tokenizer: Any, talk: list[Message]) -> None:
    """Refuse a conversation with a key that the chat template does not read.

    Raises:
        ModelError: tools, calls or reasoning would be silently lost.
    """
    for key in [key for key in PROBES if any(key in turn for turn in talk)]:
        if not _reads(tokenizer, tokenizer.chat_template, key):
            name = tokenizer.name_or_path or "the tokenizer"
            raise ModelError(
                f"field 'messages.{key}' is not read by the chat template of {name}: set one that reads it with "
                f"model.chat_template=<file>.jinja, or remove {key} from the rows"
            )


@lru_cache(maxsize=64)
def _reads(tokenizer: Any, template: str, key: str) -> bool:
    """Return whether the template renders a conversation with ``key`` differently."""
    talk, options = PROBES[key], {"tokenize": False, "add_generation_prompt": False}
    without = [{name: value for name, value in turn.items() if name != key} for turn in talk]
    try:
        return templated(tokenizer, talk, **options) != templated(tokenizer, without, **options)
    except ModelError:
        return False


def turn_ends(tokenizer: Any) -> set[int]:
    """Return the id of the token that closes the assistant's turn in the chat template; empty if plain text does."""
    template = tokenizer.chat_template
    return set() if template is None else set(_turn_ends(tokenizer, template))


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Return every token that ends a response: the tokenizer's EOS, the end of a turn, those of generation_config."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = [tokenizer.eos_token_id, *turn_ends(tokenizer), *(own if isinstance(own, list) else [own])]
    return [id for id in dict.fromkeys(found) if id is not None]


@lru_cache(maxsize=16)
def _turn_ends(tokenizer: Any, template: str) -> list[int]:
    talk = [ASK, {"role": "assistant", "content": MARK}]
    try:
        text = templated(tokenizer, talk, tokenize=False, add_generation_prompt=False)
    except ModelError:
        return []
    after = text.rpartition(MARK)[2].lstrip()
    added = tokenizer.added_tokens_decoder.items()
    found = [(len(token.content), id) for id, token in added if after.startswith(token.content)]
    return [max(found)[1]] if found else []


def named(found: str | dict[str, str] | None, where: str) -> str | None:
    """Return a chat template; of several by name the one called ``default``, which transformers uses, too.

    Raises:
        ModelError: none of them is called ``default``.
    """
    if not isinstance(found, dict):
        return found
    if "default" not in found:
        raise ModelError(
            f"{where} has chat templates called {', '.join(sorted(found))} and none called default: "
            "save the tokenizer with the one to use as its chat_template"
        )
    return found["default"]


def strings_are_turns(tokenizer: Any) -> bool:
    """Return whether a string is rendered by the chat template, as one message: ``tokenizer.strings_are_turns``.

    rlhf.modeling.loading.load_tokenizer and `settle` set it; without it a string is plain text.
    """
    return tokenizer.chat_template is not None and getattr(tokenizer, "strings_are_turns", False)


def settle(tokenizer: Any, prompts: Any, render: Render) -> str | None:
    """Set up the tokenizer to render string prompts by ``data.render``, and return a message about it.

    A template that renders no prompt is removed, so that it is not saved with the model. Conversations are always
    rendered; None is returned for them.

    Raises:
        ConfigError: conversations with data.render=text, or strings with data.render=chat and no template.
    """
    if not isinstance(prompts[0], str):
        if render is Render.text:
            raise ConfigError(
                "data.render=text, but the prompts are conversations: set data.render=auto, or use strings"
            )
        tokenizer.strings_are_turns = True
        return None
    name = tokenizer.name_or_path or "the tokenizer"
    if render is Render.chat and tokenizer.chat_template is None:
        raise ConfigError(f"data.render=chat, but {name} has no chat template: set model.chat_template=plain, too")
    if render is Render.chat or (render is Render.auto and strings_are_turns(tokenizer)):
        tokenizer.strings_are_turns = True
        return f"each string prompt is one user message in the chat template of {name}; data.render=text: plain text"
    tokenizer.chat_template = None
    return (
        "prompts are plain text, and the saved model has no chat template; "
        "data.render=chat renders each as one user message"
    )
