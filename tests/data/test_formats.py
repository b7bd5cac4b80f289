import json
from pathlib import Path

import pytest

from rlhf.config import Format, Pairing, Rankings, Ties
from rlhf.data.formats import FIELDS, KINDS, REPEATED, Converter, detect, kinds_of
from rlhf.data.readers import opening
from rlhf.data.rows import RowError

FIXTURES = Path(__file__).parent / "fixtures"
PAIRING = Pairing(rankings=Rankings.all, ties=Ties.drop, score_ratio=1.0)


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def rows_of(name: str) -> list[dict]:
    return [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def convert(row: dict, layout: Format, kind: str) -> dict:
    [found] = Converter(kind, PAIRING)(row, layout)
    return found


PAIR = {"prompt": [user("Q")], "chosen": [assistant("A")], "rejected": [assistant("B")]}
LAYOUTS = {
    "hh": Format.hh,
    "ultrafeedback": Format.ultrafeedback,
    "ultrafeedback_h4": Format.ultrafeedback,
    "tldr_comparisons": Format.tldr_comparisons,
    "alpaca": Format.alpaca,
    "alpaca_ranking": Format.alpaca,
    "sharegpt": Format.sharegpt,
    "sharegpt_ranking": Format.sharegpt,
    "alpaca_eval": Format.standard,
    "alpaca_ranking_list": Format.alpaca,
    "ultrafeedback_raw": Format.ultrafeedback_raw,
    "helpsteer_rated": Format.helpsteer,
    "helpsteer2_preference": Format.helpsteer,
    "helpsteer3": Format.helpsteer,
    "nectar": Format.nectar,
    "scores": Format.scores,
    "shp": Format.shp,
    "kto": Format.kto,
    "kto_messages": Format.kto,
    "arena": Format.arena,
    "arena_55k": Format.arena,
    "alpaca_eval_annotations": Format.alpaca_eval,
    "oasst": Format.oasst,
    "implicit": Format.standard,
    "implicit_conversations": Format.ultrafeedback,
    "parts": Format.standard,
    "imdb": Format.standard,
    "imdb_pairs": Format.standard,
    "messages": Format.standard,
    "prompts": Format.standard,
    "text": Format.standard,
    "tldr": Format.standard,
    "tldr_preference": Format.standard,
    "ultrachat": Format.standard,
    "pku": Format.pku,
    "webgpt": Format.webgpt,
    "stack_exchange": Format.stack_exchange,
    "stack_exchange_paired": Format.stack_exchange,
    "orca_pairs": Format.alpaca,
    "orca_argilla": Format.alpaca,
    "ultra_interact": Format.alpaca,
    "hh_processed": Format.hh,
    "reward_bench_2": Format.reward_bench,
    "rm_bench": Format.reward_bench,
    "judgebench": Format.judgebench,
    "llmbar": Format.llmbar,
    "pandalm": Format.pandalm,
    "auto_j": Format.auto_j,
    "distilabel": Format.distilabel,
    "distilabel_older": Format.distilabel,
    "openai_preferences": Format.openai,
    "helpsteer3_edit": Format.helpsteer_edits,
    "helpsteer3_edit_quality": Format.helpsteer_edits,
    "nemo": Format.nemo,
    "arena_140k": Format.arena,
    "mt_bench": Format.arena,
    "swift": Format.alpaca,
    "swift_pairs": Format.standard,
    "lmsys_chat": Format.standard,
    "wildchat": Format.standard,
    "dolly": Format.alpaca,
    "alpaca_farm": Format.alpaca_eval,
    "question_answer": Format.alpaca,
    "developer": Format.standard,
}


def test_every_fixture_has_a_layout() -> None:
    assert set(LAYOUTS) == {path.stem for path in FIXTURES.glob("*.jsonl")}


@pytest.mark.parametrize(("name", "layout"), LAYOUTS.items())
def test_the_layout_of_every_fixture_is_detected(name: str, layout: Format) -> None:
    for row in rows_of(name):
        found, why = detect(row)
        assert found is layout
        assert why


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        (PAIR, Format.standard),
        ({"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"}, Format.hh),
        ({"chosen": [user("Q"), assistant("A")], "rejected": [user("Q"), assistant("B")]}, Format.ultrafeedback),
        ({"instruction": "Q", "input": "", "chosen": "A", "rejected": "B"}, Format.alpaca),
        (
            {
                "conversations": [{"from": "human", "value": "Q"}],
                "chosen": {"from": "gpt", "value": "A"},
                "rejected": {"from": "gpt", "value": "B"},
            },
            Format.sharegpt,
        ),
    ],
    ids=["standard", "hh", "ultrafeedback", "alpaca", "sharegpt"],
)
def test_a_pair_is_converted_alike_from_every_layout(row: dict, layout: Format) -> None:
    assert detect(row)[0] is layout
    assert convert(row, layout, "preferences") == PAIR
    assert convert(row, layout, "prompts") == {"prompt": PAIR["prompt"]}
    assert convert(row, layout, "demonstrations") == {"prompt": PAIR["prompt"], "completion": PAIR["chosen"]}


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        ({"prompt": [user("Q")], "completion": [assistant("A")]}, Format.standard),
        ({"messages": [user("Q"), assistant("A")]}, Format.standard),
        ({"instruction": "Q", "input": "", "output": "A"}, Format.alpaca),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, Format.sharegpt),
    ],
)
def test_a_demonstration_is_converted_alike_from_every_layout(row: dict, layout: Format) -> None:
    assert detect(row)[0] is layout
    assert convert(row, layout, "demonstrations") == {"prompt": [user("Q")], "completion": [assistant("A")]}


