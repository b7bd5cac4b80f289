"""The terms of a composite reward: the scorer, its weight and its normalization."""

import re
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from typing import Any

import yaml

from rlhf.config.ranges import require_ranges
from rlhf.config.rules import read, require
from rlhf.config.stage import Input, Stage
from rlhf.storage.paths import bundled

NAME = re.compile(r"[A-Za-z0-9_-]+")  # part of a metric's name


class Normalization(Enum):
    """How a term's scores are normalized to mean 0 and standard deviation 1."""

    none = "none"
    running = "running"
    stored = "stored"


@dataclass(kw_only=True)
class EnsembleTerm:
    """Reward models whose mean is lowered by ``deviations`` standard deviations; None: the lowest score."""

    runs: list[str] | None
    deviations: float | None


@dataclass(kw_only=True)
class RemoteTerm:
    """A scorer behind HTTP; times are in seconds."""

    url: str | None
    batch_size: int
    timeout: float
    attempts: int
    backoff: float
    longest_wait: float
    columns: list[str] | None
    token_variable: str | None


@dataclass(kw_only=True)
class LengthTerm:
    """Bounds on the length of a response, in words."""

    min: int | None
    max: int | None


@dataclass(kw_only=True)
class FormatTerm:
    """Rules on the text of a response."""

    pattern: str | None
    ends_with: list[str] | None
    max_words: int | None


@dataclass(kw_only=True)
class ExactTerm:
    """The text that a response must equal, and the differences that do not count."""

    column: str | None
    ignore: list[str] | None


@dataclass(kw_only=True)
class NumberTerm:
    """The number that a response must contain, and the tolerance."""

    column: str | None
    after: str | None
    absolute: float
    relative: float


@dataclass(kw_only=True)
class ChoiceTerm:
    """The option that a response must select, and the options."""

    column: str | None
    options: list[str] | None
    options_column: str | None


@dataclass(kw_only=True)
class SchemaTerm:
    """The JSON schema that a response must fit."""

    schema: str | None
    column: str | None


@dataclass(kw_only=True)
class InstructionTerm:
    """The score of a response by the instructions that it follows."""

    score: str | None


@dataclass(kw_only=True)
class JudgeTerm:
    """The rubric by which the judge of the run scores a response, and the column of a baseline response."""

    rubric: str | None
    scale: int
    baseline: str | None
    pairs: int


@dataclass(kw_only=True)
class RewardTermSettings:
    """One term. Exactly one of the sources is set; the last three hold for any of them."""

    run: str | None
    ensemble: EnsembleTerm
    function: str | None
    remote: RemoteTerm
    length: LengthTerm
    format: FormatTerm
    exact: ExactTerm
    number: NumberTerm
    choice: ChoiceTerm
    json_schema: SchemaTerm
    ifeval: InstructionTerm
    judge: JudgeTerm
    weight: float
    normalization: Normalization
    timeout: float | None

    def sources(self) -> list[str]:
        """Return the names of the scorers that are set."""
        given = {
            "run": self.run,
            "ensemble": self.ensemble.runs,
            "function": self.function,
            "remote": self.remote.url,
            "length": (self.length.min, self.length.max),
            "format": (self.format.pattern, self.format.ends_with, self.format.max_words),
            "exact": self.exact.column,
            "number": self.number.column,
            "choice": self.choice.column,
            "json_schema": (self.json_schema.schema, self.json_schema.column),
            "ifeval": self.ifeval.score,
            "judge": self.judge.rubric,
        }
        return [name for name, value in given.items() if value is not None and value != (None,) * len(value)]

    def runs(self) -> dict[str, str]:
        """Return suffix of the role -> run that the term loads; an ensemble has the suffixes ``.0``, ``.1``, ..."""
        if self.run is not None:
            return {"": self.run}
        return {f".{number}": path for number, path in enumerate(self.ensemble.runs or ())}

    def check(self, key: str) -> None:
        """Check the rules of the term at the setting ``key``.

        Raises:
            ConfigError: a rule is violated.
        """
        sources = self.sources()
        require(len(sources) == 1, key, ", ".join(sources) or None, f"name exactly one of {', '.join(SOURCES)}")
        [source] = sources
        learned = source in ("run", "ensemble")
        if self.normalization is Normalization.stored:
            require(learned, f"{key}.normalization", "stored", "not be stored: only a reward run has statistics")
        if source == "ensemble":
            require(
                len(self.ensemble.runs or ()) > 1, f"{key}.ensemble.runs", self.ensemble.runs, "name two runs or more"
            )
        if source == "function":
            require(
                ":" in (self.function or ""), f"{key}.function", self.function, "be package.module:name or file.py:name"
            )
        if source == "remote":
            web = (self.remote.url or "").startswith(("http://", "https://"))
            require(web, f"{key}.remote.url", self.remote.url, "begin with http:// or https://")
        for name, pattern in (("format.pattern", self.format.pattern), ("number.after", self.number.after)):
            require(pattern is None or _compiles(pattern), f"{key}.{name}", pattern, "be a regular expression")
        self._check_verifiable(key)
        require_ranges(f"{key}.", self)
        for name in ("ensemble", "remote", "length", "format", "number", "judge"):
            require_ranges(f"{key}.{name}.", getattr(self, name))
        length = self.length
        if length.min is not None and length.max is not None:
            require(length.min <= length.max, f"{key}.length.min", length.min, f"be at most max={length.max}")

    def _check_verifiable(self, key: str) -> None:
        unknown = [name for name in self.exact.ignore or () if name not in IGNORED]
        require(not unknown, f"{key}.exact.ignore", self.exact.ignore, f"have only {', '.join(IGNORED)}")
        given = (self.choice.options, self.choice.options_column)
        require(None in given, f"{key}.choice.options", given[0], "be null if options_column is set")
        given = (self.json_schema.schema, self.json_schema.column)
        require(None in given, f"{key}.json_schema.schema", given[0], "be null if column is set")
        score = self.ifeval.score
        require(score in (None, "all", "share"), f"{key}.ifeval.score", score, "be all, share or null")


