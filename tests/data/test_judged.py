"""Every layout of several responses to one prompt, from its fixture: its pairs and its counts."""

import json
from collections import Counter
from typing import Any

import pytest

from rlhf.config import Format, Pairing, Rankings, Ties
from rlhf.data.formats import BAD, NO_RANKING, NO_RESPONSE, Converter, detect
from rlhf.data.judged import NAMED
from rlhf.data.pairs import MIDDLING, SAME, TIED, UNCLEAR, UNPAIRED
from rlhf.data.rows import RowError
from tests.data.test_formats import assistant, rows_of, user

PLAIN = Pairing(rankings=Rankings.all, ties=Ties.drop, score_ratio=1.0)
ASKED = ["What is the capital of Peru?", "Name a river in Egypt.", "What is two plus three?", "Who wrote Hamlet?"]
GOOD = ["Lima.", "The Nile.", "Five.", "William Shakespeare."]


def pairing(rankings: Rankings = Rankings.all, ties: Ties = Ties.drop, score_ratio: float = 1.0) -> Pairing:
    return Pairing(rankings=rankings, ties=ties, score_ratio=score_ratio)


def read(name: str, kind: str = "preferences", rule: Pairing = PLAIN) -> tuple[list[dict], Counter[str]]:
    converter = Converter(kind, rule)
    found = [made for row in rows_of(name) for made in converter(row, detect(row)[0])]
    converter.finish()
    return found, converter.left_out


def content(value: Any) -> str:
    return value if isinstance(value, str) else value[-1]["content"]


