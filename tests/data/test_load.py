import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rlhf.config import Data, Format, Pairing, Rankings, Render, Source, Ties
from rlhf.data import leaks, load, load_rows, load_source, reading
from rlhf.data.formats import FIELDS, KINDS
from rlhf.errors import DataError
from tests.hub.server import Hub, Repo

FIXTURES = Path(__file__).parent / "fixtures"
PRESETS = json.loads((FIXTURES / "presets.json").read_text(encoding="utf-8"))
PAIRING = Pairing(rankings=Rankings.all, ties=Ties.drop, score_ratio=1.0)
PAIRS = [{"prompt": f"Q{n}", "chosen": "yes", "rejected": "no"} for n in range(200)]


@pytest.fixture(autouse=True)
def _nothing_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "announced", set())


def source(path: Path | str | None, **changes: object) -> Source:
    plain = Source(
        path=None if path is None else str(path),
        mix=None,
        format=Format.auto,
        subset=None,
        revision=None,
        train="train",
        validation=None,
        test=None,
        limit=None,
        held_out_limit=None,
        drop_identical=False,
    )
    return replace(plain, **changes)


def write(path: Path, rows: Iterable[object]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path | Source, kind: str = "preferences", split: str = "train", seed: int = 0, holdout: float = 0.1):
    given = path if isinstance(path, Source) else source(path)
    cache = os.environ["RLHF_CACHE"]
    return load_source(given, kind, split, seed=seed, holdout=holdout, pairing=PAIRING, folder=cache)


def test_splits_are_held_out_by_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS + [row | {"chosen": "also"} for row in PAIRS])
    train, validation = read(path), read(path, split="validation")
    assert len(train) + len(validation) == 400
    assert leaks(train, validation).count == 0
    assert 0.05 < len(validation) / 400 < 0.15
    assert read(path, split="test").to_list() == validation.to_list()


def test_held_out_rows_depend_only_on_seed_and_prompt(tmp_path: Path) -> None:
    held_out = read(write(tmp_path / "a.jsonl", PAIRS), split="validation")
    shuffled = read(write(tmp_path / "b.jsonl", reversed(PAIRS)), split="validation")
    prompts = read(tmp_path / "a.jsonl", "prompts", "validation")
    assert sorted(held_out["prompt"]) == sorted(shuffled["prompt"]) == sorted(prompts["prompt"])
    assert sorted(held_out["prompt"]) != sorted(read(tmp_path / "a.jsonl", split="validation", seed=1)["prompt"])


@pytest.mark.parametrize("holdout", [1e-9, 0.5, 1 - 1e-9])
def test_both_sides_have_a_prompt(tmp_path: Path, holdout: float) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS[:2])
    assert len(read(path, holdout=holdout)) == len(read(path, split="validation", holdout=holdout)) == 1


def test_a_whole_file_can_be_held_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS[:5])
    assert read(path, split="validation", holdout=1.0).to_list() == read(path, split="test", holdout=1.0).to_list()
    assert sorted(read(path, split="validation", holdout=1.0)["prompt"]) == [f"Q{n}" for n in range(5)]
    with pytest.raises(DataError, match=r"data\.holdout=1 holds out every row, so none is left to train on"):
        read(path, holdout=1.0)


def test_one_prompt_cannot_be_divided(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS[:1] * 3)
    with pytest.raises(DataError, match="all rows have the same prompt"):
        read(path)


def test_a_folder_of_split_files(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", PAIRS[:3])
    write(tmp_path / "validation.jsonl", PAIRS[3:5])
    assert len(read(tmp_path)) == 3
    assert len(read(tmp_path, split="validation")) == len(read(tmp_path, split="test")) == 2
    write(tmp_path / "test.jsonl", PAIRS[5:6])
    assert len(read(tmp_path, split="test")) == 1
    with pytest.raises(DataError, match="has no file for the split 'dev'"):
        read(source(tmp_path, validation="dev"), split="validation")
    (tmp_path / "test.csv").write_text("prompt\na\n")
    with pytest.raises(DataError, match="has 2 files for the split 'test'"):
        read(tmp_path, split="test")


def test_one_file_has_no_splits_whatever_the_preset_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS)
    named = source(path, train="train_sft", validation="validation", test="test")
    assert read(named, split="validation").to_list() == read(path, split="validation").to_list()
    with pytest.raises(DataError, match=r"data\.preferences\.validation=b\.jsonl names a file beside"):
        read(source(path, validation="b.jsonl"))


