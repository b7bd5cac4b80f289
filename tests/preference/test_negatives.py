import random
from collections.abc import Sequence

import numpy as np
import pytest
from datasets import Dataset

from rlhf.data.render import Prompt
from rlhf.errors import ConfigError
from rlhf.preference.negatives import with_negatives
from tests.conftest import composed

ROWS = [{"prompt": f"{n // 2}?", "chosen": f"yes {n} is it", "rejected": "no", "margin": 2.0} for n in range(20)]


def test_negatives_are_made_from_chosen_responses() -> None:
    pairs = Dataset.from_list(ROWS)
    found, counts = with_negatives(pairs, {"swapped": 0.5, "truncated": 0.2, "repeated": 0.1}, 0)
    assert counts == {"swapped": 10, "truncated": 4, "repeated": 2}
    assert list(found)[:20] == ROWS
    prompts = {row["chosen"]: row["prompt"] for row in ROWS}
    extra = list(found)[20:]
    assert all(row["margin"] == 0.0 for row in extra)
    assert all(prompts[row["chosen"]] == row["prompt"] for row in extra)
    assert all(prompts[row["rejected"]] != row["prompt"] for row in extra[:10])
    assert all(row["rejected"] == " ".join(row["chosen"].split()[:2]) for row in extra[10:14])
    assert all(row["rejected"] == f"{row['chosen']} {row['chosen']}" for row in extra[14:])
    assert list(with_negatives(pairs, {"swapped": 0.5}, 0)[0])[20:] == extra[:10]
    assert list(with_negatives(pairs, {"swapped": 0.5}, 1)[0])[20:] != extra[:10]


def test_conversations_keep_their_turns_and_what_does_not_change_is_passed_over() -> None:
    talk = [{"role": "user", "content": "Hi"}]
    rows = [
        {
            "prompt": talk,
            "chosen": [{"role": "assistant", "content": text}],
            "rejected": [talk[0] | {"role": "assistant"}],
        }
        for text in ("one", "one two three four", "one")
    ]
    found, counts = with_negatives(Dataset.from_list(rows), {"truncated": 1.0, "swapped": 1.0}, 0)
    assert counts == {"truncated": 1, "swapped": 0}
    assert found[3]["rejected"] == [{"role": "assistant", "content": "one two"}]


def test_mirrored_negatives_leave_length_without_information() -> None:
    """Chosen responses of 10 to 209 characters; three of four are 5 to 60 shorter than the rejected one."""
    rows, draw = [], random.Random(0)
    for n in range(200):
        difference = draw.randint(5, 60) * (1 if n % 4 == 0 else -1)
        length = max(draw.randint(10, 209), 2 + difference)
        rows.append(
            {"prompt": f"{n % 50}?", "chosen": f"{n:03}".ljust(length, "."), "rejected": "-" * (length - difference)}
        )
    found, counts = with_negatives(Dataset.from_list(rows), {"mirrored": 1.0}, 0)
    extra, prompts = list(found)[200:], {row["chosen"]: row["prompt"] for row in rows}
    assert len(extra) == counts["mirrored"] == pytest.approx(100, abs=4)  # 150 - 50
    assert all(prompts[row["rejected"]] != row["prompt"] == prompts[row["chosen"]] for row in extra)
    assert len({row["rejected"] for row in extra}) > 40
    differences = np.array([len(row["chosen"]) - len(row["rejected"]) for row in found])
    assert np.mean(differences[:200] > 0) == 0.25
    for low, high in ((0, 20), (20, 40), (40, 70)):
        own = differences[(abs(differences) >= low) & (abs(differences) < high)]
        assert np.mean(own > 0) == pytest.approx(0.5, abs=0.06)
    assert list(with_negatives(Dataset.from_list(rows), {"mirrored": 0.1}, 0)[0])[200:] == extra[:20]


def test_sampled_negatives_respond_to_the_prompt_of_their_pair() -> None:
    asked = []

    def sampler(prompts: Sequence[Prompt]) -> list[str]:
        asked.extend(prompts)
        return [f"yes {n} is it" for n in range(5)] + [f"base {prompt}" for prompt in prompts[5:]]

    found, counts = with_negatives(Dataset.from_list(ROWS), {"sampled": 0.5}, 0, sampler)
    extra = list(found)[20:]
    assert [row["prompt"] for row in extra][-5:] == asked[5:]
    assert all(row["rejected"] == f"base {row['prompt']}" for row in extra[-5:])
    assert all(row["rejected"] != row["chosen"] for row in extra)
    assert len(asked) == 10
    assert 5 <= len(extra) == counts["sampled"] <= 10


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "{shuffled: 0.1}",
            "stage.negatives must name some of swapped, mirrored, sampled, truncated, repeated, got 'shuffled'",
        ),
        ("{swapped: 2}", r"stage.negatives.swapped must lie in \(0, 1\], got 2"),
        ("{swapped: 0.1} stage.loss=plackett_luce", "needs pairs, but stage.loss=plackett_luce learns rankings"),
    ],
)
def test_a_mistake_is_one_sentence(given: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        composed("stage=reward", *f"stage.negatives={given}".replace("} ", "}|").split("|"))
