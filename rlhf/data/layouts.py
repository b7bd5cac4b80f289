"""Layouts of judged responses that differ only in their column names: each is an entry of a table."""

import statistics
from typing import Any, NamedTuple

from rlhf.config import Format
from rlhf.data import readers, rows
from rlhf.data.pairs import Ranked
from rlhf.data.rows import Row, RowError, assistant, has


class Compared(NamedTuple):
    """Two responses, one per column. Without votes and scores the first is better."""

    asks: str
    responses: tuple[str, str]
    votes: tuple[str, ...] = ()  # columns of votes; the most frequent vote decides, and several such are a tie
    values: tuple[str, ...] = ()  # of a vote, in lower case: for the first, for the second, for a tie
    scores: tuple[str, ...] = ()  # columns with the score of each; higher is better

    def columns(self) -> tuple[str, ...]:
        """Return the columns that a row of this layout has."""
        return (self.asks, *self.responses, *self.votes, *self.scores)


class Listed(NamedTuple):
    """Any number of responses in one column, a list of texts or of objects."""

    asks: str
    responses: str
    text: str | None  # the key of the response in an object; None: the list has texts, and another column the scores
    score: str
    sign: int = 1  # -1 for ranks, of which the lowest is best

    def columns(self) -> tuple[str, ...]:
        """Return the columns that a row of this layout has."""
        return (self.asks, self.responses) if self.text else (self.asks, self.responses, self.score)


JUDGED: tuple[tuple[Format, Compared | Listed], ...] = (
    # Dai et al. 2023, https://arxiv.org/abs/2310.12773: judged by helpfulness; by safety with data.format=pku_safer
    (Format.pku, Compared("prompt", ("response_0", "response_1"), ("better_response_id",), ("0", "1"))),
    (Format.pku_safer, Compared("prompt", ("response_0", "response_1"), ("safer_response_id",), ("0", "1"))),
    # Nakano et al. 2021, https://arxiv.org/abs/2112.09332
    (Format.webgpt, Compared("question", ("answer_0", "answer_1"), scores=("score_0", "score_1"))),
    # Lambert et al. 2023, Stack Exchange with the votes of its users: pairs in which j is better, or all answers
    (Format.stack_exchange, Compared("question", ("response_j", "response_k"))),
    (Format.stack_exchange, Listed("question", "answers", "text", "pm_score")),
    # Tan et al. 2024, https://arxiv.org/abs/2410.12784
    (Format.judgebench, Compared("question", ("response_A", "response_B"), ("label",), ("a>b", "b>a"))),
    # Zeng et al. 2023, https://arxiv.org/abs/2310.07641
    (Format.llmbar, Compared("input", ("output_1", "output_2"), ("label",), ("1", "2"))),
    # Wang et al. 2023, https://arxiv.org/abs/2306.05087
    (
        Format.pandalm,
        Compared(
            "instruction", ("response1", "response2"), ("annotator1", "annotator2", "annotator3"), ("1", "2", "0")
        ),
    ),
    # Li et al. 2023, https://arxiv.org/abs/2310.05470
    (Format.auto_j, Compared("prompt", ("response 1", "response 2"), ("label",), ("0", "1", "2"))),
    # https://platform.openai.com/docs/guides/direct-preference-optimization; Together and Fireworks use the same.
    (Format.openai, Compared("input", ("preferred_output", "non_preferred_output"))),
    # Wang et al. 2025, https://arxiv.org/abs/2503.04378: an edit against the original, a good edit against a bad one.
    (Format.helpsteer_edits, Compared("context", ("edited_response", "original_response"))),
    (Format.helpsteer_edits, Compared("context", ("good_edited_response", "bad_edited_response"))),
    # Zhu et al. 2023, https://starling.cs.berkeley.edu
    (Format.nectar, Listed("prompt", "answers", "answer", "rank", -1)),
    # https://docs.nvidia.com/nemo/rl: preference data
    (Format.nemo, Listed("context", "completions", "completion", "rank", -1)),
    # https://distilabel.argilla.io: the task UltraFeedback, with its present and earlier column names
    (Format.distilabel, Listed("instruction", "generations", None, "ratings")),
    (Format.distilabel, Listed("input", "generations", None, "rating")),
)


def read(row: Row, layout: Format) -> list[Ranked]:
    """Return the responses of a row, by the first entry of ``layout`` whose columns it has.

    Raises:
        RowError: a column is missing, or its type or value does not fit the table.
    """
    entries = [entry for name, entry in JUDGED if name is layout]
    entry = next((one for one in entries if has(row, *one.columns())), entries[0])
    found = _compared(row, entry) if isinstance(entry, Compared) else _listed(row, entry)
    return [Ranked(readers.asked(row), found, graded=bool(not isinstance(entry, Compared) or entry.scores))]


def read_lists(row: Row) -> list[Ranked]:
    """Return the right and wrong responses of RewardBench 2 and RM-Bench, which are lists; a pair has one of each.

    Malik et al. 2025, https://arxiv.org/abs/2506.01937; Liu et al. 2024, https://arxiv.org/abs/2410.16184.
    """
    marked = {name: rows.listed(row, name, str, "texts") for name in ("chosen", "rejected")}
    ranked = [
        ([assistant(rows.checked_text(text, name))], float(name == "chosen"))
        for name, texts in marked.items()
        for text in texts
    ]
    return [Ranked(readers.asked(row), ranked, graded=False, ties=False)]


def _compared(row: Row, entry: Compared) -> list[tuple[Any, float]]:
    answers = [readers.answer(row, name) for name in entry.responses]
    if entry.scores:
        scores = [rows.needed_number(row, name) for name in entry.scores]
    elif entry.votes:
        votes = [_vote(row, name, entry.values) for name in entry.votes]
        most = statistics.multimode(votes)
        scores = [float(most == [0]), float(most == [1])]
    else:
        scores = [1.0, 0.0]
    return list(zip(answers, scores, strict=True))


def _vote(row: Row, name: str, values: tuple[str, ...]) -> int:
    """Return the index of a vote in ``values``: 0 for the first response, 1 for the second, 2 for neither."""
    value = row.get(name)
    given = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip().lower()
    if given not in values or isinstance(value, bool):
        raise RowError(name, f"must be one of {', '.join(values)}, got {rows.shown(value)}")
    return values.index(given)


def _listed(row: Row, entry: Listed) -> list[tuple[Any, float]]:
    """Return responses with their scores, without those that a failed judge left unscored."""
    name = entry.responses
    if entry.text is None:
        texts, given = rows.listed(row, name, str, "texts"), row.get(entry.score)
        if not isinstance(given, list) or len(given) != len(texts):
            raise RowError(entry.score, f"must be a list of one number for each of the {len(texts)} {name}")
        scores = [rows.number({entry.score: score}, entry.score) for score in given]
        answers = [[assistant(rows.checked_text(text, name))] for text in texts]
    else:
        objects = rows.listed(row, name, dict, f"objects with {entry.text} and {entry.score}")
        scores = [rows.needed_number(one, entry.score) for one in objects]
        answers = [readers.answer(one, entry.text) for one in objects]
    return [(one, entry.sign * score) for one, score in zip(answers, scores, strict=True) if score is not None]
