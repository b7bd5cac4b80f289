"""A trained policy compared with the one that it started from: gold reward, win rate, KL.

Metric names, prompts and samples are the same for DPO and PPO, so that their policies lie on one frontier. The prompts
are of the validation split, so a model selected by them can still be tested on the test split, by stage=compare.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf.config import AdapterKind, EvalSet, Settings
from rlhf.data import cache, fingerprint, load
from rlhf.data.extras import COLUMNS
from rlhf.data.fingerprint import rows_of
from rlhf.data.render import Prompt
from rlhf.data.sources import source_name
from rlhf.evaluation.responses.answers import Candidate, by_prompt, divergences
from rlhf.evaluation.statistics.metrics import wins
from rlhf.modeling import loading
from rlhf.modeling.generation import Response, generate, sampling_mode
from rlhf.modeling.seeding import derive
from rlhf.rewards import RewardFunction, checked, function
from rlhf.rewards.columns import Rows, bound, reads_columns
from rlhf.rewards.composition import refuses
from rlhf.rewards.protocol import checked_or_none, guarded
from rlhf.runs.run import Run
from rlhf.storage import digests

if TYPE_CHECKING:
    from datasets import Dataset

JUDGE = ("judge.", "parents.judge")  # keys of run.json's content; only with a reward that it scores
START = 0  # seed of the starting policy's samples: the same for all runs, so that they are sampled only once


class Scorer(NamedTuple):
    """A reward with its identity as JSON, the key under which scores of the same texts are cached."""

    reward: RewardFunction
    identity: Any


class Measured(NamedTuple):
    """A policy's responses to held-out prompts, one number per response each: (B · K,). ``kl`` is in nats."""

    texts: list[str]
    lengths: list[int]
    kl: list[float]
    scores: dict[str, list[float | None]]

    def means(self) -> dict[str, float]:
        """Return the mean of each score, the KL and the length."""
        return means(self.scores) | {"kl": mean(self.kl), "length": mean(self.lengths)}


def scorers(
    settings: Settings, run: Run, gold: RewardFunction | None, reward: RewardFunction | None = None
) -> dict[str, Scorer]:
    """Return ``gold`` and ``score`` (the training reward), if they exist, identified by their code and by run.json.

    A reward may read other columns of the prompts' rows, so the identity includes that of the rows.
    """
    content, asked = run.manifest["content"], run.manifest.get("held_out")

    def recorded(*prefixes: str) -> dict[str, Any]:
        return {key: value for key, value in content.items() if key.startswith(prefixes)}

    found = {}
    if gold is not None:
        named = getattr(settings.stage, "gold", settings.data.gold)
        code = sources(function(named)) if isinstance(named, str) else []
        own = recorded("parents.gold", "files.gold", *JUDGE)
        found["gold"] = Scorer(gold, [digests.files_digest(code), own, named, asked])
    if reward is not None:
        own = recorded("stage.reward", "stage.reward_defaults", "parents.reward", "files.reward", *JUDGE)
        found["score"] = Scorer(reward, [own, asked])
    return found


def asked(settings: Settings, run: Run) -> tuple[list[Prompt], Any]:
    """Return the held-out prompts that a policy answers at its end, and the gold reward of the data, if any."""
    named = settings.data.gold
    gold: Any = None if named is None else function(named)
    reads = gold is not None and reads_columns(gold)
    found = prompts(settings, run, columns=reads)
    if gold is not None:
        rows = Rows(held_out(settings, columns=True)) if reads else None
        gold = guarded(bound(gold, "data.gold", rows), f"data.gold={named}")
    return found, gold


def measure_trained(
    settings: Settings, run: Run, trainer: Any, tokenizer: Any, prompts: Sequence[Prompt], gold: RewardFunction | None
) -> dict[str, float]:
    """Return the metrics of `measure` for the policy of a trainer of TRL with a reference or an adapter."""
    start: Any = None
    if prompts and settings.adapter.kind is AdapterKind.none:
        ours = trainer.ref_model if "reference" not in run.parents else None
        start = ours or loading.load_policy(run["policy"], settings.model, tokenizer)
        start = start.to(trainer.model.device)
    return measure(settings, run, prompts, trainer.model, start, tokenizer, scorers(settings, run, gold))


def measure(
    settings: Settings,
    run: Run,
    prompts: Sequence[Prompt],
    policy: Any,
    reference: Any | None,
    tokenizer: Any,
    scorers: Mapping[str, Scorer],
) -> dict[str, float]:
    """Return the mean of each score of ``scorers``, the win rate by the first, the KL and the response length.

    ``kl`` is Σ log π - log π_start over the policy's own responses, in nats per response. ``win_rate`` compares each
    sample of a prompt with each sample of the starting policy, ties half. ``reference`` is the starting policy; None
    stands for ``policy`` with its adapter disabled. A run with a teacher is compared with it instead, and the keys of
    its scores begin with ``teacher/``. Empty without ``prompts``.
    """
    how = settings.eval_set
    if not prompts:
        return {}
    ours = measured(settings, prompts, policy, reference, tokenizer, scorers)
    found = ours.means()
    if ours.scores:
        asked = [prompt for prompt in prompts for _ in range(how.samples)]
        start = starting(settings, run, policy, reference, tokenizer, asked, scorers)
        by = next(iter(start))
        pairs = zip(by_prompt(ours.scores[by], how.samples), by_prompt(start[by], how.samples), strict=True)
        title = "teacher" if "teacher" in run.parents else "start"
        won = [win for own, theirs in pairs for win in wins(known(own), known(theirs))]
        found |= means({"win_rate": won} | {f"{title}/{name}": values for name, values in start.items()})
    return found


