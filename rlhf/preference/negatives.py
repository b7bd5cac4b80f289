"""Extra training pairs whose rejected response is wrong by construction, against shortcuts of the reward model.

swapped     the chosen response to another prompt: Liu et al. 2024, https://arxiv.org/abs/2409.13156, section 3.2, whose
            non-contextual pairs teach that a response must belong to its prompt
mirrored    the chosen response to another prompt, as much shorter or longer than the chosen one as the rejected one of
            another pair is longer or shorter: at most as many pairs as it takes until length is independent of the
            label. Counterfactual pairs without the language model that writes those of Kim et al. 2025,
            https://arxiv.org/abs/2511.12573
sampled     a response of another model, such as the base model: of the responses that pairs do not have and a policy
            may still learn to make
truncated   the first half of the words of the chosen response
repeated    the chosen response twice
"""

import json
import math
import random
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf.config import RewardStage, Settings
from rlhf.data.render import Prompt, question
from rlhf.data.rows import Row, prompt_key
from rlhf.evaluation.reward_card.pairs import side
from rlhf.evaluation.reward_card.probes import PERTURBED
from rlhf.hardware import ranks
from rlhf.hardware.device import torch_device
from rlhf.modeling import loading
from rlhf.modeling.generation import generate
from rlhf.modeling.seeding import derive
from rlhf.runs.run import Run
from rlhf.storage.json_files import write_json

if TYPE_CHECKING:
    from datasets import Dataset

Sampler = Callable[[Sequence[Prompt]], Sequence[str]]
BINS = 10  # of absolute length differences, for mirrored negatives
TOLERANCE, TRIES = 0.1, 8  # of a mirrored difference, relative; draws of a response for each row


def with_negatives(
    pairs: "Dataset", shares: Mapping[str, float], seed: int, sampler: Sampler | None = None
) -> tuple["Dataset", dict[str, int]]:
    """Return ``pairs`` with extra ones behind them, and their number by kind.

    ``shares``: kind -> number of extra pairs, relative to all pairs. They are drawn with ``seed``; a response that a
    kind does not change, such as a single word that cannot be truncated, is passed over. ``sampler`` returns a response
    to each prompt.
    """
    from datasets import Dataset, concatenate_datasets

    rows, found, counts = list(pairs), [], {}
    for kind, share in shares.items():
        draw, wanted = random.Random(derive(seed, "negatives", kind)), math.ceil(share * len(rows))
        order, made = draw.sample(rows, len(rows)), []
        for row, text in zip(order, _negatives(kind, order, wanted, draw, sampler), strict=False):
            if len(made) == wanted:
                break
            if text != question(row["chosen"]):
                made.append(_pair(row, text))
        counts[kind] = len(made)
        found += made
    return concatenate_datasets([pairs, Dataset.from_list(found, features=pairs.features)]), counts


def _negatives(
    kind: str, order: Sequence[Row], wanted: int, draw: random.Random, sampler: Sampler | None
) -> Iterable[str]:
    """Return a response of one ``kind`` to each row in ``order``, or to the first ``wanted`` if it is sampled."""
    if kind == "sampled":
        assert sampler is not None
        return sampler(side(order[:wanted], "chosen").prompts)
    if kind == "swapped":
        others = ((order[place - 1], row) for place, row in enumerate(order))
        return (question((row if prompt_key(other) == prompt_key(row) else other)["chosen"]) for other, row in others)
    if kind == "mirrored":
        return _mirrored(order, draw)
    return (PERTURBED[kind](question(row["chosen"]), draw) for row in order)


def _mirrored(order: Sequence[Row], draw: random.Random) -> Iterator[str]:
    """Yield for each row a chosen response to another prompt, at a length difference that is rare among the rows.

    The row's own chosen response, which is passed over, if none was found or none is missing any more.
    """
    texts = [question(row["chosen"]) for row in order]
    others = (len(question(row["rejected"])) for row in order)
    missing = deque(_missing([len(text) - other for text, other in zip(texts, others, strict=True)], draw))
    places = sorted(range(len(order)), key=lambda place: len(texts[place]))
    lengths = [len(texts[place]) for place in places]
    for text, row in zip(texts, order, strict=True):
        found, key = text, prompt_key(row)
        for _ in range(min(TRIES, len(missing))):
            length, off = len(text) - missing[0], TOLERANCE * abs(missing[0])
            low, high = bisect_left(lengths, length - off), bisect_right(lengths, length + off)
            place = places[draw.randrange(low, high)] if low < high else None
            if place is not None and prompt_key(order[place]) != key:
                found = texts[place]
                missing.popleft()
                break
            missing.rotate(-1)
        yield found


def _missing(differences: Sequence[int], draw: random.Random) -> list[int]:
    """Return the length differences to add so that each of `BINS` of equal size has as many of either sign."""
    some = sorted((difference for difference in differences if difference), key=abs)
    found: list[int] = []
    for number in range(BINS):
        own = some[number * len(some) // BINS : (number + 1) * len(some) // BINS]
        longer, shorter = ([one for one in own if (one > 0) == sign] for sign in (True, False))
        more, fewer = (longer, shorter) if len(longer) > len(shorter) else (shorter, longer)
        found += [-one for one in draw.sample(more, len(more) - len(fewer))]
    return draw.sample(found, len(found))


def _pair(row: Row, rejected: str) -> Row:
    """Return the pair with another rejected response; its margin is not known, and its weight is that of any pair."""
    chosen: Prompt = row["chosen"]
    other: Any = rejected if isinstance(chosen, str) else [*chosen[:-1], chosen[-1] | {"content": rejected.strip()}]
    own = {"margin": 0.0, "weight": 1.0, "confidence": None}
    return row | {name: value for name, value in own.items() if name in row} | {"rejected": other}


def sampler_of(settings: Settings, run: Run) -> Sampler:
    """Return the sampler of the model ``stage.sampler``; a resumed run reads the responses of its first part."""
    stage, path = settings.stage_as(RewardStage), run.scratch / "sampled.json"

    def sampled(prompts: Sequence[Prompt]) -> Sequence[str]:
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        tokenizer = loading.load_tokenizer(run["sampler"], settings.model)
        model = loading.load_policy(run["sampler"], settings.model, tokenizer).to(torch_device(settings.hardware))
        if plain := loading.is_plain(run["sampler"], settings.model):
            tokenizer.strings_are_turns = False
        texts = [
            response.text
            for response in generate(
                model,
                tokenizer,
                [question(prompt) for prompt in prompts] if plain else prompts,
                max_prompt_length=stage.trainer["max_length"],
                max_response_length=stage.sample_length,
                temperature=stage.statistics_temperature,
                seed=derive(settings.seed, "negatives", "sampler") % 2**32,
                batch_size=64,
                shared=True,
            )
        ]
        if ranks.is_main():
            path.parent.mkdir(exist_ok=True)
            write_json(path, texts)
        return texts

    return sampled
