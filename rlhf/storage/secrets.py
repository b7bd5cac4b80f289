"""Remove secrets from everything that is written or printed: settings, commands, records, messages, bundles.

A secret is recognized by the name of its key (``hub_token``), by its form (``hf_...``, ``sk-...``), or by its place in
a URL (user, password and query), with or without Hydra's backslashes. Keys are found both in nested values and in text,
so that one rule covers an override such as ``stage.overrides={dpo: ['+stage.trainer.hub_token=T']}`` and a message that
quotes it.
"""

import re
from functools import lru_cache
from typing import Any

HIDDEN = "***"
NAME = re.compile(
    r"token$|auth(orization)?$|secret|passw(or)?d|passphrase|credential|(api|access|private)[_-]?key", re.IGNORECASE
)
SPECIAL_TOKEN = re.compile(r"(?<![a-z])(eos|pad|bos|unk|sep|cls|mask)_token$", re.IGNORECASE)  # not a secret
# Hugging Face, OpenAI, GitHub, AWS, Slack, Google, JSON web tokens
FORM = re.compile(
    r"(?<![A-Za-z0-9])(hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{8,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+)"
)
URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*\\*://)(?P<authority>[^\s\"'<>/?#]*)(?P<path>[^\s\"'<>?]*)(\?[^\s\"'<>]+)?"
)
BEARER = re.compile(r"\b(bearer|basic)\\* +(?!\*)[\w.~+/=-]{8,}", re.IGNORECASE)
KEY = re.compile(r"(?P<key>[A-Za-z_][\w.+~/@-]*)\\*[\"']?\s*\\*[:=]\s*")
VALUE = re.compile(r"\\*\"(?:\\.|[^\"\\])*\\*\"|\\*'(?:\\.|[^'\\])*\\*'|(?:\\.|[^\s,\]})\"'\\])+", re.DOTALL)


def redact(value: Any, key: str = "") -> Any:
    """Return ``value``, nested or not, with every secret in it replaced by ``***``.

    Args:
        key: the name of the value, possibly dotted.
    """
    if isinstance(value, dict):
        return {redact(name): redact(one, key if _secret(key) else str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [redact(one, key) for one in value]
    if _secret(key) and isinstance(value, str | int) and not isinstance(value, bool) and value != "":
        return HIDDEN
    if not isinstance(value, str):
        return value
    name, equals, _ = value.partition("=")
    if (
        equals and re.fullmatch(r"[\w.+~/@-]+", name) and _secret(name)
    ):  # an override: its whole value, including spaces
        return f"{name}={HIDDEN}"
    return _known(value)


def text(found: str) -> str:
    """Return a text, such as a message or a command, without the secrets in it."""
    found = URL.sub(_without_credentials, found)
    found = FORM.sub(HIDDEN, BEARER.sub(HIDDEN, found))
    parts, end = [], 0
    for match in KEY.finditer(found):
        value = VALUE.match(found, match.end()) if match.start() >= end and _secret(match["key"]) else None
        if value is not None:
            parts += [found[end : match.end()], HIDDEN]
            end = value.end()
    return "".join([*parts, found[end:]])


_known = lru_cache(maxsize=4096)(text)  # run.json is written often, with the same settings


def _without_credentials(url: re.Match[str]) -> str:
    user, at, host = url["authority"].rpartition("@")
    return url["scheme"] + (HIDDEN + at if user else "") + host + url["path"] + (f"?{HIDDEN}" if url[4] else "")


@lru_cache(maxsize=4096)
def _secret(key: str) -> bool:
    return bool(NAME.search(key)) and not SPECIAL_TOKEN.search(key)


class Redacting:
    """A stream that removes secrets from the lines that are written to ``stream``."""

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, written: str) -> int:
        """Write a text without its secrets, and return its length."""
        self.stream.write(text(written))
        return len(written)

    def writelines(self, lines: Any) -> None:
        """Write lines without their secrets."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
