"""Parse overrides before Hydra does: text settings keep their text, and mistakes that Hydra ignores are reported.

Hydra reads ``name=1.10`` as the number 1.1 although ``name`` is text. So values of text settings that Hydra would
convert are quoted first: single values, elements of lists, and values of a sweep. rlhf.config has the types.
"""

import types
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import InputStream, OverrideLexer

from rlhf.cli.messages import closest
from rlhf.config import STAGES, RewardTermSettings, Settings
from rlhf.errors import ConfigError
from rlhf.runs.commands import quoted
from rlhf.storage.paths import bundled

NOT_TEXT = (OverrideLexer.INT, OverrideLexer.FLOAT, OverrideLexer.BOOL)
BRACKETS = {
    OverrideLexer.POPEN: OverrideLexer.PCLOSE,
    OverrideLexer.BRACKET_OPEN: OverrideLexer.BRACKET_CLOSE,
    OverrideLexer.BRACE_OPEN: OverrideLexer.BRACE_CLOSE,
}
VALUES = (*NOT_TEXT, OverrideLexer.QUOTED_VALUE)
BORDERS = (OverrideLexer.COMMA, *BRACKETS, *BRACKETS.values())
LISTING = ("choice", "shuffle", "sort", "tag")  # functions whose arguments are values of the setting
ASKING = ("generate", "predict", "serve", "talk")  # commands of other tools that return responses
# Settings of the type Any that hold text, or a mapping to text.
OPEN_TEXT = ("models", "samples", "objective", "target_modules", "gold")


def arguments_of(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into options and overrides, as Hydra should receive them.

    Raises:
        ConfigError: a word is neither, as in ``rlhf dpo`` or ``--stage dpo``; an override cannot be read; a sweep
            has no job, or would drop a value.
    """
    options, overrides = split(given)
    overrides = [typed(item, stages_of(overrides)) for item in named_by_path(overrides)]
    for item in overrides:
        if parsed(item) is None:
            key = item.partition("=")[0]
            raise ConfigError(f"{item} cannot be read: put the value in quotes, as in \"{key}='...'\"")
    _check_sweeps(overrides, options)
    return options, overrides


def split(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into options and overrides, unchanged.

    Raises:
        ConfigError: an option is unknown, or a word is not an override."""
    parser: ArgumentParser = get_args_parser()
    parser.allow_abbrev = False

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}: python -m rlhf --hydra-help lists the options")

    parser.error = refuse
    known, unknown = parser.parse_known_intermixed_args(list(given))
    for word in unknown:
        raise ConfigError(_no_option(word, [*unknown, *known.overrides]))
    for word in known.overrides:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(_no_setting(word))
    left = list(known.overrides)
    options = []
    for word in given:
        if left and word == left[0]:
            left.pop(0)
        else:
            options.append(word)
    return options, list(known.overrides)


def _no_option(word: str, others: Sequence[str]) -> str:
    name, equals, value = word.lstrip("-").partition("=")
    following = others[others.index(word) + 1 :]
    given = value if equals else next((one for one in following if not one.startswith("-") and "=" not in one), "...")
    return f"there is no option {word.partition('=')[0]}: settings are key=value; did you mean {name}={given}?"


def _no_setting(word: str) -> str:
    if word in STAGES:
        return f"{word} is not a setting: did you mean stage={word}?"
    if (bundled("conf") / word).is_dir():
        return f"{word} is not a whole setting: choose one with {word}=..."
    listed = f"unknown stage {word!r}; choose from {', '.join(sorted(STAGES))}, as in stage=dpo"
    instead = "stage=chat answers messages, stage=sample writes responses to prompts"
    return f"{listed}; {instead}" if word in ASKING else listed + closest(word, STAGES)


def named_by_path(overrides: Sequence[str]) -> list[str]:
    """Return ``model=org/name@revision`` as ``model=local model.path=org/name@revision``, and ``data=`` likewise.

    ``benchmark=`` is short for ``stage.benchmark=``, and ``from=`` for ``stage.branch_from=``, with ``stage=ppo`` if no
    stage is named. Names of options do not contain a slash. A sweep over several models has to use model.path.
    """
    found = []
    if any(item.startswith("from=") for item in overrides) and not any(item.startswith("stage=") for item in overrides):
        found.append("stage=ppo")
    for item in overrides:
        group, _, value = item.partition("=")
        if group in ("model", "data") and "/" in value and "," not in value:
            found += [f"{group}=local", f"{group}.path={value}"]
        elif group == "benchmark":
            found.append(f"stage.{item}")
        elif group == "from":
            found.append(f"stage.branch_from={value}")
        else:
            found.append(item)
    return found


def stages_of(overrides: Sequence[str]) -> list[str]:
    """Return the stages that a command names."""
    named = [item.partition("=")[2] for item in overrides if item.startswith("stage=")]
    return [name for value in named for name in value.split(",") if name in STAGES] or ["status"]


def typed(item: str, stages: Sequence[str]) -> str:
    """Return an override, quoted so that Hydra reads text if its setting is text."""
    key, equals, value = item.partition("=")
    value = value.strip()
    if not equals or not _holds_text(key.lstrip("+"), stages):
        return item
    if parsed(item) is None:  # a character outside Hydra's grammar
        plain = value and value[0] not in "'\"[{" and not value.endswith(")")
        return f"{key}={quoted(value)}" if plain or Path(value).exists() else item
    return f"{key}={_as_text(value)}"


