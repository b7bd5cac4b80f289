"""Layouts in which several responses to one prompt were judged: rankings, scores, votes, thumbs, trees of messages.

Each reader turns one row into `Ranked` or `Rated` responses; rlhf.data.pairs makes pairs of them. Layouts that a table
can describe are in rlhf.data.layouts.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from rlhf.data import readers, rows, transcripts
from rlhf.data.pairs import Ranked, Rated
from rlhf.data.render import Message, Prompt
from rlhf.data.rows import Row, RowError, assistant, has, user

FEEDBACK = ("fine-grained_score", "overall_score")  # openbmb: the first, the mean of four aspects, is more reliable
HELPSTEER_TURN = re.compile(r"<extra_id_1>(User|Assistant)\n")
WINNERS = {"model_a": (1, 0), "model_b": (0, 1), "both_bad": (0, 0)}  # values that begin with "tie" are ties, too
LABELS = ("label", "kto_tag", "desirable", "is_desirable", "thumbs_up", "thumbs", "thumb", "is_good")
NAMED = ("feedback", "user_feedback", "human_feedback", "liked", "accepted", "upvoted", "is_chosen")  # or other things
UP = (
    "true", "1", "+1", "desirable", "good", "up", "thumbs up", "\N{THUMBS UP SIGN}", "yes", "chosen",
    "positive", "like",
)  # fmt: skip
DOWN = (
    "false", "0", "-1", "undesirable", "bad", "down", "thumbs down", "\N{THUMBS DOWN SIGN}", "no", "rejected",
    "negative", "dislike",
)  # fmt: skip
THUMBS = dict.fromkeys(UP, True) | dict.fromkeys(DOWN, False)


def _completion(prompt: Prompt, response: Any, field: str) -> Prompt:
    """Return a response in the type of the prompt."""
    text = rows.checked_text(response, field)
    return text if isinstance(prompt, str) else [assistant(text)]


def read_scores(row: Row) -> list[Ranked]:
    """Return ``responses`` with as many ``scores``, as best-of-n sampling writes them."""
    prompt = rows.text_or_conversation(row, "prompt")
    responses, scores = rows.listed(row, "responses", str, "texts"), row.get("scores")
    if not isinstance(scores, list) or len(scores) != len(responses):
        raise RowError("scores", f"must be a list of one number for each of the {len(responses)} responses")
    numbers = [rows.needed_number({"scores": score}, "scores") for score in scores]
    completions = [_completion(prompt, response, "responses") for response in responses]
    return [Ranked(prompt, list(zip(completions, numbers, strict=True)), graded=True)]


def read_ultrafeedback_raw(row: Row) -> list[Ranked]:
    """Return the ``completions`` of several models with scores, as in openbmb's release of UltraFeedback.

    The score is fine-grained_score, the mean of four aspects, or overall_score if a completion lacks it.
    Cui et al. 2023, https://arxiv.org/abs/2310.01377.
    """
    prompt = [user(rows.text(row, "instruction"))]
    completions = rows.listed(row, "completions", dict, "objects with response and a score")
    field = next((name for name in FEEDBACK if all(has(one, name) for one in completions)), None)
    if field is None:
        raise RowError("completions", f"must all have one of {' and '.join(FEEDBACK)}")
    ranked = [
        (_completion(prompt, one.get("response"), "completions.response"), rows.needed_number(one, field))
        for one in completions
    ]
    return [Ranked(prompt, ranked, graded=True)]


def read_helpsteer(row: Row) -> list[Ranked] | list[Rated]:
    """Return the responses of NVIDIA's HelpSteer: a rated one (1, 2), or two with a preference and its strength (2, 3).

    preference_strength and overall_preference range from -3, if the first is much better, to 3, if the second is. The
    sign decides which one is chosen, and the size is the margin. The score of a single response is its helpfulness, 0
    to 4.
    Wang et al. 2024, https://arxiv.org/abs/2410.01257; 2025, https://arxiv.org/abs/2503.04378.
    """
    prompt = rows.conversation(row, "context") if has(row, "context") else _helpsteer_prompt(rows.text(row, "prompt"))
    if has(row, "helpfulness"):
        completion, score = [assistant(rows.text(row, "response"))], rows.needed_number(row, "helpfulness")
        return [Rated(prompt, completion, score, graded=True, demonstrates=True)]
    strength = "preference_strength" if has(row, "preference_strength") else "overall_preference"
    preferred = rows.needed_number(row, strength)
    names = ("response_1", "response_2") if has(row, "response_1") else ("response1", "response2")
    first, second = ([assistant(rows.text(row, name))] for name in names)
    return [Ranked(prompt, [(first, max(-preferred, 0.0)), (second, max(preferred, 0.0))], graded=True)]


def _helpsteer_prompt(text: str) -> list[Message]:
    """Return the messages of a dialogue that is one text, with a mark before each turn but the first."""
    first, *others = HELPSTEER_TURN.split(text)
    turns = zip(others[::2], others[1::2], strict=True)
    return [user(first.rstrip("\n"))] + [
        (user if role == "User" else assistant)(content.rstrip("\n")) for role, content in turns
    ]


def read_shp(row: Row) -> list[Ranked]:
    """Return two comments on a Reddit post with their votes, of Stanford Human Preferences; labels=1 prefers A.

    Ethayarajh et al. 2022, https://arxiv.org/abs/2110.08420.
    """
    prompt = [user(rows.text(row, "history"))]
    label = row.get("labels")
    if isinstance(label, bool) or label not in (0, 1):
        raise RowError("labels", f"must be 0 or 1, got {rows.shown(label)}")
    first, second = ([assistant(rows.text(row, f"human_ref_{letter}"))] for letter in "AB")
    votes = [votes for letter in "AB" if (votes := rows.number(row, f"score_{letter}")) is not None]
    graded = len(votes) == 2 and (votes[0] > votes[1]) == bool(label) and votes[0] != votes[1]
    scores = votes if graded else [float(label), float(1 - label)]
    return [Ranked(prompt, [(first, scores[0]), (second, scores[1])], graded, rows.number(row, "score_ratio"))]


def label_of(row: Row) -> str | None:
    """Return the column that labels the only answer of a row as good or bad, even if it is empty in this row."""
    answers = (*readers.ANSWERS, *readers.DIALOGUES, "conversations")
    if readers.first(row, answers) is None or has(row, "rejected") or has(row, readers.WORSE[1]):
        return None
    named = next((name for name in LABELS if name in row), None)
    return named or next((name for name in NAMED if _thumb_of(row.get(name)) is not None), None)


def read_kto(row: Row) -> list[Rated]:
    """Return an answer, which may end a dialogue, with a thumb up or down in one of the spellings of THUMBS.

    Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306.
    """
    name = label_of(row) or LABELS[0]
    label = _thumb(row, name)
    if has(row, "conversations"):
        found = readers.read_sharegpt(row)
    else:
        found = readers.read_alpaca(row) if readers.is_asked(row) else readers.read_standard(row)
    if "completion" not in found:
        raise RowError(name, "is a label without an answer")
    return [Rated(found["prompt"], found["completion"], float(label), graded=False, demonstrates=label)]


def _thumb(row: Row, name: str) -> bool:
    if not has(row, name):
        raise RowError(name, "is missing")
    value = row[name]
    thumb = _thumb_of(value)
    if thumb is None:
        raise RowError(
            name,
            f"must say whether the answer is good, as true or false, 1 or 0, got {rows.shown(value)} "
            "(data.format=standard leaves the column unread)",
        )
    return thumb


def _thumb_of(value: Any) -> bool | None:
    """Return the meaning of a spelling of a thumb; None for other values."""
    text = re.sub(r"(?<=[01])\.0$", "", str(value).strip().lower())  # a column with gaps is one of floats, in CSV too
    return THUMBS.get(re.sub(r"[ _-]+", " ", text) if text.startswith("thumb") else text)


def read_arena(row: Row) -> list[Ranked]:
    """Return two dialogues with the vote between them, of Chatbot Arena; prompt and responses may be JSON lists.

    Zheng et al. 2023, https://arxiv.org/abs/2306.05685; "tie", "tie (bothbad)" and "both_bad" are ties. In MT-bench a
    vote is for the answer of one ``turn``, and the dialogues continue after it.
    """
    if has(row, "conversation_a"):
        turn = rows.number(row, "turn")
        dialogues = [_until(rows.conversation(row, f"conversation_{letter}"), turn) for letter in "ab"]
    else:
        prompts = _json_list(row, "prompt")
        dialogues = [_dialogue(prompts, _json_list(row, f"response_{letter}")) for letter in "ab"]
    prompt, first, second = transcripts.split_at_divergence(*dialogues)
    scores = _votes(row)
    return [Ranked(prompt, [(first, scores[0]), (second, scores[1])], graded=False)]


def _until(dialogue: list[Message], turn: float | None) -> list[Message]:
    """Return a dialogue up to the assistant's answer number ``turn``, or the whole dialogue."""
    ends = [i + 1 for i, message in enumerate(dialogue) if message["role"] == "assistant"]
    return dialogue if turn is None or not 1 <= turn <= len(ends) else dialogue[: ends[int(turn) - 1]]


