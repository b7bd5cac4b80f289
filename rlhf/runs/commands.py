"""Commands that are printed or recorded, quoted for the shell and for Hydra."""

import re
import shlex
from collections.abc import Iterable

from rlhf.storage.secrets import redact

# Texts that Hydra reads unchanged.
PLAIN = re.compile(r"[A-Za-z_/.][\w./+-]*|[A-Za-z_][\w./+@-]*", re.ASCII)
READ_OTHERWISE = re.compile(r"[+-]?(true|false|null|inf|nan|[\d_]*\.?[\d_]*(e[+-]?[\d_]+)?)", re.IGNORECASE)


def quoted(value: str, always: bool = False) -> str:
    """Return ``value`` so that Hydra reads it as this text, in quotes if it needs them."""
    if not always and PLAIN.fullmatch(value) and not READ_OTHERWISE.fullmatch(value):
        return value
    # Backslashes count before a quote only, so those before one, the closing one included, are doubled.
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def setting(key: str, value: str) -> str:
    """Return the override that sets ``key`` to the text ``value``."""
    return f"{key}={quoted(str(value))}"


def command(stage: str, overrides: Iterable[str] = (), multirun: bool = False) -> str:
    """Return the command that runs ``stage`` with ``overrides``, which are in Hydra's grammar, without secrets."""
    others = [item for item in overrides if not item.startswith("stage=")]
    return line([*(["-m"] if multirun else []), f"stage={stage}", *others])


def line(words: Iterable[str]) -> str:
    """Return the command with these words after the program's name, without secrets."""
    return " ".join(map(_for_shell, redact(["python", "-m", "rlhf", *words])))


def _for_shell(word: str) -> str:
    """Quote a word for the shell, with double quotes around Hydra's single ones."""
    return f'"{word}"' if "'" in word and not re.search(r'["$`\\!]', word) else shlex.quote(word)