def measured(
    settings: Settings,
    prompts: Sequence[Prompt],
    policy: Any,
    reference: Any | None,
    tokenizer: Any,
    scorers: Mapping[str, Scorer],
    *stream: str,
) -> Measured:
    """Return ``policy``'s responses to ``prompts`` with their scores, lengths and KL from ``reference``.

    ``stream`` names the random stream, since policies that sample from the same one are not independent.
    """
    how = settings.eval_set
    asked = [prompt for prompt in prompts for _ in range(how.samples)]
    responses = sampled(policy, tokenizer, asked, how, derive(settings.seed, "held out", *stream))
    candidate = Candidate("policy", policy, tokenizer, plain=False)
    with sampling_mode(policy):  # the dropout of an adapter is still enabled after training
        kl = divergences(candidate, reference, asked, responses, how)
    texts = [response.text for response in responses]
    scores = {name: scored(scorer.reward, asked, texts) for name, scorer in scorers.items()}
    return Measured(texts, [len(response.ids) for response in responses], kl, scores)


def starting(
    settings: Settings,
    run: Run,
    policy: Any,
    reference: Any | None,
    tokenizer: Any,
    asked: Sequence[Prompt],
    scorers: Mapping[str, Scorer],
) -> dict[str, list[float | None]]:
    """Return the starting policy's scores; its samples and scores are cached in ``data.cache`` for all its runs."""
    folder, how = settings.data.cache, settings.eval_set
    start = run.parents.get("teacher", run["policy"])

    def sample() -> list[str]:
        without: AbstractContextManager = policy.disable_adapter() if reference is None else nullcontext()
        with without:
            model = policy if reference is None else reference
            drawn = sampled(model, tokenizer, asked, how, derive(START, "held out", "start"))
        return [response.text for response in drawn]

    drawn_as = (start.digest, settings.model.dtype.value, vars(how), list(asked))
    texts = cache.value(folder, cache.key_of("start", *drawn_as), sample)
    found = {}
    for name, scorer in scorers.items():

        def score(reward: RewardFunction = scorer.reward) -> list[float | None]:
            return scored(reward, asked, texts)

        found[name] = cache.value(folder, cache.key_of("scores", scorer.identity, list(asked), texts), score)
    return found


def held_out(settings: Settings, columns: bool = False) -> dict[str, "Dataset"]:
    """Return name -> rows of the validation split: of data.prompts, or else of the preferences, pairs or thumbs."""
    own = "thumbs" if settings.stage.name == "kto" else "preferences"
    kind = "prompts" if settings.data.path is not None or settings.data.prompts.paths else own
    rows = load(settings.data, kind, "validation", settings.seed, tell=False, columns=columns)
    return {f"data.{source_name(kind)} (validation)": rows}


def prompts(settings: Settings, run: Run, columns: bool = False) -> list[Prompt]:
    """Return distinct prompts of `held_out`; with ``columns``, rewards read other columns of their rows, too.

    Called before training, so that unreadable prompts are reported early. Empty for ``eval_set.prompts=0``.
    """
    if not settings.eval_set.prompts:
        return []
    [rows] = held_out(settings, columns).values()
    read = rows.select_columns(["prompt", COLUMNS] if columns else ["prompt"])
    distinct: dict[str, dict[str, Any]] = {}
    for row in rows_of(read):
        distinct.setdefault(json.dumps(row["prompt"], sort_keys=True), row)
        if len(distinct) == settings.eval_set.prompts:
            break
    kept = list(distinct.values())
    run.manifest["held_out"] = {
        "prompts": len(kept),
        "samples": settings.eval_set.samples,
        "fingerprint": fingerprint(kept),
    }
    return [row["prompt"] for row in kept]


def sampled(model: Any, tokenizer: Any, asked: Sequence[Prompt], how: EvalSet, seed: int) -> list[Response]:
    """Sample one response to each prompt with the settings of ``eval_set``."""
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
    """Return the source files of a reward function: its module, or all modules of its package; empty if unavailable."""
    try:
        path = Path(inspect.getfile(inspect.unwrap(reward)))
    except TypeError:
        return []
    return list(path.parent.glob("*.py")) if (path.parent / "__init__.py").exists() else [path]


def scored(reward: RewardFunction, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
    """Return the scores of ``texts``; only a reward with a judge may leave some out."""
    check: Callable[..., list] = checked_or_none if refuses(reward) else checked
    return [*check(reward(prompts, texts), texts, "the reward")]


def known(scores: Sequence[float | None]) -> list[float]:
    """Return the scores without those of responses that a judge does not score."""
    return [score for score in scores if score is not None]


def means(scores: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """Return the mean of each list of scores that has any."""
    return {name: mean(known(values)) for name, values in scores.items() if known(values)}


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return sum(values) / len(values)
