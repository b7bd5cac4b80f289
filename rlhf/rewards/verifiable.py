"""Rewards that compare a completion with columns of its row: 1 if it is right, else 0."""

import json
import re
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf.data.render import Prompt
from rlhf.errors import ConfigError, DataError, TrainingError
from rlhf.rewards.instructions import followed, json_in

ARTICLES = re.compile(r"\b(a|an|the)\b")
NORMALIZERS: dict[str, Callable[[str], str]] = {
    "case": str.lower,
    "punctuation": lambda text: text.translate(str.maketrans("", "", string.punctuation)),
    "articles": lambda text: ARTICLES.sub(" ", text),
    "whitespace": lambda text: " ".join(text.split()),
}
"""The steps of SQuAD v1.1's evaluation script, in its order (https://rajpurkar.github.io/SQuAD-explorer/)."""

NUMBER = re.compile(
    r"((?:(?<![\w)\]}])[-+−])?)\$?"  # a sign, unless it is an operator: 12-5 ends with 5
    r"((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE]([-+]?\d{1,3})(?!\w))?"
)
BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
LETTERS = string.ascii_uppercase


class ColumnReward(ABC):
    """A score of each completion by the columns ``reads`` of its row; None if the row has no value in one of them."""

    reads: tuple[str, ...] = ()

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str], **columns: Sequence
    ) -> list[float | None]:
        rows = zip(*(columns[name] for name in self.reads), strict=True) if self.reads else [()] * len(completions)
        return [
            None if None in values else float(self.rate(text, *values))
            for text, values in zip(completions, rows, strict=True)
        ]

    def check(self, *values: Any) -> None:
        """Raise a ValueError if a row with these values cannot be scored; called for every row before training."""
        self.rate("", *values)

    @abstractmethod
    def rate(self, text: str, *values: Any) -> float:
        """Return the score of a completion."""


class ExactReward(ColumnReward):
    """1 if a completion equals the text in ``column``, or one of the texts in its list, after normalization.

    ``ignore``: the differences that do not count, of `NORMALIZERS`. All of them are the exact match of SQuAD v1.1,
    Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250.
    """

    def __init__(self, column: str, ignore: Sequence[str] | None = tuple(NORMALIZERS)):
        self.reads, self.ignore = (column,), [name for name in NORMALIZERS if name in (ignore or ())]

    def normalized(self, text: str) -> str:
        """Return ``text`` without the differences that do not count."""
        for name in self.ignore:
            text = NORMALIZERS[name](text)
        return text

    def rate(self, text: str, *values: Any) -> float:
        """Return the score of a completion."""
        right = [self.normalized(answer) for answer in answers(*values)]
        if "" in right:
            raise ValueError("the answer is empty after normalization")
        return float(self.normalized(text) in right)


class NumberReward(ColumnReward):
    """1 if the number in a completion equals the one in ``column``, or one of its list, within a tolerance.

        |x - answer| <= max(absolute, relative · |answer|)

    The number is the first one after the last match of the regular expression ``after``. Without it, it is the last one
    in the last ``\\boxed{}``, else the first after the last ``####``, as in GSM8K (Cobbe et al. 2021,
    https://arxiv.org/abs/2110.14168), else the last one. An answer that is a text is read in the same way, without
    ``after``. Numbers have a sign, commas between thousands, decimals after a point, and exponents; they are compared
    exactly, as decimals.
    """

    def __init__(self, column: str, after: str | None = None, absolute: float = 0.0, relative: float = 0.0):
        self.reads, self.after = (column,), None if after is None else re.compile(after)
        self.absolute, self.relative = Decimal(str(absolute)), Decimal(str(relative))

    def rate(self, text: str, *values: Any) -> float:
        """Return the score of a completion."""
        right = [(number_in(answer), answer) for answer in answers(*values)]
        for number, answer in right:
            if number is None:
                raise ValueError(f"the answer {answer[:40]!r} has no number")
        found = number_in(text, self.after)
        return float(found is not None and any(self._equal(found, number) for number, _ in right if number is not None))

    def _equal(self, x: Decimal, answer: Decimal) -> bool:
        return x == answer or abs(x - answer) <= max(self.absolute, self.relative * abs(answer))


