"""An Ollama Modelfile: the chat template in Go's language, and the stop tokens.

The template is derived from conversations that transformers renders, and refused if it does not render them again.
"""

import json
from itertools import takewhile
from typing import Any, NamedTuple

from rlhf.data import templates
from rlhf.data.render import Message
from rlhf.data.templates import templated
from rlhf.errors import ModelError
from rlhf.publishing.gguf_tokenizer import adds_bos, portable

SYSTEM, FIRST, ANSWER, SECOND = "Fern oak.", "Which moss?", "Elm ash.", "Where ivy?"


class Turns(NamedTuple):
    """Texts around the contents of a conversation: before and after each role's.

    ``opening`` stands before a conversation without a system message, ``reply`` opens the answer.
    """

    opening: str
    system: tuple[str, str] | None
    user: tuple[str, str]
    assistant: tuple[str, str]
    reply: str

    def rendered(self, talk: list[Message]) -> str:
        """Return a conversation as the Go template renders it."""
        found = []
        for place, turn in enumerate(talk):
            if turn["role"] == "user" and place == 0:
                found.append(self.opening)
            before, after = {"system": self.system or ("", ""), "user": self.user, "assistant": self.assistant}[
                turn["role"]
            ]
            found.append(before + turn["content"] + after)
        return "".join(found) + self.reply

    def template(self) -> str:
        """Return the Go template."""
        lines = ["{{- range $place, $turn := .Messages }}"]
        if self.system is not None:
            lines.append(f'{{{{- if eq .Role "system" }}}}{_around(self.system)}{{{{ end }}}}')
        opening = f"{{{{ if eq $place 0 }}}}{_quoted(self.opening)}{{{{ end }}}}" if self.opening else ""
        lines.append(f'{{{{- if eq .Role "user" }}}}{opening}{_around(self.user)}{{{{ end }}}}')
        lines.append(f'{{{{- if eq .Role "assistant" }}}}{_around(self.assistant)}{{{{ end }}}}')
        return "\n".join([*lines, f"{{{{- end }}}}{_quoted(self.reply)}"])


def _quoted(text: str) -> str:
    return f"{{{{ {json.dumps(text)} }}}}" if text else ""  # JSON's escapes are also Go's


def _around(texts: tuple[str, str]) -> str:
    return f"{_quoted(texts[0])}{{{{ .Content }}}}{_quoted(texts[1])}"


def modelfile(named: str, file: str, tokenizer: Any, context: int) -> str:
    """Return the Modelfile of the GGUF file ``file``.

    Raises:
        ModelError: the chat template cannot be written in Go's language.
    """
    template = "{{ .Prompt }}"
    if tokenizer.chat_template is not None:
        template = turns(named, tokenizer).template()
    added = tokenizer.added_tokens_decoder
    stops = [added[id].content if id in added else tokenizer.decode([id]) for id in templates.end_ids(None, tokenizer)]
    parameters = [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    return "\n".join([f"FROM ./{file}", f'TEMPLATE """{template}"""', *parameters, f"PARAMETER num_ctx {context}", ""])


def turns(named: str, tokenizer: Any) -> Turns:
    """Return the texts around contents in the chat template of ``tokenizer``.

    Raises:
        ModelError: the template does more than put texts around contents.
    """
    other = portable(tokenizer)
    bos = tokenizer.bos_token if adds_bos(tokenizer) else ""  # Ollama adds it again
    refusal = ModelError(
        f"{named} has a chat template that cannot be written for Ollama, since it does more than put texts around the "
        "messages: use stage.format=gguf, whose file has the template itself"
    )

    def render(*contents: str, roles: tuple[str, ...] = ("user", "assistant", "user"), reply: bool = True) -> str:
        talk = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
        return templated(other, talk, tokenize=False, add_generation_prompt=reply).removeprefix(bos)

    try:
        question, dialog = render(FIRST, reply=False), render(FIRST, ANSWER, SECOND, reply=False)
        answered = render(FIRST)
        before, after = _cut(question, FIRST)
        _, between, following, _ = _cut(dialog, FIRST, ANSWER, SECOND)
    except (ModelError, ValueError):
        raise refusal from None
    try:
        instructed = render(SYSTEM, FIRST, roles=("system", "user"), reply=False)
        start, join, _ = _cut(instructed, SYSTEM, FIRST)
    except (ModelError, ValueError):
        start, join = "", before
        instructed = None
    user = _ending(before, following, join)
    system = None if instructed is None else (start, join.removesuffix(user))
    if not (between.startswith(after) and answered.startswith(question)):
        raise refusal
    found = Turns(
        before.removesuffix(user),
        system,
        (user, after),
        (between.removeprefix(after), following.removesuffix(user)),
        answered.removeprefix(question),
    )
    for system_first in (False, *([True] if system else [])):
        contents = [*([SYSTEM] if system_first else []), FIRST, ANSWER, SECOND, "Ash.", "Elm?"]
        roles = (*(["system"] if system_first else []), "user", "assistant", "user", "assistant", "user")
        talk = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        if found.rendered(talk) != render(*contents, roles=roles):
            raise refusal
    if '"""' in found.template():
        raise refusal
    return found


def _cut(text: str, *marks: str) -> list[str]:
    """Return the parts of ``text`` around ``marks``, each of which occurs once; ValueError otherwise."""
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise ValueError(mark)
        parts.append(before)
    return [*parts, text]


def _ending(*texts: str) -> str:
    """Return the longest ending that all texts share."""
    same = takewhile(
        lambda characters: len(set(characters)) == 1, zip(*(reversed(text) for text in texts), strict=False)
    )
    return "".join(characters[0] for characters in same)[::-1]
