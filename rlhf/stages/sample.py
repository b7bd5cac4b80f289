"""Sample several responses per prompt from one policy and score them if stage.reward is set (best-of-n).

    python -m rlhf stage=sample stage.policy=checkpoints/almanac/ppo stage.samples=8
    python -m rlhf stage=sample stage.reward=checkpoints/almanac/reward    # and the best per prompt

stage=label makes preference pairs from responses.jsonl; best.jsonl holds demonstrations for stage=sft.
"""

from typing import Any

from rlhf.config import SampleStage, Settings
from rlhf.console import console, show_samples
from rlhf.data import load
from rlhf.data.render import question
from rlhf.evaluation.responses.best_of_n import best_of_n_kl, expected_best
from rlhf.hardware.device import torch_device
from rlhf.labeling.pairs import RESPONSES, preference_completion, write_rows
from rlhf.modeling import loading
from rlhf.modeling.generation import Response, generate
from rlhf.rewards import RewardModel
from rlhf.runs.run import Run
from rlhf.training import loop


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Sample and score responses, write them and return their statistics."""
    stage = settings.stage_as(SampleStage)
    split: Any = stage.split  # one of the three; the settings check it
    prompts = load(settings.data, "prompts", split, settings.seed)
    prompts = prompts.shuffle(seed=settings.seed).select(range(min(stage.prompts or len(prompts), len(prompts))))
    run.record_data("prompts", stage.split, prompts)
    scorer = None if stage.reward is None else reward_model(settings, run)

    tokenizer = loading.load_tokenizer(run["policy"], settings.model)
    loop.settle(run, settings, tokenizer, prompts["prompt"])
    policy = loading.load_policy(run["policy"], settings.model, tokenizer).to(torch_device(settings.hardware))
    asked = [prompt for prompt in prompts["prompt"] for _ in range(stage.samples)]
    responses = generate(
        policy,
        tokenizer,
        asked,
        max_prompt_length=stage.max_prompt_length,
        max_response_length=stage.max_response_length,
        temperature=stage.temperature,
        seed=settings.seed,
        batch_size=stage.batch_size,
    )
    scores = None if scorer is None else scorer(asked, [response.text for response in responses])
    rows = by_prompt(prompts["prompt"], responses, scores, stage.samples)
    write_rows(run.work / RESPONSES, rows)
    run.record_output(run.work / RESPONSES)
    shown = [(question(row["prompt"]), *row["responses"][:2]) for row in rows[:4]]
    show_samples("sample: responses", ("prompt", "first", "second")[: 1 + min(2, stage.samples)], shown)
    metrics = {
        "responses": float(len(responses)),
        "ended": sum(response.ended for response in responses) / len(responses),
        "tokens": sum(len(response.ids) for response in responses) / len(responses),
    }
    return metrics if scores is None else metrics | best_of_n(run, rows)


def reward_model(settings: Settings, run: Run) -> RewardModel:
    """Load the reward model of ``stage.reward`` with its tokenizer."""
    stage, tokenizer = settings.stage_as(SampleStage), loading.load_tokenizer(run["reward"], settings.model)
    model = loading.load_reward_model(run["reward"], settings.model, tokenizer).to(torch_device(settings.hardware))
    return RewardModel(model, tokenizer, max_length=stage.max_prompt_length + stage.max_response_length)


def by_prompt(prompts: list, responses: list[Response], scores: list[float] | None, samples: int) -> list[dict]:
    """Return one row per prompt, with its responses, whether each has ended, and the scores if any."""
    rows = []
    for number, prompt in enumerate(prompts):
        part = slice(number * samples, (number + 1) * samples)
        row = {
            "prompt": prompt,
            "responses": [response.text for response in responses[part]],
            "ended": [response.ended for response in responses[part]],
        }
        rows.append(row if scores is None else row | {"scores": scores[part]})
    return rows


def best_of_n(run: Run, rows: list[dict]) -> dict[str, float]:
    """Write the best response per prompt; print and return the expected best-of-n score and its KL bound in nats."""
    best = []
    for row in rows:
        _, text = max(zip(row["scores"], row["responses"], strict=True))
        best.append({"prompt": row["prompt"], "completion": preference_completion(row["prompt"], text)})
    write_rows(run.work / "best.jsonl", best)
    samples, found = len(rows[0]["responses"]), {}
    for n in [2**power for power in range(samples.bit_length()) if 2**power <= samples]:
        mean = sum(expected_best(row["scores"], n) for row in rows) / len(rows)
        found |= {f"best_of_{n}/score": mean, f"best_of_{n}/kl": best_of_n_kl(n)}
        console.print(f"best-of-{n}: mean score {mean:.3f} (KL <= {best_of_n_kl(n):.2f} nats)", highlight=False)
    return found | {"objective": found["best_of_1/score"]}