def _votes(row: Row) -> tuple[float, float]:
    if has(row, "winner"):
        winner = rows.text(row, "winner")
        if winner not in WINNERS and not winner.startswith("tie"):
            raise RowError("winner", f"must be model_a, model_b, both_bad or a tie, got {rows.shown(winner)}")
        return WINNERS.get(winner, (0, 0))
    first, second = (rows.needed_number(row, f"winner_model_{letter}") for letter in "ab")
    return first, second


def _json_list(row: Row, field: str) -> list[str]:
    """Return a list of texts that is stored as one text, as in CSV files."""
    try:
        value = json.loads(rows.text(row, field))
    except ValueError:
        value = row[field]
    value = value if isinstance(value, list) else [value]
    return [rows.checked_text("" if text is None else text, field) for text in value]


def _dialogue(prompts: list[str], responses: list[str]) -> list[Message]:
    if len(prompts) != len(responses) or not prompts:
        raise RowError("prompt", "must have as many turns as each of the two responses")
    return [turn for ask, answer in zip(prompts, responses, strict=True) for turn in (user(ask), assistant(answer))]


def read_alpaca_eval(row: Row) -> list[Ranked]:
    """Return two outputs of AlpacaEval or AlpacaFarm; ``preference`` is 1 for the first, 2 for the second, or between.

    The margin is |2p - 3|: 1 for a clear verdict, 0 for a tie (1.5, 0 or null). Li et al. 2023,
    https://github.com/tatsu-lab/alpaca_eval.
    """
    prompt = readers.asked(row)
    first, second = ([assistant(rows.text(row, f"output_{number}"))] for number in (1, 2))
    preference = rows.number(row, "preference") or 1.5
    if not 1 <= preference <= 2:
        raise RowError("preference", f"must lie between 1 and 2, got {rows.shown(preference)}")
    return [Ranked(prompt, [(first, 2 - preference), (second, preference - 1)], graded=True)]