def test_standard_rows_stay_text() -> None:
    row = {"prompt": "Q", "chosen": " A", "rejected": " B"}
    assert convert(row, Format.standard, "preferences") == row


def test_openai_comparisons_follow_the_choice_and_keep_the_confidence() -> None:
    first, second, *_, article = rows_of("tldr_comparisons")
    read = convert(first, Format.tldr_comparisons, "preferences")
    assert read["prompt"].startswith("SUBREDDIT: r/cats\n\nTITLE: My cat hides my keys\n\nPOST: Every morning")
    assert read["prompt"].endswith("to work.\n\nTL;DR:")
    assert read["chosen"] == " cat hides keys, I am late every day."
    assert read["confidence"] == 1.0
    assert convert(second, Format.tldr_comparisons, "preferences")["chosen"].startswith(" race in a week")
    read = convert(article, Format.tldr_comparisons, "preferences")
    assert read["prompt"].startswith("TITLE: Bridge opens\n\nThe new bridge")
    assert "confidence" not in read


def test_comparisons_read_like_the_demonstrations_of_the_same_posts() -> None:
    for comparison, demonstration in zip(rows_of("tldr_comparisons"), rows_of("tldr"), strict=False):
        assert convert(comparison, Format.tldr_comparisons, "prompts") == {"prompt": demonstration["prompt"]}


def test_alpaca_joins_input_history_and_system() -> None:
    assert convert({"instruction": "", "input": "I", "output": "A"}, Format.alpaca, "prompts") == {
        "prompt": [user("I")]
    }
    *_, with_input, with_history = rows_of("alpaca")
    read = convert(with_input, Format.alpaca, "demonstrations")
    assert read["prompt"] == [user("Correct the sentence.\n\nHe go home.")]
    read = convert(with_history, Format.alpaca, "demonstrations")
    assert [turn["role"] for turn in read["prompt"]] == ["system", "user", "assistant", "user"]
    assert read["prompt"][-1]["content"] == "And the second one?"


def test_a_dialogue_that_ends_with_the_user_is_only_a_prompt() -> None:
    row = {"messages": [user("Q"), assistant("A"), user("And?")]}
    assert convert(row, Format.standard, "prompts") == {"prompt": row["messages"]}
    with pytest.raises(RowError, match="field 'completion' is missing; every demonstration needs"):
        convert(row, Format.standard, "demonstrations")


def test_the_opening_of_a_text_is_a_prompt_of_two_to_eight_words() -> None:
    for row in rows_of("imdb"):
        head, rest = opening(row["text"])
        assert head + rest == row["text"]
        assert 2 <= len(head.split()) <= 8
        assert convert(row, Format.standard, "demonstrations") == {"prompt": head, "completion": rest}
        assert convert(row, Format.standard, "text") == {"text": row["text"]}
    assert len({len(opening(f"{n} a b c d e f g h")[0].split()) for n in range(100)}) == 7


def test_the_prompt_of_a_text_is_kept() -> None:
    row = {"prompt": "Once upon", "text": "Once upon a time."}
    assert convert(row, Format.standard, "demonstrations") == {"prompt": "Once upon", "completion": " a time."}


def test_columns_beside_a_question_are_part_of_the_prompt() -> None:
    plain, with_context = [convert(row, Format.alpaca, "demonstrations") for row in rows_of("dolly")]
    assert plain["prompt"] == [user("What is the capital of Peru?")]
    assert with_context["prompt"] == [user("Which of them is a river?\n\nThe Nile, the Sahara.")]
    swift = convert(rows_of("swift")[0], Format.alpaca, "demonstrations")
    assert [turn["role"] for turn in swift["prompt"]] == ["system", "user", "assistant", "user"]
    orca = convert(rows_of("orca_pairs")[0], Format.alpaca, "preferences")
    assert [turn["role"] for turn in orca["prompt"]] == ["system", "user"]
    assert convert(rows_of("developer")[0], Format.standard, "demonstrations") == {
        "prompt": [{"role": "system", "content": "Be brief."}, user("What is the capital of Peru?")],
        "completion": [assistant("Lima.")],
    }


def test_a_question_is_not_lost_beside_a_pair_that_begins_alike() -> None:
    row = {"question": "How many legs has a cat?", "chosen": "The cat has four.", "rejected": "The cat has five."}
    found = convert(row, detect(row)[0], "preferences")
    assert found["prompt"] == [user("How many legs has a cat?")]
    assert found["chosen"] == [assistant("The cat has four.")]


