import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config import Settings
from rlhf.modeling.seeding import permutation
from rlhf.ppo import PPOTrainer, settings
from rlhf.ppo.ledger import Entry, followed, is_clipped, plain, texts
from rlhf.ppo.rollout import inputs_of, logprobs_and_entropies
from rlhf.stages import execute
from tests.ppo.conftest import TINY, interrupted_in_the_second_update

Trainers = Callable[..., PPOTrainer]


def noted(trainer: PPOTrainer) -> list[tuple[int, list[Entry]]]:
    found: list[tuple[int, list[Entry]]] = []
    trainer.note = lambda entries, update: found.append((update, entries))
    return found


def test_the_same_prompts_are_followed_in_every_pass() -> None:
    first = [int(index) for index in permutation(20, 7, "prompts", 0)]
    assert followed(first[:8], 20, 7, 3) == [0, 1, 2]
    later = [first[9], first[1], first[15], first[0]]
    assert [later[place] for place in followed(later, 20, 7, 2)] == [first[0], first[1]]
    assert len(followed(later, 20, 7, 100)) == 4


@pytest.mark.parametrize("shared", [False, True])
def test_an_update_notes_its_numbers_of_every_token(
    new_trainer: Trainers, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    trainer = new_trainer(ledger=2, samples=2, advantage="gae", shared_prefix=shared)
    rollouts: list[Any] = []
    draw = PPOTrainer._rollout
    monkeypatch.setattr(
        PPOTrainer, "_rollout", lambda self, chosen: rollouts.append(draw(self, chosen)) or rollouts[-1]
    )
    found = noted(trainer)
    trainer.step(trainer.batch(0))
    [(update, entries)], rollout = found, rollouts[0][0]
    assert (update, len(entries)) == (1, 4)  # two prompts, two responses each
    now, _ = logprobs_and_entropies(trainer.policy, rollout, inputs_of(rollout), trainer.stage.temperature)
    for row, entry in enumerate(entries):
        kept = rollout.mask[row]
        tokens = rollout.response_ids[row][kept].tolist()
        assert "".join(entry["tokens"]) == trainer.tokenizer.decode(tokens).rstrip("\N{REPLACEMENT CHARACTER}")
        assert entry["prompt"] == trainer.tokenizer.decode(rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist())
        assert entry["score"] == pytest.approx(float(rollout.scores[row]), rel=1e-3)
        for name, expected in (
            ("old", rollout.logprobs), ("new", now), ("reference", rollout.ref_logprobs), ("value", rollout.values),
        ):  # fmt: skip
            assert entry[name] == pytest.approx(expected[row][kept].tolist(), rel=1e-3, abs=1e-5)
        assert entry["old"] != entry["new"]
        assert len(entry["advantage"]) == len(entry["clipped"]) == len(tokens)
    advantages = [value for entry in entries for value in entry["advantage"]]
    assert min(advantages) < 0 < max(advantages)  # whitened, as the loss reads them


def test_the_ledger_changes_neither_weights_nor_metrics(new_trainer: Trainers) -> None:
    without, with_it = new_trainer(), new_trainer(ledger=3)
    entries = noted(with_it)
    assert without.train() == with_it.train()
    for one, two in zip(without.policy.parameters(), with_it.policy.parameters(), strict=True):
        assert torch.equal(one, two)
    assert [update for update, _ in entries] == [1, 2, 3, 4]


def test_a_token_is_clipped_on_the_side_of_its_advantage(new_trainer: Trainers) -> None:
    trainer = new_trainer()
    collected = trainer._rollout(trainer.batch(0))[0].rows(torch.tensor([0]))
    part = collected._replace(logprobs=torch.zeros(1, 4), mask=torch.ones(1, 4, dtype=torch.bool))
    ratios = torch.tensor([[1.3, 1.3, 0.7, 0.7]]).log()
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    stage = settings(**TINY)  # clips at 0.2
    assert is_clipped(stage, ratios, part, advantages).tolist() == [[True, False, False, True]]
    whole = settings(**TINY, ratio="response")  # the product of the ratios is 0.83
    assert is_clipped(whole, ratios, part, advantages).tolist() == [[False] * 4]


def test_a_row_off_the_loss_has_no_advantage(new_trainer: Trainers) -> None:
    trainer = new_trainer(ledger=6, missing_eos="mask")
    entries = noted(trainer)
    trainer.step(trainer.batch(0))
    ends = trainer.collector.ends
    [(_, rows)] = entries
    for row in rows:
        ended = trainer.tokenizer.encode(row["tokens"][-1], add_special_tokens=False)[-1:] in [[end] for end in ends]
        assert all((value is None) is not ended for value in row["advantage"])


def test_texts_of_tokens_join_to_the_text_of_all(tokenizer: Any) -> None:
    ids = tokenizer.encode("red é cat 日本", add_special_tokens=False)
    found = texts(tokenizer, ids)
    assert len(found) == len(ids)
    assert "".join(found) == tokenizer.decode(ids)
    assert "" in found  # the first bytes of a character


def test_numbers_that_are_not_finite_are_none() -> None:
    assert plain(torch.tensor([1 / 3, float("nan"), -float("inf")])) == [0.3333, None, None]


def test_a_resumed_run_has_the_ledger_of_an_uninterrupted_one(
    chain: Path, beside_chain: Callable[..., Settings], tmp_path: Path
) -> None:
    options = ("stage.ledger=2", "stage.updates=3")
    execute(beside_chain("ppo", *options), tmp_path / "almanac" / "ppo")
    cut = tmp_path / "cut"
    with interrupted_in_the_second_update():
        execute(beside_chain("ppo", *options, "name=cut"), cut / "ppo")
    execute(beside_chain("ppo", *options, "name=cut", "resume=true"), cut / "ppo")
    one, two = (path / "ledger.jsonl" for path in (tmp_path / "almanac" / "ppo", cut / "ppo"))
    assert one.read_bytes() == two.read_bytes()
    lines = [json.loads(line) for line in one.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
