"""Layouts in which several responses to one prompt were judged: rankings, scores, votes, thumbs, trees of messages.

Each reader turns one row into `Ranked` or `Rated` responses; rlhf.data.pairs makes pairs of them.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from rlhf.data import rows, transcripts
from rlhf.data.pairs import Ranked, Rated
from rlhf.data.render import Message, Prompt
from rlhf.data.rows import Row, RowError, assistant, has, user

ANSWERS = ("responses", "scores")
FEEDBACK = ("fine-grained_score", "overall_score")  # openbmb: the former is the mean of four aspects, the better one
HELPSTEER_TURN = re.compile(r"<extra_id_1>(User|Assistant)\n")
WINNERS = {"model_a": (1, 0), "model_b": (0, 1)}  # everything else that begins with "tie" is one
KTO_LABELS = ("label", "kto_tag")


def _completion(prompt: Prompt, response: Any, field: str) -> Prompt:
    """A response of the prompt's type."""
    text = rows.checked_text(response, field)
    return text if isinstance(prompt, str) else [assistant(text)]


def _list(row: Row, field: str, kind: type, what: str) -> list:
    value = row.get(field)
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise RowError(field, f"must be a list of {what}, got {rows.shown(value)}")
    return value


def read_scores(row: Row) -> list[Ranked]:
    """A prompt, ``responses`` and as many ``scores``, as best-of-n sampling leaves them."""
    prompt = rows.text_or_conversation(row, "prompt")
    responses, scores = _list(row, "responses", str, "texts"), row.get("scores")
    if not isinstance(scores, list) or len(scores) != len(responses):
        raise RowError("scores", f"must be a list of one number for each of the {len(responses)} responses")
    numbers = [rows.needed_number({"scores": score}, "scores") for score in scores]
    completions = [_completion(prompt, response, "responses") for response in responses]
    return [Ranked(prompt, list(zip(completions, numbers, strict=True)), graded=True)]


def read_nectar(row: Row) -> list[Ranked]:
    """Berkeley's Nectar: a transcript as the prompt and ``answers`` with a ``rank`` each, 1 the best."""
    prompt = transcripts.prompt(rows.text(row, "prompt"))
    answers = _list(row, "answers", dict, "objects with answer and rank")
    ranked = [
        (_completion(prompt, answer.get("answer"), "answers.answer"), -rows.needed_number(answer, "rank"))
        for answer in answers
    ]
    return [Ranked(prompt, ranked, graded=True)]


def read_ultrafeedback_raw(row: Row) -> list[Ranked]:
    """UltraFeedback as openbmb releases it: an instruction and ``completions`` of several models with scores.

    The score is the mean of the four aspects, fine-grained_score; where one completion has none, overall_score.
    Cui et al. 2023, https://arxiv.org/abs/2310.01377.
    """
    prompt = [user(rows.text(row, "instruction"))]
    completions = _list(row, "completions", dict, "objects with response and a score")
    field = next((name for name in FEEDBACK if all(has(one, name) for one in completions)), None)
    if field is None:
        raise RowError("completions", f"must all have one of {' and '.join(FEEDBACK)}")
    ranked = [
        (_completion(prompt, one.get("response"), "completions.response"), rows.needed_number(one, field))
        for one in completions
    ]
    return [Ranked(prompt, ranked, graded=True)]


