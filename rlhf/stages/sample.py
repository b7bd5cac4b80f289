"""Sample several responses per prompt from one policy and score them if a reward is set (best-of-n).

    python -m rlhf stage=sample stage.policy=checkpoints/almanac/ppo stage.samples=8
    python -m rlhf stage=sample stage.reward=checkpoints/almanac/reward    # and the best per prompt

stage=label makes preference pairs from responses.jsonl; best.jsonl holds demonstrations for stage=sft, and random.jsonl
those of its control, a random response per prompt.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from rlhf.config import SampleStage, Settings
from rlhf.console import console, show_samples
from rlhf.data import load
from rlhf.data.render import Prompt, question
from rlhf.evaluation.responses.best_of_n import best_of_n_kl, expected_best
from rlhf.hardware import ranks
from rlhf.hardware.device import torch_device
from rlhf.labeling.pairs import BEST, RANDOM, RESPONSES, demonstration, write_rows
from rlhf.modeling import loading
from rlhf.modeling.generation import Response, generate
from rlhf.modeling.seeding import derive
from rlhf.rewards import Rows, Scorer
from rlhf.rewards import build as rewards_of
from rlhf.rewards.columns import reads_columns
from rlhf.runs.run import Run
from rlhf.training import loop


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Sample and score responses, write them and return their statistics."""
    stage = settings.stage_as(SampleStage)
    seed = derive(settings.seed, "sample", stage.stream) % 2**32 if stage.stream else settings.seed
    plain = rewards_of.without_models(stage)
    reads = any(map(reads_columns, plain.values()))
    split: Any = stage.split  # one of the three; the settings check it
    prompts = load(settings.data, "prompts", split, settings.seed, columns=reads)
    prompts = prompts.shuffle(seed=seed).select(range(min(stage.prompts or len(prompts), len(prompts))))
    run.record_data("prompts", stage.split, prompts)
    ready = rewards_of.bind(stage, plain, Rows({f"data.prompts ({split})": prompts}) if reads else None)

    tokenizer = loading.load_tokenizer(run["policy"], settings.model)
    loop.settle(run, settings, tokenizer, prompts["prompt"])
    builder = rewards_of.Builder(settings, run.parents, tokenizer, ready=ready)
    scorer = Scorer(builder.reward()[0], builder.gold(), over_ranks) if stage.scores else None
    policy = loading.load_policy(run["policy"], settings.model, tokenizer).to(torch_device(settings.hardware))
    asked = [prompt for prompt in prompts["prompt"] for _ in range(stage.samples)]
    responses = generate(
        policy,
        tokenizer,
        asked,
        max_prompt_length=stage.max_prompt_length,
        max_response_length=stage.max_response_length,
        temperature=stage.temperature,
        seed=seed,
        batch_size=stage.batch_size,
        shared=True,
    )
    scores = None if scorer is None else scored(scorer, asked, [response.text for response in responses])
    columns = {} if scorer is None or scores is None else {"scores": scores} | golds(scorer)
    rows = by_prompt(prompts["prompt"], responses, columns, stage.samples)
    write_rows(run.work / RESPONSES, rows)
    run.record_output(run.work / RESPONSES)
    shown = [(question(row["prompt"]), *row["responses"][:2]) for row in rows[:4]]
    show_samples("sample: responses", ("prompt", "first", "second")[: 1 + min(2, stage.samples)], shown)
    metrics = {
        "responses": float(len(responses)),
        "ended": sum(response.ended for response in responses) / len(responses),
        "tokens": sum(len(response.ids) for response in responses) / len(responses),
    }
    return metrics if scorer is None else metrics | scorer.metrics() | best_of_n(run, rows)


def over_ranks(x: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``x`` over all processes."""
    return torch.stack(ranks.gathered(x)).sum(0)


def scored(reward: Callable[..., list[float]], prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
    """Return the scores of all responses; each process scores a part of them."""
    first, end = (len(texts) * number // ranks.size() for number in (ranks.rank(), ranks.rank() + 1))
    return [score for part in ranks.gathered(reward(prompts[first:end], texts[first:end])) for score in part]


def golds(scorer: Scorer) -> dict[str, list[Any]]:
    """Return the gold rewards of all responses under ``gold``; empty without a gold reward."""
    own = scorer.batch.get("objective/gold")
    return {} if own is None else {"gold": [score for part in ranks.gathered(own) for score in part]}


def by_prompt(prompts: list, responses: list[Response], columns: dict[str, list[Any]], samples: int) -> list[dict]:
    """Return one row per prompt: its responses, whether each has ended, and their part of the ``columns``."""
    rows = []
    for number, prompt in enumerate(prompts):
        part = slice(number * samples, (number + 1) * samples)
        row = {
            "prompt": prompt,
            "responses": [response.text for response in responses[part]],
            "ended": [response.ended for response in responses[part]],
        }
        rows.append(row | {name: values[part] for name, values in columns.items()})
    return rows


def best_of_n(run: Run, rows: list[dict]) -> dict[str, float]:
    """Write the best and a random response per prompt; print and return the expected best-of-n scores and KL bounds."""
    best = [max(zip(row["scores"], row["responses"], strict=True))[1] for row in rows]
    drawn = [row["responses"][0] for row in rows]  # responses are independent, so the first is a random one
    for name, texts in {BEST: best, RANDOM: drawn}.items():
        asked = [row["prompt"] for row in rows]
        write_rows(run.work / name, list(map(demonstration, asked, texts)))
    samples, found = len(rows[0]["responses"]), {}
    for n in [2**power for power in range(samples.bit_length()) if 2**power <= samples]:
        mean = sum(expected_best(row["scores"], n) for row in rows) / len(rows)
        found |= {f"best_of_{n}/score": mean, f"best_of_{n}/kl": best_of_n_kl(n)}
        console.print(f"best-of-{n}: mean score {mean:.3f} (KL <= {best_of_n_kl(n):.2f} nats)", highlight=False)
    return found | {"objective": found["best_of_1/score"]}
