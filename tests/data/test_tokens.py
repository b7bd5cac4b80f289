"""Worked by hand, with a vocabulary in which a token is a character; and compared with TRL's rows."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from rlhf.data import cache, workers
from rlhf.data.templates import chat_template
from rlhf.data.tokens import Form, tokenized
from rlhf.modeling.from_scratch import new_tokenizer
from tests.data.test_load import FIXTURES, read, source


def letters(template: str) -> PreTrainedTokenizerFast:
    tokenizer = new_tokenizer(["x"], 262, template)
    tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return tokenizer


TRAINED = (Form.completions, Form.pairs, Form.sequences)
TOKENIZER = letters(chat_template("almanac"))
TEXT = Dataset.from_dict({"prompt": ["abcd", "abcd", "ab"], "completion": ["efg", "ef<|end|>", "c"]})  # 8, 7 and 4


def said(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def ids_of(rows: Dataset, form: Form, longest: int | None = None, tokenizer=TOKENIZER, **more):
    return tokenized(rows, form, tokenizer, longest, os.environ["RLHF_CACHE"], **more)


def counted(rows: Dataset, form: Form, longest: int | None, **more) -> tuple[int, int]:
    made, counts = ids_of(rows, form, longest, **more)
    assert counts.filled + (0 if made is None else len(made)) == len(rows)
    return counts.cut, counts.filled


@pytest.mark.parametrize(
    ("longest", "expected"),
    [(None, (0, 0)), (8, (0, 0)), (7, (1, 0)), (6, (2, 0)), (5, (2, 0)), (4, (0, 2)), (3, (1, 2)), (2, (0, 3))],
)
def test_text_is_counted_with_the_end_of_sequence(longest: int | None, expected: tuple[int, int]) -> None:
    assert counted(TEXT, Form.completions, longest) == expected
    made, _ = ids_of(TEXT, Form.completions, longest)
    assert longest is None or made is None or max(map(len, made["input_ids"])) <= longest


@pytest.mark.parametrize(("longest", "expected"), [(9, (0, 0)), (8, (1, 0)), (7, (1, 0)), (6, (0, 1))])
def test_a_conversation_is_counted_with_the_markers_of_its_template(longest: int, expected: tuple[int, int]) -> None:
    """<|user|> a b c d <|assistant|> | e f <|end|>"""
    talk = Dataset.from_dict({"prompt": [said("user", "abcd")], "completion": [said("assistant", "ef")]})
    assert counted(talk, Form.completions, longest) == expected
    if expected[1] == 0:
        [row] = ids_of(talk, Form.completions, longest)[0]
        assert row["labels"] == [-100] * 6 + row["input_ids"][6:]


@pytest.mark.parametrize(("longest", "expected"), [(8, (0, 0)), (7, (1, 0)), (4, (0, 1))])
def test_a_pair_is_as_long_as_the_longer_of_its_responses(longest: int, expected: tuple[int, int]) -> None:
    pair = Dataset.from_dict({"prompt": ["abcd"], "chosen": ["e"], "rejected": ["efg"]})
    assert counted(pair, Form.pairs, longest) == expected
    assert counted(pair, Form.pairs, longest, keep_end=True) == (int(longest < 8), 0)


def test_rows_are_counted_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.data.cache.BATCH", 2)
    assert counted(TEXT.select(range(3)), Form.completions, 3) == (1, 2)


def test_the_response_begins_at_the_first_different_token() -> None:
    """A template may close the prompt differently before an answer: the answer begins at the difference."""
    tokenizer = letters("")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}??{% endif %}"
    )
    talk = Dataset.from_dict({"prompt": [said("user", "abcd")], "completion": [said("assistant", "efg")]})
    made, counts = ids_of(talk, Form.completions, 5, tokenizer)
    assert (counts.cut, counts.filled, counts.broken, counts.example) == (1, 0, 1, "??")
    assert tokenizer.decode(made[0]["input_ids"]) == "abcde"
    assert made[0]["labels"][:4] == [-100] * 4
    assert counted(talk, Form.completions, 4, tokenizer=tokenizer) == (0, 1)


def test_extra_columns_stay_with_their_rows() -> None:
    pairs = Dataset.from_dict(
        {"prompt": ["abcdef", "a"], "chosen": ["e", "b"], "rejected": ["f", "c"], "margin": [1.0, 2.0]}
    )
    made, _ = ids_of(pairs, Form.pairs, 5, extra=["margin"])
    assert made["margin"][:] == [2.0]
    assert set(ids_of(pairs, Form.sequences, extra=["margin"])[0].column_names) == {
        "chosen_ids",
        "rejected_ids",
        "margin",
    }


MARKUP = "x<|end|><|assistant|>y"


@pytest.mark.parametrize("conversational", [True, False])
@pytest.mark.parametrize("form", TRAINED)
def test_the_text_of_a_special_token_is_text(form: Form, conversational: bool) -> None:
    def of(role: str, text: str):
        return said(role, text) if conversational else text

    row = {"prompt": of("user", MARKUP), "completion": of("assistant", MARKUP)}
    row |= {"chosen": of("assistant", MARKUP), "rejected": of("assistant", "no")}
    made, counts = ids_of(Dataset.from_list([row]), form)
    assert counts.special == 1
    ids = made[0]["input_ids"] if form is Form.completions else made[0].get("prompt_ids", []) + made[0]["chosen_ids"]
    special = [token for token in ids if token in TOKENIZER.all_special_ids]
    wanted = ["<|user|>", "<|assistant|>", "<|end|>"] if conversational else ["<|end|>"]
    assert special == TOKENIZER.convert_tokens_to_ids(wanted)
    assert TOKENIZER.decode(ids).count(MARKUP) == 2  # the whole text is kept


# TRL's preparation without a model: it uses only these attributes of the trainer.
TRAINER = {"completion_only_loss": True, "chat_template": None}


def of_trl(
    form: Form, rows: Dataset, tokenizer: PreTrainedTokenizerFast, longest: int | None, folder: Path
) -> list[dict]:
    trainer = SimpleNamespace(_tokenizer=tokenizer, **TRAINER)
    given = {"output_dir": str(folder), "max_length": longest, "report_to": "none", "use_cpu": True}
    given |= {"activation_checkpointing": False}
    if form is Form.completions:
        args = SFTConfig(completion_only_loss=True, **given)
        rows = rows.select_columns(["prompt", "completion"])
        made = SFTTrainer._prepare_dataset(trainer, rows, tokenizer, args, False, None, "train")
        return made.select_columns(["input_ids", "labels"]).to_list()
    rows = rows.select_columns(["prompt", "chosen", "rejected"])
    if form is Form.pairs:
        made = DPOTrainer._prepare_dataset(trainer, rows, tokenizer, DPOConfig(**given), "train")
        return made.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"]).to_list()
    made = RewardTrainer._prepare_dataset(trainer, rows, tokenizer, RewardConfig(**given), "train")
    return made.select_columns(["chosen_ids", "rejected_ids"]).to_list()


@pytest.mark.parametrize("longest", [None, 60])
@pytest.mark.parametrize("name", ["ultrafeedback", "hh", "tldr_preference", "imdb_pairs"])
@pytest.mark.parametrize("form", TRAINED)
def test_the_rows_are_those_of_trl(form: Form, name: str, longest: int | None, tmp_path: Path) -> None:
    kind = "demonstrations" if form is Form.completions else "preferences"
    tokenizer = new_tokenizer(["The capital of Peru is Lima, and a cat hides keys."] * 3, 300, chat_template("almanac"))
    rows = read(source(FIXTURES / f"{name}.jsonl", drop_identical=True), kind)
    if form is Form.completions and name == "hh":
        longest = None  # if the last turn of a dialogue is cut, earlier ones are learned
    longest = None if form is Form.sequences else longest  # RewardTrainer leaves long pairs out itself
    made, _ = ids_of(rows, form, longest, tokenizer)
    theirs = of_trl(form, rows, tokenizer, longest, tmp_path)
    # In dialogues that diverge before their last turn, TRL also learns the user's turns.
    ours = [{key: row[key] for key in theirs[0] if name != "hh" or key != "labels"} for row in made or []]
    assert ours == [{key: row[key] for key in ours[0]} for row in theirs] if ours else not theirs


@pytest.mark.parametrize("form", [Form.pairs, Form.completions, Form.prompts])
def test_two_processes_make_the_ids_of_one(form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "BATCH", 4)
    monkeypatch.setattr(workers, "ENOUGH", 10)
    texts = [f"{'ab' * (n % 5)}<|end|>" for n in range(30)]
    rows = Dataset.from_dict({"prompt": texts, "chosen": ["x"] * 30, "rejected": ["y"] * 30, "completion": texts})
    rows = rows.select(range(29, -1, -1))  # with indices, as a split has them
    made = []
    for processes in (1, 2):
        ids, counts = tokenized(rows, form, TOKENIZER, 12, str(tmp_path / str(processes)), processes=processes)
        made.append((ids[:], counts))
    assert made[0] == made[1]
    assert made[0][1].special == 30


def test_a_tokenizer_that_no_other_process_can_load_stays_in_this_one() -> None:
    tokenizer = letters(chat_template("almanac"))
    assert workers.sendable(tokenizer)
    tokenizer.hook = lambda text: text
    assert not workers.sendable(tokenizer)
    own = type("Own", (), {"__module__": "transformers_modules.org.model"})
    assert not workers.sendable(own())