def _holds_text(key: str, stages: Sequence[str]) -> bool:
    return any(_is_text(hint, key.rpartition(".")[2]) for stage in stages for hint in _hints(key, stage))


def _hints(key: str, stage: str) -> Iterator[Any]:
    """Yield the type of the setting ``key`` of a stage, or nothing if it is unknown."""
    kind: Any = Settings
    parts = key.split(".")
    for place, part in enumerate(parts):
        hints = get_type_hints(kind) if is_dataclass(kind) else {}
        if part not in hints or part not in {field.name for field in fields(kind)}:
            return
        kind = STAGES[stage] if kind is Settings and part == "stage" else hints[part]
        if part == "rewards" and len(parts) > place + 2:  # stage.rewards.<name>.<field>
            parts[place + 1 : place + 2] = []
            kind = RewardTermSettings
            rest = ".".join(parts[place + 1 :])
            yield from _below(RewardTermSettings, rest)
            return
        if get_origin(kind) is dict and len(parts) == place + 2:
            yield get_args(kind)[1]
            return
        if kind is Any and part in OPEN_TEXT and len(parts) == place + 2:
            yield str
            return
    yield kind


def _below(kind: Any, key: str) -> Iterator[Any]:
    for part in key.split("."):
        hints = get_type_hints(kind) if is_dataclass(kind) else {}
        if part not in hints:
            return
        kind = hints[part]
    yield kind


def _is_text(hint: Any, name: str) -> bool:
    """Return whether a setting of this type holds only text: a value, a list, or values of a mapping."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [one for one in get_args(hint) if one is not type(None)]
        return bool(kinds) and all(_is_text(one, name) for one in kinds)
    if get_origin(hint) in (list, dict):
        return _is_text(get_args(hint)[-1], name)
    return hint is str or (hint is Any and name in OPEN_TEXT)


def parsed(item: str) -> Override | None:
    """Return an override as Hydra parses it, or None if it cannot."""
    try:
        return OverridesParser.create().parse_override(item)
    except HydraException:
        return None


def _as_text(value: str) -> str:
    """Quote each element of ``value`` that Hydra would read as a number or as true or false.

    A function, such as choice(), drops the quotes of its arguments, so there they are quoted twice.
    """
    lexer = OverrideLexer(InputStream(value))
    lexer.mode(OverrideLexer.VALUE_MODE)
    tokens = lexer.getAllTokens()
    kinds = [OverrideLexer.COMMA, *(token.type for token in tokens), OverrideLexer.COMMA]
    starts = [*(token.start for token in tokens), len(value)]
    words: list[str] = []
    nesting: list[str] = []  # the functions and brackets around a token
    keyed, opened = False, None  # before the colon of a mapping; index of the last such colon
    for place, kind in enumerate(kinds[1:-1]):
        word = value[starts[place] : starts[place + 1]]
        if kind in BRACKETS:
            nesting.append(words[-1].strip() if kind == OverrideLexer.POPEN and words else word.strip())
            keyed = kind == OverrideLexer.BRACE_OPEN
        elif kind in BRACKETS.values():
            nesting.pop()
        elif kind == OverrideLexer.COMMA:
            keyed = bool(nesting) and nesting[-1] == "{"
        elif kind == OverrideLexer.COLON and keyed:
            keyed, opened = False, place
        elif kind in VALUES and not keyed and all(one in (*LISTING, "[", "{") for one in nesting):
            whole = (kinds[place] in BORDERS or opened == place - 1) and kinds[place + 2] in BORDERS
            within = any(one in LISTING for one in nesting)
            if whole and kind in NOT_TEXT:
                word = quoted(word.strip(), always=True)
            if whole and within and kind in (*NOT_TEXT, OverrideLexer.QUOTED_VALUE):
                word = quoted(word.strip(), always=True)
        words.append(word)
    return "".join(words)


def _check_sweeps(overrides: Sequence[str], options: Sequence[str]) -> None:
    found = [(item, one) for item in overrides if (one := parsed(item)) is not None]
    by_key: dict[str, list[str]] = {}
    for item, override in found:
        by_key.setdefault(override.get_key_element(), []).append(item)
    for item, override in found:
        if not override.is_sweep_override():
            continue
        key = override.get_key_element()
        if item is not by_key[key][-1]:
            values = " and as ".join(one.partition("=")[2] for one in by_key[key])
            raise ConfigError(f"{key} is given twice, as {values}, and a sweep would drop one of them: leave one out")
        if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            known = _choices(key, options)
            glob: Any = override._value
            if not glob.filter(known):
                matched = f"no option of the group {key}" if known else f"nothing, since {key} is not a config group"
                raise ConfigError(f"{item} matches {matched}, so no job would run: list the values, as in {key}=1,2")
        elif override.is_discrete_sweep() and not list(override.sweep_iterator()):
            raise ConfigError(f"{item} names no value, so no job would run: list the values, as in {key}=1,2")


def _choices(group: str, options: Sequence[str]) -> list[str]:
    """Return the options of a group, including those of ``--config-dir``."""
    places = [bundled("conf"), *(Path(flag.partition("=")[2]) for flag in searched(options))]
    return sorted({path.stem for place in places for path in (place / group).glob("*.yaml")})


def searched(options: Sequence[str]) -> list[str]:
    """Return ``--config-dir=...`` as one word if a command has it."""
    found = []
    for place, word in enumerate(options):
        name, equals, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            found.append(f"--config-dir={value if equals else options[place + 1]}")
    return found