class ChoiceReward(ColumnReward):
    """1 if a completion selects the option in ``column``: a letter, a number from 0, or the text of the option.

    ``options`` are the texts of the options, the same for all rows; ``options_column`` has them per row, as a list or
    as ``{"text": [...], "label": [...]}``. Without either, options are letters. `chosen` has the rules for completions.
    """

    def __init__(self, column: str, options: Sequence[str] | None = None, options_column: str | None = None):
        self.reads = (column,) if options_column is None else (column, options_column)
        self.options = [] if options is None else list(options)

    def rate(self, text: str, *values: Any) -> float:
        """Return the score of a completion."""
        answer, *given = values
        labels, texts = _options(given[0] if given else self.options)
        right = _index(answer, labels, texts)
        return float(chosen(text, labels, texts) == right)


class SchemaReward(ColumnReward):
    """1 if a completion is JSON that fits a JSON schema, with or without a Markdown fence around it.

    ``schema`` is a file with the schema; ``column`` has one schema per row. References to other documents are not
    followed.

    Raises:
        ConfigError: jsonschema is not installed, or ``schema`` cannot be read or is not a valid schema.
    """

    def __init__(self, schema: str | None = None, column: str | None = None):
        self.reads = () if column is None else (column,)
        try:
            import jsonschema  # noqa: F401
        except ImportError:
            raise ConfigError("json_schema needs jsonschema: pip install 'rlhf[jsonschema]'") from None
        self.schema = None
        if schema is not None:
            try:
                self.schema = Path(schema).read_text(encoding="utf-8")
                _validator(self.schema)
            except (OSError, ValueError) as error:
                raise ConfigError(f"json_schema.schema={schema} is not a JSON schema ({error}): correct it") from None

    def check(self, *values: Any) -> None:
        """Raise a ValueError if the schema of a row is not valid."""
        _validator(_as_text(*values))

    def rate(self, text: str, *values: Any) -> float:
        """Return the score of a completion."""
        validator = _validator(_as_text(*values) if self.schema is None else self.schema)
        from referencing.exceptions import Unresolvable

        try:
            return float(validator.is_valid(json_in(text)))
        except (ValueError, RecursionError):
            return 0.0
        except Unresolvable as error:
            raise TrainingError(f"a JSON schema has a reference that cannot be resolved ({error}): inline it") from None


class InstructionReward(ColumnReward):
    """IFEval's checks: 1 if a completion follows ``all`` instructions of its row, or the ``share`` that it follows.

    Zhou et al. 2023, https://arxiv.org/abs/2311.07911; rlhf.rewards.instructions has the checks.
    """

    reads = ("instruction_id_list", "kwargs")

    def __init__(self, score: str = "all"):
        self.score = score

    def check(self, *values: Any) -> None:
        """Raise a ValueError if an instruction is unknown or its arguments do not fit."""
        kinds, options = values
        if not (isinstance(kinds, list) and kinds and isinstance(options, list) and len(kinds) == len(options)):
            raise ValueError("instruction_id_list and kwargs must be two lists of the same length")
        try:
            self.rate("word", *values)
        except DataError as error:
            raise ValueError(str(error)) from None

    def rate(self, text: str, *values: Any) -> float:
        """Return the score of a completion."""
        verdicts = followed(dict(zip(self.reads, values, strict=True)), text)
        return float(all(verdicts)) if self.score == "all" else sum(verdicts) / len(verdicts)


def answers(value: Any) -> list[str]:
    """Return the answers in a cell, a text, a number or a list of them, as texts.

    Raises:
        ValueError: it is empty or of another type.
    """
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(isinstance(one, str | int | float) for one in listed):
        raise ValueError(f"the answer must be a text, a number or a list of them, got {str(value)[:40]!r}")
    return [str(one) for one in listed]