def test_one_path_replaces_all_sources(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS)
    nothing = source(None, validation="validation")
    data = Data(
        name="local",
        path=str(path),
        format=Format.auto,
        render=Render.auto,
        holdout=0.1,
        allow_leaks=False,
        cache=os.environ["RLHF_CACHE"],
        processes=None,
        pairing=PAIRING,
        gold=None,
        judge=None,
        ceiling=None,
        text=nothing,
        demonstrations=nothing,
        preferences=nothing,
        prompts=replace(nothing, limit=5),
    )
    assert load(data, "preferences", "train", 0).to_list() == read(path).to_list()
    preset = replace(
        data, preferences=replace(nothing, format=Format.hh)
    )  # the format of the preset's rows, not of the file
    assert load(preset, "preferences", "train", 0).to_list() == read(path).to_list()
    assert load(data, "demonstrations", "train", 0)[0] == {"prompt": "Q0", "completion": "yes"}
    assert len(load(data, "prompts", "train", 0)) == 5
    with pytest.raises(DataError, match=r"data\.prompts\.path is null, so there are no prompts"):
        load(replace(data, path=None), "prompts", "train", 0)


def test_a_limit_draws_rows_and_keeps_their_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS)
    numbers = [int(prompt[1:]) for prompt in read(source(path, limit=20))["prompt"]]
    assert len(numbers) == 20
    assert numbers == sorted(numbers) != list(range(20))
    assert read(source(path, limit=20)).to_list() == read(source(path, limit=20)).to_list()
    assert len(read(source(path, limit=999))) == len(read(path))
    assert len(read(source(path, held_out_limit=2))) == len(read(path))
    assert len(read(source(path, held_out_limit=2), split="validation")) == 2


def test_optional_fields_missing_in_some_rows_are_null(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "a"}, {"prompt": "b", "source": "s"}, {"prompt": "c"}])
    rows = read(path, "prompts").to_list() + read(path, "prompts", "validation").to_list()
    assert sorted(row.get("source") or "" for row in rows) == ["", "", "s"]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            {"prompt": "q", "rejected": "b"},
            ":3: field 'chosen' is missing beside rejected; every preference pair needs",
        ),
        ({"prompt": "q", "chosen": "b", "rejected": "b"}, ":3: chosen and rejected are the same.*drop_identical=true"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": 1}, ":3: field 'margin' is a number, in earlier"),
        ({"prompt": "\ud800", "chosen": "a", "rejected": "b"}, ":3: field 'prompt' has half of a surrogate pair"),
        (
            {
                "prompt": [{"role": "user", "content": "q"}],
                "chosen": [{"role": "assistant", "content": "a"}],
                "rejected": [{"role": "assistant", "content": "b"}],
            },
            ":3: field 'prompt' is a conversation, in earlier rows it is text",
        ),
        ("text", ":3: every row must be a JSON object, got str"),
    ],
)
def test_an_invalid_row_is_reported_with_file_line_and_field(tmp_path: Path, row: object, complaint: str) -> None:
    path = write(tmp_path / "a.jsonl", [*PAIRS[:2], row])
    with pytest.raises(DataError, match=re.escape(str(path)) + complaint):
        read(path)


