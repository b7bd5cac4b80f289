"""The terms of a composed reward: what scores, with which weight, brought to which scale."""

import difflib
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin

from rlhf.config.ranges import require_ranges
from rlhf.config.rules import require
from rlhf.errors import ConfigError
from rlhf.storage.renamed import new_name

NAME = re.compile(r"[A-Za-z0-9_-]+")  # it becomes part of a metric's name


class Normalization(Enum):
    """How a term's scores are brought to mean 0 and deviation 1."""

    none = "none"
    running = "running"
    stored = "stored"


@dataclass(kw_only=True)
class EnsembleTerm:
    runs: list[str] | None
    deviations: float


@dataclass(kw_only=True)
class RemoteTerm:
    url: str | None
    batch_size: int
    timeout: float
    attempts: int
    backoff: float
    longest_wait: float
    token_variable: str | None


@dataclass(kw_only=True)
class LengthTerm:
    min: int | None
    max: int | None


@dataclass(kw_only=True)
class FormatTerm:
    pattern: str | None
    ends_with: list[str] | None
    max_words: int | None


@dataclass(kw_only=True)
class RewardTermSettings:
    """One term. Of the first six fields exactly one is given; the last two say what it counts."""

    run: str | None
    ensemble: EnsembleTerm
    function: str | None
    remote: RemoteTerm
    length: LengthTerm
    format: FormatTerm
    weight: float
    normalization: Normalization

    def sources(self) -> list[str]:
        """The fields that are given."""
        given = {
            "run": self.run,
            "ensemble": self.ensemble.runs,
            "function": self.function,
            "remote": self.remote.url,
            "length": (self.length.min, self.length.max),
            "format": (self.format.pattern, self.format.ends_with, self.format.max_words),
        }
        return [name for name, value in given.items() if value is not None and value != (None,) * len(value)]

    def runs(self) -> dict[str, str]:
        """Suffix of a role -> the run, for what the term reads from disk: ``.0`` and so on of an ensemble."""
        if self.run is not None:
            return {"": self.run}
        return {f".{number}": path for number, path in enumerate(self.ensemble.runs or ())}

    def check(self, key: str) -> None:
        """The rules of a term that is called ``key``.

        Raises:
            ConfigError: one does not hold.
        """
        sources = self.sources()
        require(len(sources) == 1, key, ", ".join(sources) or None, f"name exactly one of {', '.join(SOURCES)}")
        [source] = sources
        learned = source in ("run", "ensemble")
        if self.normalization is Normalization.stored:
            require(learned, f"{key}.normalization", "stored", "be none or running: only a reward run holds statistics")
        if source == "ensemble":
            require(len(self.ensemble.runs) > 1, f"{key}.ensemble.runs", self.ensemble.runs, "name two runs or more")
        if source == "function":
            require(":" in self.function, f"{key}.function", self.function, "be package.module:name or file.py:name")
        if source == "remote":
            web = self.remote.url.startswith(("http://", "https://"))
            require(web, f"{key}.remote.url", self.remote.url, "begin with http:// or https://")
        pattern = self.format.pattern
        require(pattern is None or _compiles(pattern), f"{key}.format.pattern", pattern, "be a regular expression")
        require_ranges(f"{key}.", self)
        for name in ("ensemble", "remote", "length", "format"):
            require_ranges(f"{key}.{name}.", getattr(self, name))
        length = self.length
        if length.min is not None and length.max is not None:
            require(length.min <= length.max, f"{key}.length.min", length.min, f"be at most max={length.max}")


SOURCES = tuple(field.name for field in fields(RewardTermSettings))[:6]


def reward_terms(given: Any, usual: RewardTermSettings) -> dict[str, RewardTermSettings]:
    """``stage.rewards`` as typed terms: name -> term, where ``usual`` fills in what is not given. null: none.

    Raises:
        ConfigError: a key is unknown, a value has the wrong type, or a rule of a term does not hold.
    """
    require(given is None or isinstance(given, dict), "stage.rewards", given, "map names to terms")
    found = {}
    for name, term in (given or {}).items():
        require(bool(NAME.fullmatch(str(name))), "stage.rewards", name, "name terms by letters, digits, - and _")
        found[str(name)] = reward_term(f"stage.rewards.{name}", term, usual)
    return found


def reward_term(key: str, given: Any, usual: RewardTermSettings) -> RewardTermSettings:
    """One term that is called ``key``; see ``reward_terms``."""
    term = _filled(key, given, usual)
    term.check(key)
    return term


def _filled(key: str, given: Any, usual: Any) -> Any:
    """A copy of the dataclass ``usual`` with the values of the mapping ``given`` in their places, types checked."""
    require(isinstance(given, dict), key, given, f"map some of {', '.join(vars(usual))} to values")
    hints = {field.name: field.type for field in fields(usual)}
    for name in given:
        if (new := new_name(f"{key}.{name}")) != f"{key}.{name}":
            raise ConfigError(f"{key}.{name} is called {new} now: give {new}")
        if name not in hints:
            [*close] = difflib.get_close_matches(str(name), hints, n=1)
            raise ConfigError(
                f"there is no setting {key}.{name}; "
                + (f"did you mean {key}.{close[0]}?" if close else f"known are {', '.join(hints)}")
            )
    values = {}
    for name, now in vars(usual).items():
        value = given.get(name, now)
        if name in given and is_dataclass(now):
            value = _filled(f"{key}.{name}", value, now)
        elif name in given and isinstance(now, Enum):
            kind = type(now)
            choices = [choice.value for choice in kind]
            require(value in choices, f"{key}.{name}", value, f"be one of {', '.join(choices)}")
            value = kind(value)
        elif name in given:
            require(_fits(value, hints[name]), f"{key}.{name}", value, f"be {_words(hints[name])}")
        values[name] = value
    return type(usual)(**values)


def _kinds(hint: Any) -> Iterator[Any]:
    yield from get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(value, bool):  # which Python takes for a whole number; no term has a switch
        return False
    for kind in _kinds(hint):
        if get_origin(kind) is list:
            if isinstance(value, list) and value and all(isinstance(item, get_args(kind)[0]) for item in value):
                return True
        elif isinstance(value, (int, float) if kind is float else kind):
            return True
    return False


def _words(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", type(None): "null"}
    return " or ".join(words.get(kind, "a list of texts") for kind in _kinds(hint))


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def usual_term(values: dict[str, Any]) -> RewardTermSettings:
    """``reward_defaults`` of conf/stage/ppo.yaml, as a term, for who reads the file without Hydra."""
    return _built(RewardTermSettings, values)


def _built(kind: Any, values: dict[str, Any]) -> Any:
    made = {}
    for field in fields(kind):
        value = values[field.name]
        nested = is_dataclass(field.type)
        made[field.name] = (
            _built(field.type, value) if nested else field.type(value) if isinstance(field.type, type(Enum)) else value
        )
    return kind(**made)
