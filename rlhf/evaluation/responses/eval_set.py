"""A policy at the end of its training, beside the one that it started from: gold reward, win rate, KL.

The same names, prompts and samples whatever the stage, so that policies of DPO and of PPO lie on one frontier. The
prompts are of the validation split: what is chosen by them can still be judged on the test split, by stage=compare.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.config import EvalSet, Settings
from rlhf.data import cache, fingerprint, load
from rlhf.data.render import Prompt
from rlhf.evaluation.responses.answers import Candidate, by_prompt, divergences
from rlhf.evaluation.statistics.metrics import wins
from rlhf.modeling.generation import Response, generate, sampling_mode
from rlhf.modeling.seeding import derive
from rlhf.rewards import RewardFunction, checked, function
from rlhf.runs.run import Run
from rlhf.storage import digests

START = 0  # seed of the starting policy's samples: the same for every seed that starts from it, and drawn once


class Scorer(NamedTuple):
    """A reward, and what tells it from others, as JSON can hold it: it scores the same texts once."""

    reward: RewardFunction
    identity: Any


def scorers(
    settings: Settings, run: Run, gold: RewardFunction | None, reward: RewardFunction | None = None
) -> dict[str, Scorer]:
    """``gold`` and what the policy was trained on, where there are any, told apart by code and by run.json."""
    content = run.manifest["content"]

    def told(*keys: str) -> dict[str, Any]:
        return {key: value for key, value in content.items() if key.startswith(keys)}

    found = {}
    if gold is not None:
        named = getattr(settings.stage, "gold", settings.data.gold)
        code = sources(function(named)) if isinstance(named, str) else []
        found["gold"] = Scorer(gold, [digests.files_digest(code), told("parents.gold"), named])
    if reward is not None:
        found["score"] = Scorer(reward, told("stage.reward", "stage.reward_defaults", "parents.reward", "files.reward"))
    return found


def measure(
    settings: Settings,
    run: Run,
    prompts: Sequence[Prompt],
    policy: Any,
    reference: Any | None,
    tokenizer: Any,
    scorers: Mapping[str, Scorer],
) -> dict[str, float]:
    """Mean ``gold`` and ``score``, as ``scorers`` has them, ``win_rate`` by the first of these, ``kl`` and ``length``.

    ``kl`` is Σ log π - log π_start over the policy's own responses, in nats; ``win_rate`` is against the samples of the
    starting policy, every sample of a prompt against each of the other's, ties half. ``reference`` is the starting
    policy, None: ``policy`` with its adapter switched off. Nothing where there are no ``prompts``.
    """
    how = settings.eval_set
    if not prompts:
        return {}
    asked = [prompt for prompt in prompts for _ in range(how.samples)]
    responses = sampled(policy, tokenizer, asked, how, derive(settings.seed, "held out"))
    candidate = Candidate("policy", policy, tokenizer, plain=False)
    with sampling_mode(policy):  # an adapter's dropout is on where it has been trained until now
        kl = divergences(candidate, reference, asked, responses, how)
    texts = [response.text for response in responses]
    scores = {name: checked(scorer.reward(asked, texts), texts) for name, scorer in scorers.items()}
    found = {name: mean(values) for name, values in scores.items()}
    if scores:
        start = starting(settings, run, policy, reference, tokenizer, asked, scorers)
        by = next(iter(scores))
        pairs = zip(by_prompt(scores[by], how.samples), by_prompt(start[by], how.samples), strict=True)
        found["win_rate"] = mean([one for ours, theirs in pairs for one in wins(ours, theirs)])
        found |= {f"start/{name}": mean(values) for name, values in start.items()}
    return found | {"kl": mean(kl), "length": mean([len(response.ids) for response in responses])}


def starting(
    settings: Settings,
    run: Run,
    policy: Any,
    reference: Any | None,
    tokenizer: Any,
    asked: Sequence[Prompt],
    scorers: Mapping[str, Scorer],
) -> dict[str, list[float]]:
    """The starting policy's scores; it is sampled and scored once for all runs that start from it (``data.cache``)."""
    folder, how = settings.data.cache, settings.eval_set

    def sample() -> list[str]:
        without: AbstractContextManager = policy.disable_adapter() if reference is None else nullcontext()
        with without:
            model = policy if reference is None else reference
            drawn = sampled(model, tokenizer, asked, how, derive(START, "held out", "start"))
        return [response.text for response in drawn]

    drawn_as = (run["policy"].digest, settings.model.dtype.value, vars(how), list(asked))
    texts = cache.value(folder, cache.key_of("start", *drawn_as), sample)
    found = {}
    for name, scorer in scorers.items():

        def score(reward: RewardFunction = scorer.reward) -> list[float]:
            return checked(reward(asked, texts), texts)

        found[name] = cache.value(folder, cache.key_of("scores", scorer.identity, list(asked), texts), score)
    return found


def prompts(settings: Settings, run: Run) -> list[Prompt]:
    """Distinct prompts of the validation split: of data.prompts, or where there are none of the preference pairs.

    To be read before training: what cannot be read is told before hours are spent. None for ``eval_set.prompts=0``.
    """
    if not settings.eval_set.prompts:
        return []
    given = settings.data.path is not None or settings.data.prompts.paths
    rows = load(settings.data, "prompts" if given else "preferences", "validation", settings.seed, tell=False)
    distinct = {json.dumps(prompt, sort_keys=True): prompt for prompt in rows["prompt"]}
    kept = list(distinct.values())[: settings.eval_set.prompts]
    run.manifest["held_out"] = {
        "prompts": len(kept),
        "samples": settings.eval_set.samples,
        "fingerprint": fingerprint([{"prompt": prompt} for prompt in kept]),
    }
    return kept


def sampled(model: Any, tokenizer: Any, asked: Sequence[Prompt], how: EvalSet, seed: int) -> list[Response]:
    return generate(
        model,
        tokenizer,
        asked,
        max_prompt_length=how.max_prompt_length,
        max_response_length=how.max_response_length,
        temperature=how.temperature,
        seed=seed,
        batch_size=how.batch_size,
    )


def sources(reward: Callable) -> list[Path]:
    """The files of the code that a reward function is in: its own, and where it is part of a package those around it.

    Empty where the source is not to be had.
    """
    try:
        path = Path(inspect.getfile(inspect.unwrap(reward)))
    except TypeError:
        return []
    return list(path.parent.glob("*.py")) if (path.parent / "__init__.py").exists() else [path]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