def read_oasst(row: Row) -> list[Ranked]:
    """Return every prompt in a tree of messages with its ranked replies; rank 0 is best.

    Köpf et al. 2023, https://arxiv.org/abs/2304.07327.
    """
    root = row.get("prompt")
    if not isinstance(root, dict):
        raise RowError("prompt", f"must be a message with replies, got {type(root).__name__}")
    return list(_forks(root))


def _forks(root: dict[str, Any]) -> Iterator[Ranked]:
    """Yield the prompts of a tree, without recursion: it may be deeper than Python's stack."""
    stack: list[tuple[list[Message], Any]] = [([], root)]
    while stack:
        path, node = stack.pop()
        if not isinstance(node, dict):
            raise RowError("prompt.replies", f"must hold messages, got {type(node).__name__}")
        asks = node.get("role", "prompter") == "prompter"
        path = [*path, (user if asks else assistant)(rows.checked_text(node.get("text"), "prompt.text"))]
        replies = node.get("replies") or []
        if not isinstance(replies, list):
            raise RowError("prompt.replies", f"must be a list, got {type(replies).__name__}")
        stack += [(path, reply) for reply in reversed(replies)]
        if asks:
            texts = [_reply(reply) for reply in replies]
            if len(texts) == 1:
                texts = [(texts[0][0], 0.0)]  # the only reply has no rank and needs none
            yield Ranked(path, [([assistant(text)], -rank) for text, rank in texts if rank is not None], graded=True)


def _reply(reply: Any) -> tuple[str, float | None]:
    if not isinstance(reply, dict):
        raise RowError("prompt.replies", f"must hold messages, got {type(reply).__name__}")
    return rows.checked_text(reply.get("text"), "prompt.replies.text"), rows.number(reply, "rank")