IGNORED = ("case", "punctuation", "articles", "whitespace")
SOURCES = tuple(field.name for field in fields(RewardTermSettings))[:-3]


def reward_terms(given: Any, usual: RewardTermSettings, key: str = "stage.rewards") -> dict[str, RewardTermSettings]:
    """Return the setting ``key`` as name -> typed term; ``usual`` holds the defaults; null has no terms.

    Raises:
        ConfigError: a key is unknown, a value has the wrong type, or a rule of a term does not hold.
    """
    require(given is None or isinstance(given, dict), key, given, "map names to terms")
    found = {}
    for name, term in (given or {}).items():
        require(bool(NAME.fullmatch(str(name))), key, name, "name terms by letters, digits, - and _")
        found[str(name)] = reward_term(f"{key}.{name}", term, usual)
    return found


def reward_term(key: str, given: Any, usual: RewardTermSettings) -> RewardTermSettings:
    """Return the term at the setting ``key``; see ``reward_terms``."""
    term = read(RewardTermSettings, key, usual, given)
    term.check(key)
    if given.get("timeout") is not None:
        require(term.function is not None, f"{key}.timeout", term.timeout, "be null unless function is set")
    return term


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


@cache
def usual_term() -> RewardTermSettings:
    """Return the default values of a term, which are those of conf/stage/ppo.yaml."""
    values = yaml.safe_load((bundled("conf") / "stage" / "ppo.yaml").read_text(encoding="utf-8"))
    return read(RewardTermSettings, "stage.reward_defaults", values["reward_defaults"], {})


@dataclass(kw_only=True)
class ScoredStage(Stage):
    """Settings of the stages that score responses by a reward run and further terms; ``gold`` is only for metrics."""

    reward: str | None
    rewards: Any
    gold: Any
    normalize_scores: bool
    temperature: float
    max_prompt_length: int
    max_response_length: int

    @property
    def usual(self) -> RewardTermSettings:
        """The default values of every term."""
        return usual_term()

    @property
    def judged(self) -> bool:
        """Whether a term is scored by ``judge``."""
        return any(term.judge.rubric is not None for term in self.roles().values())

    @property
    def scores(self) -> bool:
        """Whether there is a reward."""
        return self.reward is not None or bool(self.rewards)

    def inputs(self) -> dict[str, Input]:
        """Return every run that scores, by the name of its term, and the other inputs of the stage."""
        found = super().inputs() | ({} if self.reward is None else {"reward": Input(self.reward, ("reward",))})
        for role, term in self.roles().items():
            found |= {role + suffix: Input(path, ("reward",)) for suffix, path in term.runs().items()}
        return found

    def terms(self) -> dict[str, RewardTermSettings]:
        """Return the terms of ``rewards`` by name, typed; ``reward`` is not included."""
        return reward_terms(self.rewards, self.usual)

    def roles(self) -> dict[str, RewardTermSettings]:
        """Return role -> term of all rewards, gold included, except ``reward``."""
        found = {f"rewards.{name}": term for name, term in self.terms().items()}
        return found if (gold := self.gold_term()) is None else found | {"gold": gold}

    def gold_term(self) -> RewardTermSettings | None:
        """Return ``gold`` as a term; a string is the import path of a function."""
        if self.gold is None:
            return None
        gold = {"function": self.gold} if isinstance(self.gold, str) else self.gold
        return reward_term("stage.gold", gold, self.usual)

    def check_terms(self) -> None:
        """Raise ConfigError if a term is invalid, or has the name of ``reward`` beside it."""
        terms = self.terms()
        self.gold_term()
        for role, term in self.roles().items():
            ruled = self.name == "ppo" or term.judge.rubric is None
            require(ruled, f"stage.{role}.judge.rubric", term.judge.rubric, "be null except in stage=ppo")
        taken = self.reward is None or "reward" not in terms
        require(taken, "stage.rewards", "reward", "not be the name of a term unless stage.reward=null")