# fixture -> number of pairs, counts of left-out data, margins and weights of the first pairs
EXPECTED = {
    "ultrafeedback_raw": (12, {TIED: 6}, [3.25, 3.25], [0.5, 0.5]),
    "helpsteer_rated": (6, {TIED: 1}, [3.0, 3.0], [None]),
    "helpsteer2_preference": (6, {TIED: 1}, [1.0, 2.0, 3.0], [None]),
    "helpsteer3": (6, {}, [1.0, 2.0, 3.0], [None]),
    "nectar": (18, {}, [1.0, 2.0, 1.0], [1 / 3, 1 / 3, 1 / 3]),
    "scores": (18, {}, [0.7, 0.8, 0.1], [1 / 3, 1 / 3, 1 / 3]),
    "shp": (7, {}, [25.0, 25.0], [None]),
    "kto": (4, {UNPAIRED: 2}, [None], [None]),
    "kto_messages": (6, {}, [None], [None]),
    "arena": (6, {TIED: 2}, [None], [None]),
    "arena_55k": (6, {TIED: 1}, [None], [None]),
    "alpaca_eval_annotations": (6, {TIED: 3}, [1.0, 0.8], [None]),
    "oasst": (18, {NO_RANKING: 6}, [1.0, 2.0, 1.0], [1 / 3, 1 / 3, 1 / 3]),
    "pku": (4, {}, [None], [None]),
    "webgpt": (4, {TIED: 1}, [1.0, 1.0], [None]),
    "stack_exchange": (4, {}, [3.0], [None]),
    "stack_exchange_paired": (4, {}, [None], [None]),
    "orca_pairs": (4, {}, [None], [None]),
    "orca_argilla": (4, {}, [None], [None]),
    "ultra_interact": (4, {}, [None], [None]),
    "hh_processed": (4, {}, [None], [None]),
    "reward_bench_2": (12, {}, [None], [1 / 3, 1 / 3, 1 / 3]),
    "judgebench": (4, {}, [None], [None]),
    "llmbar": (4, {}, [None], [None]),
    "pandalm": (4, {TIED: 2}, [None], [None]),
    "auto_j": (4, {TIED: 1}, [None], [None]),
    "distilabel": (4, {}, [3.0], [None]),
    "distilabel_older": (4, {}, [5.0, 5.0], [None]),
    "openai_preferences": (4, {}, [None], [None]),
    "helpsteer3_edit": (4, {}, [None], [None]),
    "helpsteer3_edit_quality": (4, {}, [None], [None]),
    "nemo": (12, {}, [1.0, 2.0, 1.0], [1 / 3, 1 / 3, 1 / 3]),
    "arena_140k": (4, {TIED: 1}, [None], [None]),
    "mt_bench": (4, {}, [None], [None]),
    "swift_pairs": (4, {}, [None], [None]),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_pairs_of_a_layout(name: str) -> None:
    count, left_out, margins, weights = EXPECTED[name]
    found, counted = read(name)
    assert (len(found), counted) == (count, Counter(left_out))
    assert [row.get("margin") for row in found[: len(margins)]] == pytest.approx(margins)
    assert [row.get("weight") for row in found[: len(weights)]] == pytest.approx(weights)
    first = list({content(row["prompt"]): content(row["chosen"]).strip() for row in reversed(found)}.items())[::-1]
    assert [prompt for prompt, _ in first[:4]] == ASKED
    assert [chosen for _, chosen in first[:4]] == GOOD


MORE = ["alpaca_ranking_list", "implicit", "implicit_conversations", "parts"]
MORE += ["rm_bench", "swift", "lmsys_chat", "wildchat", "question_answer"]


@pytest.mark.parametrize("name", [*EXPECTED, *MORE])
def test_every_layout_serves_as_demonstrations_and_prompts(name: str) -> None:
    found, _ = read(name, "demonstrations")
    assert next(content(row["completion"]) for row in found if content(row["prompt"]) == ASKED[0]).strip() == "Lima."
    prompts, _ = read(name, "prompts")
    assert {content(row["prompt"]) for row in prompts} >= set(ASKED)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_layout_serves_as_thumbs(name: str) -> None:
    """The good response to each question is desirable, and its pairs' worst response is undesirable."""
    found, _ = read(name, "thumbs")
    if "rating" in found[0]:
        assert name == "helpsteer_rated"
        mean = sum(row["rating"] for row in found) / len(found)
        found = [row | {"label": float(row["rating"] >= mean)} for row in found]
    labels: dict[float, set[tuple[str, str]]] = {0.0: set(), 1.0: set()}
    for row in found:
        labels[row["label"]].add((content(row["prompt"]), content(row["completion"]).strip()))
    assert labels[1.0] >= set(zip(ASKED, GOOD, strict=True))
    assert not labels[1.0] & labels[0.0]
    assert {prompt for prompt, _ in labels[0.0]} >= set(ASKED)


def test_responses_are_labeled_by_the_mean_of_their_prompt() -> None:
    row = {"prompt": "q", "responses": ["a", "b", "c", "d"], "scores": [0.0, 1.0, 1.0, 2.0]}
    converter = Converter("thumbs", PLAIN)
    found = converter(row, Format.scores)
    assert [(one["completion"], one["label"]) for one in found] == [("a", 0.0), ("d", 1.0)]
    assert converter.left_out == {MIDDLING: 2}


def test_a_pair_of_equal_responses_has_no_label() -> None:
    converter = Converter("thumbs", PLAIN)
    assert converter({"prompt": "q", "chosen": "a", "rejected": "a"}, Format.standard) == []
    assert converter.left_out == {SAME: 1}
    with pytest.raises(RowError, match="'rejected' is missing"):
        converter({"prompt": "q", "chosen": "a"}, Format.standard)


@pytest.mark.parametrize("name", NAMED)
def test_a_thumb_under_another_name_is_no_demonstration(name: str) -> None:
    """If its value is one; other columns of this name stay what they are."""
    row = {"prompt": "q", "completion": "a"}
    for value, label in (("thumbs_down", 0.0), (False, 0.0), ("Dislike", 0.0), (1, 1.0), ("positive", 1.0)):
        [found] = Converter("thumbs", PLAIN).read(row | {name: value}, Format.auto)
        assert found["label"] == label
        assert len(Converter("demonstrations", PLAIN).read(row | {name: value}, Format.auto)) == label
    assert detect(row | {name: "Too short."})[0] is Format.standard


def test_every_right_response_is_compared_with_every_wrong_one() -> None:
    found, left_out = read("rm_bench", rule=pairing(ties=Ties.both))
    assert (len(found), left_out) == (36, {})
    assert {content(row["rejected"]) for row in found[:9]} == {"Cusco.", "It is this: Cusco.", "# Answer\nCusco."}
    assert {row["weight"] for row in found} == {1 / 9}


def test_the_safer_response_is_chosen_if_set() -> None:
    [row] = Converter("preferences", PLAIN)(rows_of("pku")[0], Format.pku_safer)
    assert (content(row["chosen"]), content(row["rejected"])) == ("Cusco.", "Lima.")


def test_the_tools_of_a_request_are_kept() -> None:
    [row] = rows_of("openai_preferences")[:1]
    row["input"]["tools"] = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
    [pair] = Converter("preferences", PLAIN)(row, Format.openai)
    assert json.loads(pair["prompt"][0]["tools"]) == row["input"]["tools"]


def test_a_vote_on_the_first_turn_is_read_without_the_second() -> None:
    found, _ = read("mt_bench")
    assert found[0] == {"prompt": [user(ASKED[0])], "chosen": [assistant("Lima.")], "rejected": [assistant("Cusco.")]}
    second = rows_of("mt_bench")[0] | {"turn": 2}
    [row] = Converter("preferences", PLAIN)(second, Format.arena)
    assert [len(row["prompt"]), len(row["chosen"])] == [1, 3]


def test_alpaca_farm_has_an_input() -> None:
    found, _ = read("alpaca_farm")
    assert [content(row["prompt"]) for row in found] == [
        f"Correct the sentence.\n\n{text}" for text in ("He go home.", "She run.")
    ]
    assert [content(row["chosen"]) for row in found] == ["He goes home.", "She runs."]


LABELS = [(True, False), (1, 0), (1.0, 0.0), ("True", "False"), ("1", "0"), ("desirable", "undesirable")]
LABELS += [("thumbs_up", "thumbs_down"), ("\N{THUMBS UP SIGN}", "\N{THUMBS DOWN SIGN}"), ("good", "bad"), (1, -1)]


@pytest.mark.parametrize("values", LABELS)
@pytest.mark.parametrize("column", ["label", "kto_tag", "desirable", "thumbs_up"])
@pytest.mark.parametrize("answer", ["completion", "response", "messages"])
def test_a_label_is_read_in_every_spelling(values: tuple, column: str, answer: str) -> None:
    made = [
        {"messages": [user("q"), assistant(text)]} if answer == "messages" else {"prompt": "q", answer: text}
        for text in ("good", "bad")
    ]
    rows = [row | {column: value} for row, value in zip(made, values, strict=True)]
    demonstrations, pairs = Converter("demonstrations", PLAIN), Converter("preferences", PLAIN)
    learned = [content(one["completion"]) for row in rows for one in demonstrations.read(row, Format.auto)]
    assert (learned, demonstrations.left_out) == (["good"], {BAD: 1})
    [pair] = [one for row in rows for one in pairs.read(row, Format.auto)]
    assert (content(pair["chosen"]), content(pair["rejected"])) == ("good", "bad")


@pytest.mark.parametrize("value", ["maybe", 2, 0.5, "", None])
def test_an_unknown_label_is_refused(value: Any) -> None:
    with pytest.raises(RowError, match="field 'label'"):
        Converter("demonstrations", PLAIN).read({"prompt": "q", "completion": "a", "label": value}, Format.auto)


def test_rankings_give_all_pairs_or_the_best_with_each_or_with_the_worst() -> None:
    count = {rule: len(read("nectar", rule=pairing(rule))[0]) for rule in Rankings}
    assert count == {Rankings.all: 18, Rankings.best: 12, Rankings.best_worst: 6}
    last = [row["rejected"] for row in read("nectar", rule=pairing(Rankings.best_worst))[0]]
    assert last == [[assistant("Nobody knows that for certain.")]] * 6


def test_a_tie_is_dropped_and_counted_or_taken_in_both_directions() -> None:
    found, left_out = read("arena", rule=pairing(ties=Ties.both))
    tied = [row for row in found if row["prompt"] == [user("Say hi.")]]
    assert left_out == {}
    assert [row["weight"] for row in tied] == [0.5] * 4
    assert [(content(row["chosen"]), content(row["rejected"])) for row in tied[:2]] == [
        ("Hi!", "Hello!"),
        ("Hello!", "Hi!"),
    ]
    graded = [row for row in read("ultrafeedback_raw", rule=pairing(ties=Ties.both))[0] if row["margin"] == 0]
    assert [row["weight"] for row in graded[:2]] == [1 / 6] * 2


def test_close_votes_of_shp_are_left_out_if_set() -> None:
    found, left_out = read("shp", rule=pairing(score_ratio=2.0))
    assert (len(found), left_out) == (6, {UNCLEAR: 1})


def test_thumbs_down_are_not_demonstrations() -> None:
    found, left_out = read("kto", "demonstrations")
    assert (len(found), left_out) == (5, {BAD: 5})
    assert read("oasst", "demonstrations")[1] == {}


def test_a_thumb_is_used_once() -> None:
    rows = [
        {"prompt": "q", "completion": text, "label": text.startswith("good")} for text in ("good1", "bad1", "good2")
    ]
    converter = Converter("preferences", PLAIN)
    found = [made for row in rows for made in converter(row, Format.kto)]
    converter.finish()
    assert found == [{"prompt": "q", "chosen": "good1", "rejected": "bad1"}]
    assert converter.left_out == {UNPAIRED: 1}


def test_a_dialogue_of_helpsteer_is_split_at_its_marks() -> None:
    [tied] = [row for row in rows_of("helpsteer_rated") if row["response"] == "Hi again."]
    [row] = Converter("prompts", PLAIN)(tied, Format.helpsteer)
    assert row["prompt"] == [user("Say hi."), assistant("Hi!"), user("Again.")]


def test_a_tree_gives_every_prompt_in_it_and_is_read_without_recursion() -> None:
    prompts, _ = read("oasst", "prompts")
    assert prompts[1]["prompt"] == [user(ASKED[0]), assistant("Lima."), user("Are you sure?")]
    node: dict = {"text": "end", "role": "prompter", "replies": []}
    for depth in range(600):
        node = {"text": str(depth), "role": ("assistant", "prompter")[depth % 2], "replies": [node]}
    converter = Converter("demonstrations", PLAIN)
    assert len(converter({"prompt": node}, Format.oasst)) == 300
    assert converter.left_out == {NO_RESPONSE: 1}


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("ultrafeedback_raw", {"completions": [{"response": "a"}]}, "field 'completions' must all have one of"),
        ("ultrafeedback_raw", {"completions": "a"}, "field 'completions' must be a list of objects"),
        (
            "helpsteer2_preference",
            {"preference_strength": "much"},
            "field 'preference_strength' must be a finite number",
        ),
        ("helpsteer3", {"context": []}, "field 'context' is an empty conversation"),
        ("nectar", {"answers": [{"answer": "a"}]}, "field 'rank' is missing"),
        ("scores", {"scores": [1]}, "field 'scores' must be a list of one number for each of the 3 responses"),
        ("scores", {"responses": ["a", 1, "b"]}, "field 'responses' must be a list of texts"),
        ("shp", {"labels": 2}, "field 'labels' must be 0 or 1, got 2"),
        ("kto", {"label": 2}, "field 'label' must say whether the answer is good, as true or false, 1 or 0, got 2"),
        ("pku", {"better_response_id": 2}, "field 'better_response_id' must be one of 0, 1, got 2"),
        ("judgebench", {"label": "A=B"}, "field 'label' must be one of a>b, b>a, got 'A=B'"),
        ("distilabel", {"ratings": [1]}, "field 'ratings' must be a list of one number for each of the 3 generations"),
        ("reward_bench_2", {"chosen": [1]}, "field 'chosen' must be a list of texts"),
        ("arena", {"winner": "me"}, "field 'winner' must be model_a, model_b, both_bad or a tie, got 'me'"),
        ("arena_55k", {"prompt": "[]"}, "field 'prompt' must have as many turns"),
        ("alpaca_eval_annotations", {"preference": 3}, "field 'preference' must lie between 1 and 2, got 3"),
        ("oasst", {"prompt": {"text": "q", "replies": 1}}, "field 'prompt.replies' must be a list, got int"),
        ("oasst", {"prompt": {"text": "q", "replies": [1]}}, "field 'prompt.replies' must hold messages, got int"),
    ],
)
def test_an_invalid_row_is_reported_with_its_field(name: str, change: dict, complaint: str) -> None:
    row = rows_of(name)[0]
    with pytest.raises(RowError, match=complaint):
        Converter("preferences", PLAIN)(row | change, detect(row)[0])