@pytest.mark.parametrize("prompt", ["What is it?", [user("What is it?")]])
def test_a_prompt_that_its_responses_repeat_is_taken_once_and_counted(prompt: str | list) -> None:
    answers = [" A", " B"] if isinstance(prompt, str) else [[assistant("A")], [assistant("B")]]
    row = {"prompt": prompt, "chosen": prompt + answers[0], "rejected": prompt + answers[1]}
    converter = Converter("preferences", PAIRING)
    assert converter(row, Format.standard) == [{"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}]
    assert converter.kept == {REPEATED: 1}
    one = {
        "prompt": prompt,
        "chosen": prompt + answers[0],
        "rejected": answers[1],
    }  # one response may begin like the prompt by chance
    assert convert(one, Format.standard, "preferences") == one


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": "Q", "response_a": "A", "response_b": "B", "verdict": "a"}, "response_a"),
        ({"question": "Q", "answers": {"text": ["A"]}}, "answers"),
        ({"prompt": "Q", "Answer 1": "A", "vote": 1}, "Answer 1"),
        ({"prompt": "Q", "completion": "A", "rating": 2}, "rating"),
        ({"prompt": "Q", "completion": "A", "is_correct": False}, "is_correct"),
        ({"messages": [user("Q"), assistant("A")], "winner": "x"}, "winner"),
        ({"message_id": "1", "parent_id": None, "text": "Q", "role": "prompter"}, "message_id"),
    ],
)
def test_a_row_with_an_unread_judgment_is_refused(row: dict, column: str) -> None:
    with pytest.raises(RowError, match=f"field '{column}' looks like a response or a judgment.*data.format"):
        kinds_of(row, Format.auto, PAIRING)
    if "question" not in row:
        assert kinds_of(row, Format.standard, PAIRING)


@pytest.mark.parametrize(
    ("row", "missing"), [({"chosen": "A"}, "rejected"), ({"chosen": None, "rejected": "A"}, "chosen")]
)
def test_half_a_pair_is_refused(row: dict, missing: str) -> None:
    with pytest.raises(RowError, match=f"field '{missing}' is missing beside"):
        kinds_of({"prompt": "Q"} | row, Format.auto, PAIRING)


def test_text_and_pairs_may_have_columns_that_look_like_judgments() -> None:
    assert kinds_of({"text": "a long text", "score": 2.5, "label": 1}, Format.auto, PAIRING)[0] == "text"
    assert kinds_of(PAIR | {"winner": "x", "rating": 1}, Format.auto, PAIRING)[0] == "preferences"
    assert kinds_of({"prompt": "Q", "answer": "5", "samples": []}, Format.auto, PAIRING) == ["prompts"]


def test_unread_columns_are_recorded() -> None:
    converter = Converter("preferences", PAIRING)
    converter.read(PAIR | {"id": 1, "source": "s", "margin": 1, "empty": None}, Format.auto)
    assert list(converter.unread) == ["id"]


@pytest.mark.parametrize(
    ("row", "kind", "complaint"),
    [
        ({"prompt": "Q", "rejected": "B"}, "preferences", "field 'chosen' is missing; every preference pair needs"),
        ({"prompt": "Q", "chosen": None, "rejected": "B"}, "preferences", "field 'chosen' is missing"),
        ({"prompt": " ", "chosen": "A", "rejected": "B"}, "preferences", "field 'prompt' is empty"),
        ({"prompt": [], "chosen": [assistant("A")], "rejected": [assistant("B")]}, "preferences", "empty conversation"),
        ({"prompt": "Q", "chosen": "A", "rejected": 7}, "preferences", "field 'rejected' must be text, got int"),
        ({"prompt": [user("Q")], "chosen": "A", "rejected": "B"}, "preferences", "is a conversation, chosen is text"),
        ({"messages": [assistant("A")]}, "demonstrations", "field 'prompt' is empty"),
        ({"a": 1}, "text", "field 'text' is missing; every row of text needs text"),
    ],
)
def test_invalid_rows_are_reported_with_their_field(row: dict, kind: str, complaint: str) -> None:
    with pytest.raises(RowError, match=complaint):
        convert(row, detect(row)[0], kind)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"info": []}, "field 'info' must be an object"),
        ({"summaries": [{"text": "a"}]}, "field 'summaries' must be a list of two"),
        ({"choice": 2}, "field 'choice' must be 0 or 1, got 2"),
        ({"choice": 1.0}, "field 'choice' must be 0 or 1"),
        ({"info": {"title": "t"}}, "field 'article' is missing"),
    ],
)
def test_invalid_comparisons_are_reported_with_their_field(change: dict, complaint: str) -> None:
    row = rows_of("tldr_comparisons")[0] | change
    with pytest.raises(RowError, match=complaint):
        convert(row, Format.tldr_comparisons, "preferences")


def test_every_kind_names_its_missing_field() -> None:
    for kind in KINDS:
        with pytest.raises(RowError, match=f"field '{FIELDS[kind][0]}' is missing; every"):
            convert({}, Format.standard, kind)