def test_identical_completions_are_left_out_and_counted_if_set(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path / "a.jsonl", [*PAIRS[:4], PAIRS[0] | {"chosen": "no"}])
    read(source(path, drop_identical=True))
    printed = shown(capsys)
    assert "4 preferences from 5 rows (standard: it has prompt, chosen, rejected)" in printed
    assert "left out 1 with chosen and rejected the same" in printed


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("demonstrations", [{"prompt": "a", "completion": " "}], "left out 1 with an empty completion"),
        ("text", [{"text": "\n"}], "left out 1 with an empty text"),
        ("prompts", [{"prompt": "a"}, {"prompt": "a"}], "left out 1 with a repeated prompt"),
    ],
)
def test_left_out_rows_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture, kind: str, rows: list, message: str
) -> None:
    good = [{"prompt": f"p{n}", "completion": "c", "text": f"t{n}"} for n in range(3)]
    read(write(tmp_path / "a.jsonl", rows + good), kind)
    assert message in shown(capsys)


def test_nothing_is_printed_about_rows_in_the_format_of_the_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS)
    read(source(path, format=Format.standard))
    assert shown(capsys) == ""
    read(source(path, format=Format.auto))
    assert "(standard: it has" in shown(capsys)


def shown(capsys: pytest.CaptureFixture) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_a_file_is_announced_once_with_its_unread_columns(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path / "a.jsonl", [row | {"id": n} for n, row in enumerate(PAIRS)])
    for split in ("train", "validation", "test"):
        read(path, split=split)
    printed = shown(capsys)
    assert printed.count("200 preferences (standard: it has prompt, chosen, rejected)") == 1
    assert "; not read: id" in printed


def test_demonstrations_made_of_pairs_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    read(write(tmp_path / "a.jsonl", PAIRS), "demonstrations")
    assert "200 with the chosen response of a pair as the completion" in shown(capsys)


def test_conversations_in_csv_are_read_like_json_lines(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "It's a question, is it not?"}]
    pairs = [
        {
            "prompt": talk,
            "chosen": [{"role": "assistant", "content": f"a{n}"}],
            "rejected": [{"role": "assistant", "content": "b"}],
        }
        for n in range(2)
    ] + [
        {
            "prompt": [{"role": "user", "content": "q"}],
            "chosen": [{"role": "assistant", "content": "a"}],
            "rejected": [{"role": "assistant", "content": "b"}],
        }
    ]
    lines = read(write(tmp_path / "a.jsonl", pairs)).to_list()
    for name, form in (("json.csv", json.dumps), ("repr.csv", repr)):
        with (tmp_path / name).open("w", newline="") as file:
            table = csv.DictWriter(file, list(pairs[0]))
            table.writeheader()
            table.writerows({field: form(value) for field, value in row.items()} for row in pairs)
        assert read(tmp_path / name).to_list() == lines