def number_in(text: str, after: re.Pattern | None = None) -> Decimal | None:
    """Return the number in ``text`` by the rules of `NumberReward`; None without a number."""
    text = text.replace("{,}", ",").replace("\\,", ",").replace("\\!", "")  # between thousands, in LaTeX
    begins = [match.end() for match in (after or re.compile("####")).finditer(text)]
    boxed = [] if after else BOXED.findall(text)
    if boxed:
        found = NUMBER.findall(boxed[-1])[-1:]
    elif begins:
        found = NUMBER.findall(text[begins[-1] :])[:1]
    else:
        found = [] if after else NUMBER.findall(text)[-1:]
    for sign, digits, exponent in found:
        return Decimal(f"{sign.replace('−', '-')}{digits.replace(',', '')}e{exponent or 0}")
    return None


def chosen(text: str, labels: Sequence[str], texts: Sequence[str]) -> int | None:
    """Return the index of the option that a completion selects; None if it selects none, or several.

    In this order: a label in the last ``\\boxed{}``; the last label after "answer", "answer is" or "answer:"; a label
    with ``) . : ,`` or nothing behind it at the beginning; the last label in parentheses; a label as the last line; or
    else the text of one option only. Labels are case-sensitive.
    """
    label = f"({'|'.join(map(re.escape, labels))})"
    rules = (
        rf"\\boxed\s*\{{\s*(?:\\text\s*\{{)?\s*\(?{label}\b",
        rf"(?i:\banswer(?:\s+is)?)[\s:*]{{0,9}}\(?{label}\)?(?![\w'’])(?!\s+[a-z])",
        rf"\A\W{{0,9}}{label}(?:[).:,]|\W{{0,9}}\Z)",
        rf"\({label}\)",
        rf"^\W{{0,9}}{label}\W{{0,9}}\Z",
    )
    for rule in rules:
        if found := re.findall(rule, text, re.MULTILINE):
            return labels.index(found[-1])
    plain = ExactReward("").normalized
    within = [index for index, option in enumerate(texts) if f" {plain(option)} " in f" {plain(text)} "]
    longest = [i for i in within if not any(i != j and plain(texts[i]) in plain(texts[j]) for j in within)]
    return longest[0] if len(longest) == 1 else None


def _options(given: Any) -> tuple[list[str], list[str]]:
    """Return the labels and the texts of options."""
    if isinstance(given, dict) and isinstance(given.get("text"), list) and isinstance(given.get("label"), list):
        labels, texts = given["label"], given["text"]
    else:
        labels, texts = list(LETTERS), given
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in (*texts, *labels)):
        raise ValueError(f"the options must be a list of texts, got {str(given)[:40]!r}")
    if len(texts) > len(labels):
        raise ValueError(f"there are {len(texts)} options, and at most {len(labels)} can have a label")
    return labels[: len(texts)] if texts else labels, texts


def _index(answer: Any, labels: Sequence[str], texts: Sequence[str]) -> int:
    """Return the index of the option that is right."""
    plain = ExactReward("").normalized
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(labels):
        return answer
    found: Iterator[int] = iter(())
    if isinstance(answer, str | bool):
        named = [index for index, label in enumerate(labels) if str(answer).strip("(). ") == label]
        found = iter([i for i, text in enumerate(texts) if plain(text) == plain(str(answer))] or named)
    index = next(found, None)
    if index is None:
        raise ValueError(f"the answer {str(answer)[:40]!r} is not one of the options {', '.join(texts or labels)[:80]}")
    return index


def _as_text(schema: Any) -> str:
    return schema if isinstance(schema, str) else json.dumps(schema, sort_keys=True)


@lru_cache(maxsize=1024)
def _validator(schema: str) -> Any:
    """Return a validator of the JSON schema.

    Raises:
        ValueError: it is not a valid schema.
    """
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    parsed = json.loads(schema)
    try:
        kind = validator_for(parsed, default=Draft202012Validator)
        kind.check_schema(parsed)
    except (SchemaError, AttributeError, TypeError) as error:
        raise ValueError(f"not a JSON schema: {str(error).splitlines()[0][:80]}") from None
    return kind(parsed, registry=Registry())
