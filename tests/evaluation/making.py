"""Comparisons written by hand."""

from dataclasses import replace
from functools import cache
from typing import Any

from rlhf.config import CompareStage
from rlhf.evaluation.comparison.comparison import Comparison
from rlhf.evaluation.comparison.records import OverSeeds, Record
from rlhf.evaluation.responses.answers import Answers
from rlhf.evaluation.statistics.calibration import Bin, Calibration
from rlhf.evaluation.statistics.metrics import Estimate
from rlhf.runs.tree import Line
from tests.conftest import composed

HOSTILE = [
    "<script>alert(1)</script> | a | b",
    "[bold red]x[/] [link=http://evil.example]here[/link] [/]",
    "[click](javascript:alert(1)) ![](https://evil.example/x.png) **bold** `code`",
    "one\ntwo\n\n| three |\n# four\r\n- five",
    "\x1b[31mred\x1b[0m \u202eright to left\u202c \x00",
    "see https://evil.example and www.evil.example or me@evil.example",
    "~~~\n```\n</td></table><!-- &lt; &#60; -->",
    ":smile: :bomb: \N{FAMILY} \u05e9\u05dc\u05d5\u05dd \\",
]


@cache
def stage_of(samples: int) -> CompareStage:
    return composed("stage=compare", f"stage.samples={samples}").stage


def comparison(texts: list[str], names: tuple[str, ...] = ("sft", "ppo")) -> Comparison:
    """Return a comparison with one prompt per text, which each model repeats; the greedy response is the first text."""
    stage = stage_of(1)
    stage = replace(stage, models=dict.fromkeys(names, "somewhere"), reference=names[0])
    rows = [{"prompt": text, "task": f"task {i % 3}", "format": None} for i, text in enumerate(texts)]
    count = len(texts)
    answers = {
        name: Answers(
            name, False, [[text] for text in texts], [[len(text)] for text in texts], [[True]] * count, texts[:1],
            kl=[[0.5]] * count, scores={"gold": [[1.0]] * count},
        )
        for name in names
    }  # fmt: skip
    metrics: dict = {name: {"gold": Estimate(1.25, 1.0, 1.5), "distinct_1": 0.5} for name in names}
    metrics[names[-1]] |= {"kl": Estimate(0.5, 0.25, 0.75), "gold/task/task 0": Estimate(1.0, 1.0, 1.0)}
    return Comparison(stage, rows, answers, metrics, ["a <note>"], seed=3)


PPO_LINES = [
    {"step": i, "objective/kl": 0.1 * i, "objective/scores": i**0.5, "objective/gold": 1 + 0.2 * i - 0.03 * i**2}
    for i in range(8)
]


def whole(prompts: int = 6, samples: int = 2) -> Comparison:
    """Return a comparison with all parts of a report: four stages, two rewards, records, seeds, reliability."""
    names = ("base", "sft", "dpo", "ppo")
    stage = stage_of(samples)
    rows = [
        {
            "prompt": [{"role": "user", "content": "Who won the World Cup?" if i == prompts - 1 else f"Question {i}?"}],
            "task": ("question", "format")[i % 2],
            "format": "sentence",
        }
        for i in range(prompts)
    ]
    answers: dict[str, Answers] = {}
    for place, name in enumerate(names):
        texts = [[f"The {name} answer {i} is sample {j}." for j in range(samples)] for i in range(prompts)]
        gold = [[float((i * place + j) % 3) for j in range(samples)] for i in range(prompts)]
        reward = [[place - 0.5 * i + j for j in range(samples)] for i in range(prompts)]
        lengths = [[len(text.split()) + place for text in of] for of in texts]
        kl = None if name in ("base", "sft") else [[0.5 * place] * samples] * prompts
        answers[name] = Answers(
            name, name == "base", texts, lengths, [[i % 4 != 0] * samples for i in range(prompts)],
            [f"The {name} answer."], kl=kl, scores={"gold": gold, "reward": reward},
        )  # fmt: skip
    metrics: dict[str, Any] = {
        name: {"gold": Estimate(place, place - 0.1, place + 0.1), "reward": Estimate(place, place - 0.2, place + 0.2)}
        for place, name in enumerate(names)
    }
    for place, name in enumerate(names[2:], 2):
        metrics[name]["kl"] = Estimate(0.5 * place, 0.4 * place, 0.6 * place)
    curve = [{"step": i, "train/loss": 3.0 - i / 10} for i in range(5)]
    records = {name: Record(f"checkpoints/x/{name}", name, 10.0, 1.5, 1000, curve) for name in names}
    records["ppo"].lines = PPO_LINES
    records["reward"] = Record("org/reward")
    return Comparison(
        stage, rows, answers, metrics, ["a note"], 0,
        previous={"base": None, "sft": "base", "dpo": "sft", "ppo": "sft"},
        records=records,
        tree=[Line(min(place, 2), name, f"checkpoints/x/{name}") for place, name in enumerate(names)],
        paths={"checkpoints/x/ppo": records["ppo"]},
        reliability=Calibration([Bin(0.55, 0.5, 10), Bin(0.9, 0.8, 30)], 0.0875, 0.0625),
        seeds=OverSeeds([0, 1], {name: {"gold": (float(place), 0.5)} for place, name in enumerate(names)}),
    )  # fmt: skip