def test_parquet_that_holds_messages_as_json_text(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": json.dumps([{**turn, "content": f"{turn['content']}{n}"} for turn in talk])} for n in range(3)]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "train.parquet"))
    (tmp_path / "validation.jsonl").write_text('{"messages": ' + json.dumps(talk) + "}\n")
    found = read(tmp_path, "demonstrations").to_list()
    assert [row["prompt"][0]["content"] for row in found] == ["q0", "q1", "q2"]
    assert found[0]["completion"] == [{"role": "assistant", "content": "a0"}]


def test_control_characters_of_column_names_are_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    read(write(tmp_path / "a.jsonl", [row | {"x\x1b[31m": 1} for row in PAIRS]))
    assert "\x1b[31m" not in capsys.readouterr().out


def test_a_source_without_rows_raises(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl: there is no row of preferences"):
        read(write(tmp_path / "a.jsonl", []))
    with pytest.raises(DataError, match="no row of demonstrations; left out 1 with an empty completion"):
        read(write(tmp_path / "b.jsonl", [{"prompt": "a", "completion": ""}]), "demonstrations")


@pytest.mark.parametrize("path", ["missing.jsonl", "no/such.jsonl", "/no/such/folder", "folder"])
def test_a_missing_file_is_reported_with_the_setting(path: str) -> None:
    with pytest.raises(DataError, match=r"there is no such file or folder \(data\.path or data\.preferences\.path\)"):
        read(source(path))


@pytest.mark.filterwarnings("ignore")  # the Hub client warns about being offline
def test_an_unreachable_hub_id_raises_a_one_line_error() -> None:
    complaint = r"nobody/nothing@main: the split 'train' cannot be read.*check the Hub id"
    with pytest.raises(DataError, match=complaint) as error:
        read(source("nobody/nothing@main", validation="test"))
    assert "\n" not in str(error.value)


def test_a_hub_id_is_read_with_revision_subset_and_split(hub: Hub) -> None:
    card = (
        "---\nconfigs:\n- config_name: easy\n  data_files:\n  - {split: train_prefs, path: easy.jsonl}\n"
        "  - {split: test_prefs, path: prompts.jsonl}\n- config_name: hard\n  data_files: hard.jsonl\n---\n"
    )
    rows = {"easy.jsonl": PAIRS[:3], "prompts.jsonl": [{"prompt": "q"}], "hard.jsonl": PAIRS}
    files = {name: "".join(json.dumps(row) + "\n" for row in found).encode() for name, found in rows.items()}
    repo = hub.repos["datasets", "alice/pairs"] = Repo(private=False, owner="alice")
    repo.tags["v1"] = repo.commit("main", "first", files | {"README.md": card.encode()})
    repo.commit("main", "second", {"hard.jsonl": files["hard.jsonl"]})
    given = source("alice/pairs@v1", subset="easy", train="train_prefs", validation="test_prefs")
    assert read(given).to_list() == PAIRS[:3]
    with pytest.raises(DataError, match=r"^alice/pairs/prompts.jsonl:1: field 'chosen' is missing"):
        read(given, split="validation")


def test_hh_is_read_with_all_its_oddities_counted(capsys: pytest.CaptureFixture) -> None:
    rows = [row for split in ("train", "validation") for row in read(FIXTURES / "hh.jsonl", split=split)]
    assert len(rows) == 9
    printed = shown(capsys)
    assert "9 preferences (hh: chosen and rejected are 'Human: / Assistant:'" in printed
    assert "1 with empty rejected, 1 with two turns of one role in a row, 2 with completions that differ" in printed


@pytest.mark.parametrize(("preset", "kind"), [(preset, kind) for preset in PRESETS for kind in PRESETS[preset]])
def test_the_fixture_of_every_preset_is_read_as_its_kind(preset: str, kind: str) -> None:
    path = FIXTURES / PRESETS[preset][kind]
    train, validation = read(path, kind), read(path, kind, "validation")
    assert set(FIELDS[kind]) <= set(train.column_names)
    assert len(train) >= len(validation) >= 1
    assert leaks(train, validation).count == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
turn = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "king"]), "content": json_values})
transcript = st.lists(st.sampled_from(["\n\nHuman:", "\n\nAssistant:", " Hi", "\n"]), max_size=6).map("".join)
names = ("prompt", "chosen", "rejected", "completion", "messages", "text", "margin", "strength", "label", "source")
names += ("completion", "label", "kto_tag", "responses", "scores", "answers", "completions", "winner", "helpfulness")
names += (
    "conversation_a",
    "conversation_b",
    "preference",
    "output_1",
    "output_2",
    "labels",
    "human_ref_A",
    "human_ref_B",
)
names += ("instruction", "output", "history", "system", "conversations", "info", "summaries", "choice", "extra")
value = json_values | st.lists(turn, max_size=3) | turn | transcript | st.sampled_from(["Q", "A", 0, 1])
odd_rows = st.lists(st.dictionaries(st.sampled_from(names), value, max_size=6) | json_values, max_size=4)
READABLE = re.compile(r"a\.jsonl(:\d+: .+|: (there is no row of|all rows have the same prompt).*)", re.DOTALL)