def read_helpsteer(row: Row) -> list[Ranked] | list[Rated]:
    """NVIDIA's HelpSteer: rated single responses (1, 2), or two and which is preferred by how much (2, 3).

    preference_strength and overall_preference run from -3, the first is much better, to 3, the second is; their sign
    decides what is chosen and their size is the margin. A single response's score is its helpfulness, 0 to 4.
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
    """A dialogue is written as one text, with a mark before each turn but the first."""
    first, *others = HELPSTEER_TURN.split(text)
    turns = zip(others[::2], others[1::2], strict=True)
    return [user(first.rstrip("\n"))] + [
        (user if role == "User" else assistant)(content.rstrip("\n")) for role, content in turns
    ]


def read_shp(row: Row) -> list[Ranked]:
    """Stanford Human Preferences: a Reddit post and two comments with their votes; labels is 1 where A is preferred.

    Ethayarajh et al. 2022, https://arxiv.org/abs/2110.08420.
    """
    prompt = [user(rows.text(row, "history"))]
    label = row.get("labels")
    if isinstance(label, bool) or label not in (0, 1):
        raise RowError("labels", f"must be 0 or 1, got {rows.shown(label)}")
    first, second = ([assistant(rows.text(row, f"human_ref_{letter}"))] for letter in "AB")
    votes = [rows.number(row, f"score_{letter}") for letter in "AB"]
    graded = None not in votes and (votes[0] > votes[1]) == bool(label) and votes[0] != votes[1]
    scores = votes if graded else [float(label), float(1 - label)]
    return [Ranked(prompt, [(first, scores[0]), (second, scores[1])], graded, rows.number(row, "score_ratio"))]


def read_kto(row: Row) -> list[Rated]:
    """Thumbs up or down: a completion, or the last answer of a dialogue, with ``label`` true or false.

    Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306.
    """
    field = next((name for name in KTO_LABELS if has(row, name)), KTO_LABELS[0])
    label = row.get(field)
    if not isinstance(label, bool):
        raise RowError(field, f"must be true or false, got {rows.shown(label)}")
    if has(row, "completion"):
        prompt, completion = (rows.text_or_conversation(row, name) for name in ("prompt", "completion"))
    elif has(row, "instruction"):
        prompt, completion = rows.alpaca_prompt(row), [assistant(rows.text(row, "output"))]
    else:
        name = "messages" if has(row, "messages") else "conversations"
        messages = rows.conversation(row, name)
        if messages[-1]["role"] != "assistant":
            raise RowError(name, "must end with the answer that the label is for")
        prompt, completion = messages[:-1], messages[-1:]
    return [Rated(prompt, completion, float(label), graded=False, demonstrates=label)]


def read_arena(row: Row) -> list[Ranked]:
    """Votes of the chatbot arena: two dialogues and a winner, or prompt and responses as lists in JSON.

    Zheng et al. 2023, https://arxiv.org/abs/2306.05685; "tie" and "tie (bothbad)" are ties.
    """
    if has(row, "conversation_a"):
        dialogues = [rows.conversation(row, f"conversation_{letter}") for letter in "ab"]
    else:
        prompts = _json_list(row, "prompt")
        dialogues = [_dialogue(prompts, _json_list(row, f"response_{letter}")) for letter in "ab"]
    prompt, first, second = transcripts.split_at_divergence(*dialogues)
    scores = _votes(row)
    return [Ranked(prompt, [(first, scores[0]), (second, scores[1])], graded=False)]


def _votes(row: Row) -> tuple[float, float]:
    if has(row, "winner"):
        winner = rows.text(row, "winner")
        if winner not in WINNERS and not winner.startswith("tie"):
            raise RowError("winner", f"must be model_a, model_b or a tie, got {rows.shown(winner)}")
        return WINNERS.get(winner, (0, 0))
    return tuple(rows.needed_number(row, f"winner_model_{letter}") for letter in "ab")


def _json_list(row: Row, field: str) -> list[str]:
    """A list of texts that is itself a text, as a CSV file holds it."""
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
    """Annotations of AlpacaEval: ``preference`` is 1 for the first output, 2 for the second, or between the two.

    The margin is |2p - 3|: 1 for a clear verdict and 0 for a tie (1.5, or 0, or none). Li et al. 2023,
    https://github.com/tatsu-lab/alpaca_eval.
    """
    prompt = [user(rows.text(row, "instruction"))]
    first, second = ([assistant(rows.text(row, f"output_{number}"))] for number in (1, 2))
    preference = rows.number(row, "preference") or 1.5
    if not 1 <= preference <= 2:
        raise RowError("preference", f"must lie between 1 and 2, got {rows.shown(preference)}")
    return [Ranked(prompt, [(first, 2 - preference), (second, preference - 1)], graded=True)]


def read_oasst(row: Row) -> list[Ranked]:
    """A tree of messages: every prompt in it with its ranked replies, rank 0 the best.

    Köpf et al. 2023, https://arxiv.org/abs/2304.07327.
    """
    root = row.get("prompt")
    if not isinstance(root, dict):
        raise RowError("prompt", f"must be a message with replies, got {type(root).__name__}")
    return list(_forks(root))


def _forks(root: dict[str, Any]) -> Iterator[Ranked]:
    """Without recursion: a tree may be deeper than Python's stack."""
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
