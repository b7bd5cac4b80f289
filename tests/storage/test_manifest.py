import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import Settings
from rlhf.data.templates import chat_template
from rlhf.errors import RlhfError, RunError
from rlhf.evaluation.comparison import records
from rlhf.evaluation.sweeps import jobs
from rlhf.modeling import bases, loading
from rlhf.modeling.from_scratch import new_tokenizer
from rlhf.modeling.loading import is_plain
from rlhf.publishing import card, lineage, sections
from rlhf.publishing.scrub import Scrubber
from rlhf.rewards.build import statistics
from rlhf.runs.directory import partial
from rlhf.runs.identity import Origin
from rlhf.runs.interrupted import check_start
from rlhf.runs.parents import Parent
from rlhf.runs.run import Run
from rlhf.stages import status
from rlhf.storage.digests import tokenizer_record
from rlhf.storage.manifest import defect, read_manifest
from tests.conftest import composed, tiny_overrides


def test_an_unreadable_manifest_raises_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        read_manifest(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(RunError, match="is not a run's manifest"):
        read_manifest(tmp_path)


def test_a_tokenizer_is_identified_by_vocabulary_template_and_special_tokens() -> None:
    tokenizer = new_tokenizer(["Lima is in Peru."] * 3, 300, chat_template("almanac"))
    first = tokenizer_record(tokenizer)
    assert (first["pad"], first["eos"]) == (0, 1)
    assert tokenizer_record(new_tokenizer(["Lima is in Peru."] * 3, 300, chat_template("almanac"))) == first
    tokenizer.chat_template += " "
    changed = tokenizer_record(tokenizer)
    assert {key for key in first if first[key] != changed[key]} == {"chat_template"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"content": None}, "content is null"),
        ({"weights": 3}, "weights is 3"),
        ({"seed": True}, "seed is true"),
        ({"parents": {"policy": {"path": "x", "stage": "sft", "digest": None}}}, "parents.policy.revision is missing"),
        ({"metrics": {"eval/loss": "low"}}, 'metrics.eval/loss is "low"'),
        ({"settings": {"checkpoints": "x", "stage": {}, "adapter": {"kind": "none"}}}, "settings.data is missing"),
        ({"lineage": [{}]}, "in an ancestor, stage is missing"),
        ({"lineage": {}}, "lineage is not a list"),
        ({"tokenizer": []}, "tokenizer is \\[\\]"),
    ],
)
def test_missing_and_mistyped_keys_are_named(chain: Path, tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    whole = read_manifest(chain / "almanac" / "sft")
    assert defect(whole) is None
    (tmp_path / "run.json").write_text(json.dumps(whole | change))
    with pytest.raises(
        RunError, match=rf"run.json is not a run's manifest of this version \({reason}\): delete the dir"
    ):
        read_manifest(tmp_path)


VALUES = (None, True, 0, -1.5, "", "text", [], ["text"], {}, {"key": "value"})


def mutated(value: dict[str, Any], drawn: random.Random) -> dict[str, Any]:
    """Return a copy of a run.json in which one key, at any depth, is deleted or has a value of another type."""
    found = json.loads(json.dumps(value))
    places = [(found, key) for key in found]
    for holder, key in places:
        if isinstance(holder[key], dict):
            places += [(holder[key], inner) for inner in holder[key]]
    holder, key = drawn.choice(places)
    others = [other for other in VALUES if type(other) is not type(holder[key])]
    if drawn.random() < 0.3:
        del holder[key]
    else:
        holder[key] = drawn.choice(others)
    if drawn.random() < 0.1:
        holder["another key"] = drawn.choice(VALUES)
    return found


def readers(root: Path, stage: str, settings: Callable[..., Settings]) -> Iterator[Callable[[], Any]]:
    """Yield every reader of the run.json of ``root/almanac/stage``, each as far as it depends on that file."""
    place = root / "almanac" / stage
    parent = Parent("policy", str(place), None)

    def read() -> Parent:
        return Parent("policy", str(place), read_manifest(place))

    def chained() -> None:
        links = lineage.rooted(lineage.chain(read()), str(place), "none")
        Scrubber.of([one.manifest["settings"].get("checkpoints", "") for one in links if one.manifest])
        for table in (sections.links(links, str), sections.data(links, str), card.commands(links, Scrubber.of([]))):
            list(table)
        for link in links:
            sections.rung(link, str), card.versions(link), card.data_name(link.manifest)
        lineage.repositories(lineage.going_up(links, "run"), None)

    bare, sft = composed(f"checkpoints={root}"), composed("stage=sft")
    child = settings("dpo", f"stage.policy={place}") if stage == "sft" else settings("ppo", f"stage.reward={place}")

    def starting() -> None:
        for one in Origin.of(child).parents.values():
            one.record()

    yield lambda: status.run(bare)
    yield starting
    yield chained
    yield lambda: records.record(read())
    yield lambda: records.previous("one", {"one": read(), "other": parent}, ["other", "one"])
    yield lambda: records.paths([read()], "digest")
    yield lambda: jobs.collect([str(place)])
    yield lambda: statistics(read())
    yield lambda: is_plain(read(), sft.model)
    yield lambda: loading.load_tokenizer(read(), sft.model)
    yield lambda: bases.ancestry(read())


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_an_edited_run_json_works_or_raises_a_one_line_error(
    beside_chain: Callable[..., Settings], chain: Path, tmp_path: Path, stage: str, capsys: pytest.CaptureFixture
) -> None:
    root = tmp_path / "edited"
    shutil.copytree(chain / "almanac", root / "almanac")
    path, drawn = root / "almanac" / stage / "run.json", random.Random(stage)
    whole = json.loads(path.read_text())
    reading = list(readers(root, stage, beside_chain))
    refused = []
    for number in range(60):
        path.write_text(json.dumps(mutated(whole, drawn)))
        for one in reading if number < 8 else [reading[number % len(reading)]]:
            try:
                one()
            except RlhfError as error:
                refused.append(str(error))
    capsys.readouterr()
    assert refused
    assert not [message for message in refused if "\n" in message]


def test_an_edited_run_json_of_an_interrupted_run_works_or_raises_a_one_line_error(
    beside_chain: Callable[..., Settings], chain: Path, tmp_path: Path
) -> None:
    place, drawn = tmp_path / "almanac" / "sft", random.Random(0)
    given = composed(*tiny_overrides("sft", tmp_path), f"model.pretrained={chain}/almanac/base", "resume=true")
    run = Run.start(place, given)
    (run.scratch / "checkpoint-1").mkdir(parents=True)
    (run.scratch / "checkpoint-1" / "digests.json").touch()
    run.stop("interrupted", "for the test")
    path = partial(place) / "run.json"
    whole, outcomes = json.loads(path.read_text()), set()
    for _ in range(30):
        path.write_text(json.dumps(mutated(whole, drawn)))
        try:
            outcomes.add(check_start(place, given, Origin.of(given).content))
        except RlhfError as error:
            outcomes.add(str(error))
    assert True in outcomes
    assert any("manifest of this version" in str(one) for one in outcomes)
    assert not [one for one in outcomes if "\n" in str(one)]