def rows_or_error(path: Path, kind: str, layout: Format) -> None:
    """Check for complete rows or an error with its place, and that every row that was read is counted."""
    message, rows = "", []
    try:
        rows = read(source(path, format=layout), kind)
    except DataError as error:
        message = str(error)
    assert bool(rows) != bool(READABLE.search(message))
    for row in rows:
        assert all(row[field] is not None for field in FIELDS[kind])
    if rows:
        given = {"pairing": PAIRING, "folder": os.environ["RLHF_CACHE"], "tell": False}
        table = reading.read(source(path, format=layout), kind, "train", **given)
        left_out = sum(table.told["left_out"].values())
        # Two thumbs may give one pair; a ranking, several.
        assert (
            2 * len(table.rows) + left_out >= table.told["read"] == len(path.read_text(errors="replace").splitlines())
        )


@hypothesis_settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=odd_rows, kind=st.sampled_from(KINDS), layout=st.sampled_from(Format))
def test_odd_rows_are_read_or_raise_a_one_line_error(tmp_path: Path, rows: list, kind: str, layout: Format) -> None:
    rows_or_error(write(tmp_path / "a.jsonl", rows), kind, layout)


@hypothesis_settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60), kind=st.sampled_from(KINDS))
def test_odd_bytes_are_read_or_raise_a_one_line_error(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "' + content + b'", "chosen": "a", "rejected": "b"}\n')
    rows_or_error(path, kind, Format.auto)


