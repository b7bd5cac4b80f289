import pytest
from datasets import Dataset

from rlhf.config import Turns
from rlhf.data.tokens import Form
from tests.data.test_templates import CHATML, chat_template, said, tokenizer
from tests.data.test_tokens import ids_of

STRIPPING = (  # like templates that keep only the thoughts of the last turn
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}{{ '<|user|>assistant\n(since)' + m.content }}"
    "{% else %}{{ '<|user|>' + m.role + '\n' + m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
)
GENERATION = CHATML.replace(
    "{{ '<|user|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}",
    "{{ '<|user|>' + m['role'] + '\n' }}{% generation %}{{ m['content'] + '<|im_end|>\n' }}{% endgeneration %}",
)


def talk(*answers: str, **last) -> dict:
    turns = [turn for n, text in enumerate(answers) for turn in (*said("user", f"q{n}"), *said("assistant", text))]
    return {"prompt": turns[:-1], "completion": [turns[-1] | last]}


def learned(rows: list[dict], template: str, **options) -> tuple[list[str], object]:
    made = tokenizer(template)
    # JSON as in loaded rows, so that messages may have different keys.
    found, counts = ids_of(Rows(rows), Form.completions, tokenizer=made, **options)
    texts = []
    for row in found or []:
        assert [a for a, b in zip(row["input_ids"], row["labels"], strict=True) if b != -100 and a != b] == []
        texts.append(made.decode([label for label in row["labels"] if label != -100]))
    return texts, counts


class Rows:
    def __new__(cls, rows: list[dict]) -> Dataset:
        return Dataset.from_list(rows, on_mixed_types="use_json")


@pytest.mark.parametrize("template", [CHATML, GENERATION, chat_template("plain"), chat_template("almanac")])
def test_every_turn_of_the_assistant_is_learned_with_its_end(template: str) -> None:
    texts, counts = learned([talk("one", "two", "three"), talk("four")], template)
    ends = [[text.strip() for text in one.replace("<|im_end|>", "<|end|>").split("<|end|>")] for one in texts]
    assert ends == [["one", "two", "three", ""], ["four", ""]]
    assert (counts.turns, counts.learned, counts.rewritten) == (4, 4, 0)


def test_only_the_last_turn_is_learned_if_set() -> None:
    texts, counts = learned([talk("one", "two")], CHATML, turns=Turns.last)
    assert [text.split("<|im_end|>")[0].strip() for text in texts] == ["two"]
    assert (counts.turns, counts.learned) == (2, 1)


def test_only_the_last_turn_is_learned_if_the_template_rewrites_earlier_ones() -> None:
    texts, counts = learned([talk("one", "two"), talk("three")], STRIPPING)
    assert [text.split("<|im_end|>")[0].strip() for text in texts] == ["(since)two", "(since)three"]
    assert (counts.turns, counts.learned, counts.rewritten) == (3, 2, 1)


def test_turns_of_weight_zero_are_not_learned() -> None:
    early = talk("one", "two")
    early["prompt"][1]["weight"] = 0
    texts, counts = learned([talk("one", "two", weight=0), early, talk("three", weight=0)], CHATML)
    assert [text.split("<|im_end|>")[0].strip() for text in texts] == ["one", "two"]
    assert (counts.turns, counts.learned, counts.unlearned) == (2, 2, 1)
    assert learned([talk("one", "two", weight=0)], CHATML, turns=Turns.last)[1].unlearned == 1


def test_a_row_that_is_cut_keeps_its_earlier_turns() -> None:
    rows = [talk("one", "x" * 60)]
    texts, counts = learned(rows, CHATML, longest=50)
    assert texts[0].split("<|im_end|>")[0].strip() == "one"
    assert counts.cut == 1
    texts, counts = learned(rows, CHATML, longest=10)
    assert (texts, counts.filled) == ([], 1)


def test_other_roles_are_located_in_pairs_that_diverge_early() -> None:
    made = tokenizer(CHATML)
    chosen = [*said("assistant", "good"), *said("user", "more"), *said("assistant", "better")]
    row = {"prompt": said("user", "q"), "chosen": chosen, "rejected": said("assistant", "bad")}
    found, counts = ids_of(Rows([row]), Form.pairs, tokenizer=made)
    [pair] = found
    begin, end = pair["chosen_heard"]
    assert made.decode(pair["chosen_ids"][begin:end]).split() == [
        "<|user|>",
        "user",
        "more<|im_end|>",
        "<|user|>",
        "assistant",
    ]
    assert (pair["rejected_heard"], counts.heard) == ([], 1)
    plain = Rows([{**row, "chosen": said("assistant", "good")}])
    assert "chosen_heard" not in ids_of(plain, Form.pairs, tokenizer=made)[0].column_names


def test_prompts_that_are_too_long_are_left_out_and_the_others_keep_their_number() -> None:
    made = tokenizer(CHATML)
    rows = Rows([{"prompt": said("user", text)} for text in ("a" * 40, "b", "c")])
    found, counts = ids_of(rows, Form.prompts, 30, tokenizer=made)
    assert (found["row"][:], counts.filled) == ([1, 2], 1)
    assert made.decode(found["prompt_ids"][0]).split() == ["<|user|>", "user", "b<|im_end|>", "<|user|>", "assistant"]