def test_rows_of_a_whole_file_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows do not depend on the size of batches."""
    path = write(tmp_path / "a.jsonl", [row | ({"source": "s"} if n % 7 == 5 else {}) for n, row in enumerate(PAIRS)])
    whole = read(path).to_list()
    monkeypatch.setattr("rlhf.data.cache.BATCH", 3)
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    assert read(path).to_list() == whole


def test_a_second_process_starts_warm(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS)
    code = (
        "import sys, rlhf.data.files as files; from tests.data.test_load import *\n"
        "if sys.argv[2] == 'warm': files._parse = None\n"
        "rows = read(Path(sys.argv[1]))\n"
        "print(len(rows), rows._fingerprint)"
    )

    def started(how: str) -> str:
        command = [sys.executable, "-c", code, str(path), how]
        env = os.environ | {"RLHF_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.getcwd()}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.splitlines()[-1]

    assert started("cold") == started("warm")
    write(path, [*PAIRS, {"prompt": "more", "chosen": "a", "rejected": "b"}])  # other content has another key
    assert started("cold") != ""
    assert len(read(path)) + len(read(path, split="validation")) == 201


def test_a_mix_has_exact_shares_and_repeats_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a = write(tmp_path / "a.jsonl", PAIRS[:100])
    b = write(tmp_path / "b.jsonl", [row | {"prompt": f"B{n}", "source": "own"} for n, row in enumerate(PAIRS[:90])])
    mixed = source(None, mix={str(a): 3.0, str(b): 1.0})
    rows = read(mixed)
    counts = Counter(rows["source"])
    assert counts[str(a)] == len(read(a))  # the scarcest part for its weight is taken whole
    assert counts["own"] == round(len(read(a)) / 3)
    assert len(set(rows["prompt"])) == len(rows)
    assert rows.to_list() == read(mixed).to_list() != read(mixed, seed=1).to_list()
    assert leaks(rows, read(mixed, split="validation")).count == 0
    printed = shown(capsys)
    assert f"data.preferences.mix: {counts[str(a)]} of {counts[str(a)]} rows of" in printed
    assert len(read(source(None, mix={str(a): 3.0, str(b): 1.0}, limit=7))) == 7


def test_parts_of_a_mix_that_do_not_fit_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plain = write(tmp_path / "plain.jsonl", PAIRS[:20])
    graded = write(tmp_path / "graded.jsonl", [row | {"margin": 1} for row in PAIRS[20:40]])
    assert "margin" not in read(source(None, mix={str(plain): 1.0, str(graded): 1.0})).column_names
    assert "margins are left out, since not every part has them" in shown(capsys)
    with pytest.raises(
        DataError, match=r"data\.preferences\.mix: prompts are text in one part and conversations in another"
    ):
        read(source(None, mix={str(plain): 1.0, str(FIXTURES / "ultrafeedback.jsonl"): 1.0}, drop_identical=True))


def test_shards_of_a_split_are_read_in_order(tmp_path: Path) -> None:
    for n in range(3):
        datasets.Dataset.from_list(PAIRS[10 * n : 10 * n + 10]).to_parquet(
            str(tmp_path / f"train-0000{n}-of-00003.parquet")
        )
    write(tmp_path / "validation.jsonl", PAIRS[50:52])
    assert read(tmp_path).to_list() == PAIRS[:30]


def test_margin_confidence_weight_and_source_are_kept(tmp_path: Path) -> None:
    extras = {"margin": 1.5, "confidence": 0.9, "weight": 0.5, "source": "crowd"}
    row = next(iter(read(write(tmp_path / "a.jsonl", [row | extras for row in PAIRS]))))
    assert {name: row[name] for name in extras} == extras


def test_a_dialogue_of_ten_thousand_turns(tmp_path: Path) -> None:
    shared = "\n\nHuman: Q\n\nAssistant: A" * 5_000
    rows = [{"chosen": f"\n\nHuman: {n}{shared}", "rejected": f"\n\nHuman: {n}{shared}!"} for n in range(2)]
    row = read(write(tmp_path / "a.jsonl", rows))[0]
    assert (len(row["prompt"]), len(row["chosen"])) == (10_000, 1)


def test_all_columns_of_a_row_are_kept_for_rewards(tmp_path: Path) -> None:
    """GSM8K's columns are read as prompt and completion; a reward may need the completion. CSV holds lists as text."""
    (tmp_path / "a.jsonl").write_text(
        '{"question": "a?", "answer": "2 #### 4", "level": {"deep": [1, null]}}\n{"question": "b?", "answer": 3.5}\n'
    )
    (tmp_path / "b.csv").write_text('prompt,instruction_id_list,kwargs\nc?,"[""x:y""]","[{}]"\nd?,,\n')
    import pyarrow
    import pyarrow.parquet

    day = datetime(2026, 1, 2)
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["e?", "f?"], "day": [day, None]}), tmp_path / "c.parquet")
    found = []
    for name in ("a.jsonl", "b.csv", "c.parquet"):
        rows = load_rows(str(tmp_path / name), "prompts", "validation", columns=True, holdout=1)
        found += list(zip(rows["prompt"], map(json.loads, rows["columns"]), strict=True))
        assert "columns" not in load_rows(str(tmp_path / name), "prompts", "validation", holdout=1).column_names
    assert [prompt if isinstance(prompt, str) else prompt[0]["content"] for prompt, _ in found] == [
        "a?", "b?", "c?", "d?", "e?", "f?",
    ]  # fmt: skip
    columns = [row for _, row in found]
    with_score = '{"prompt": "a?", "score": 1}\n{"prompt": "b?", "score": 2}\n'
    (tmp_path / "d.jsonl").write_text(with_score)
    rows = load_rows(str(tmp_path / "d.jsonl"), "prompts", "validation", columns=True, holdout=1)
    assert [json.loads(text)["score"] for text in rows["columns"]] == [1, 2]
    with pytest.raises(DataError, match="'score' looks like a response or a judgment"):
        load_rows(str(tmp_path / "d.jsonl"), "prompts", "validation", holdout=1)
    assert columns[0] == {"question": "a?", "answer": "2 #### 4", "level": {"deep": [1, None]}}
    assert columns[1] == {"question": "b?", "answer": 3.5}
    assert (columns[2]["instruction_id_list"], columns[2]["kwargs"]) == (["x:y"], [{}])
    assert [row["day"] for row in columns[4:]] == ["2026-01-02T00:00:00", None]


def test_a_column_that_no_reward_can_read_is_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["e?", "f?"], "image": [b"x", b"y"]}), tmp_path / "c.parquet")
    with pytest.raises(
        DataError, match=r"c\.parquet row 1: field 'image' is of type bytes, which a reward cannot read"
    ):
        load_rows(str(tmp_path / "c.parquet"), "prompts", "validation", columns=True, holdout=1)
