"""A comparison for people (terminal, report.md) and for programs (metrics.json, responses.jsonl).

What a model wrote is data. On the terminal its brackets are no markup and its ``:words:`` no emoji; in Markdown it
stands as text, escaped.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from rlhf.data.render import question
from rlhf.evaluation.comparison import Comparison
from rlhf.evaluation.metrics import Estimate
from rlhf.manifest import write_json
from rlhf.progress import console, printable

# Metric -> its heading and what it says.
HEADINGS = {
    "gold": ("gold reward", "what the hidden gold reward of this world gives"),
    "reward": ("reward model", "what the learned reward model gives"),
    "win_rate/gold": ("wins by gold", "chance that the gold reward puts it above the reference's response, ties half"),
    "win_rate/reward": ("wins by RM", "the same, by the reward model"),
    "kl": ("KL", "divergence from the reference, nats a response, on the model's own samples"),
    "correct": ("correct", "share of responses that are right"),
    "format_followed": ("follows", "share of responses in the form that was asked for"),
    "specific": ("specific", "share of responses that name what they are about"),
    "consistency/resamples": ("agrees", "share of pairs of samples of one prompt that say the same"),
    "consistency/paraphrases": ("paraphrases", "the same across prompts that ask for one thing in other words"),
    "ends": ("ends", "share of responses that end by themselves"),
    "length": ("tokens", "length of a response"),
    "distinct_1": ("distinct-1", "distinct words as a share of all"),
    "distinct_2": ("distinct-2", "distinct pairs of words as a share of all"),
    "text/perplexity": ("perplexity", "on held-out base text: what alignment cost"),
    "text/bits_per_byte": ("bits/byte", "on held-out base text, comparable between tokenizers"),
}
SECTIONS = {
    "Gold reward by task": "gold/task/",
    "Correct by task": "correct/task/",
    "Gold reward by what training has not seen": "gold/held_out/",
    "Correct by what training has not seen": "correct/held_out/",
    "Instructions followed, by the form asked for": "format_followed/format/",
}
EXAMPLES = 8
MARKUP = "\\`*_[]|#~$<>&"
LINK = re.compile(r":(?=//)|(?<=www)\.|@", re.IGNORECASE)  # what GitHub makes links of without any markup


def write(comparison: Comparison, folder: Path) -> None:
    """metrics.json, report.md and responses.jsonl."""
    write_json(folder / "metrics.json", as_json(comparison))
    (folder / "report.md").write_text("\n".join(markdown(comparison)) + "\n", encoding="utf-8")
    with (folder / "responses.jsonl").open("w", encoding="utf-8") as file:
        for line in responses(comparison):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def as_json(comparison: Comparison) -> dict:
    def plain(value: float | Estimate) -> float | dict[str, float]:
        return value._asdict() if isinstance(value, Estimate) else value

    models = {name: {key: plain(value) for key, value in row.items()} for name, row in comparison.metrics.items()}
    return {
        "reference": comparison.stage.reference,
        "prompts": len(comparison.prompts),
        "samples": comparison.stage.samples,
        "temperature": comparison.stage.temperature,
        "seed": comparison.seed,
        "interval": f"95 %, percentile bootstrap over prompts, {comparison.stage.bootstrap} draws",
        "notes": comparison.notes,
        "models": models,
        "questions": {
            text: {name: answers.greedy[i] for name, answers in comparison.answers.items()}
            for i, text in enumerate(comparison.stage.questions)
        },
    }


def responses(comparison: Comparison) -> Iterator[dict]:
    """Every prompt, model and sample, with its scores."""
    for i, row in enumerate(comparison.prompts):
        for name, answers in comparison.answers.items():
            for j, text in enumerate(answers.texts[i]):
                line = {"prompt": row["prompt"], "model": name, "sample": j, "completion": text}
                line |= {"length": answers.lengths[i][j], "ended": answers.ended[i][j]}
                line |= {} if answers.kl is None else {"kl": answers.kl[i][j]}
                yield line | {reward: values[i][j] for reward, values in answers.scores.items()}


def show(comparison: Comparison) -> None:
    """The questions side by side, then the table, on the terminal."""
    columns = list(comparison.metrics)
    questions = Table(title="One question, every stage", title_justify="left", show_lines=True)
    for heading in ("question", *columns):
        questions.add_column(Text(heading), overflow="fold")
    for i, text in enumerate(comparison.stage.questions):
        cells = [printable(written(comparison.answers[name].greedy[i])) for name in columns]
        questions.add_row(*map(Text, (text, *cells)))
    console.print(questions)
    metrics = Table(title=f"{len(comparison.prompts)} held-out prompts", title_justify="left")
    for heading in ("", *columns):
        metrics.add_column(Text(heading), justify="left" if not heading else "right")
    for heading, cells in rows(comparison):
        metrics.add_row(heading, *cells)
    console.print(metrics)
    for note in comparison.notes:
        console.print(Text(note), style="dim")


def rows(comparison: Comparison, keys: Sequence[str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """A metric's heading and its value for each model; what a model does not have is a dash."""
    for key in keys or HEADINGS:
        found = [row.get(key) for row in comparison.metrics.values()]
        if any(value is not None for value in found):
            heading = HEADINGS[key][0] if key in HEADINGS else key.rpartition("/")[2]
            yield heading, ["–" if value is None else number(value) for value in found]


def number(value: float | Estimate) -> str:
    return f"{value.mean:.2f} ±{(value.high - value.low) / 2:.2f}" if isinstance(value, Estimate) else f"{value:.3g}"


def markdown(comparison: Comparison) -> Iterator[str]:
    """The report as Markdown, a line at a time."""
    names = list(comparison.metrics)
    stage = comparison.stage
    yield "# What each stage changed\n"
    yield (
        f"{len(comparison.prompts)} held-out prompts, {stage.samples} samples each at temperature "
        f"{stage.temperature:g}, seed {comparison.seed}; ± is half of a 95 % interval, bootstrapped over prompts.\n"
    )
    for note in comparison.notes:
        yield f"- {cell(note)}"
    yield "\n## One question, every stage\n"
    yield from table(["question", *names], [
        [text, *(written(comparison.answers[name].greedy[i]) for name in names)]
        for i, text in enumerate(stage.questions)
    ])  # fmt: skip
    yield "\n## Table\n"
    yield from table(["", *names], [[heading, *cells] for heading, cells in rows(comparison)])
    for title, prefix in SECTIONS.items():
        keys = sorted({key for row in comparison.metrics.values() for key in row if key.startswith(prefix)})
        if keys:
            yield f"\n## {title}\n"
            yield from table(["", *names], [[heading, *cells] for heading, cells in rows(comparison, keys)])
    yield "\n## Responses\n"
    yield from table(["prompt", *names], [
        [question(comparison.prompts[i]["prompt"]), *(written(comparison.answers[name].texts[i][0]) for name in names)]
        for i in examples(comparison)
    ])  # fmt: skip
    yield "\n## What the rows say\n"
    yield from (f"- **{heading}**: {meaning}" for heading, meaning in HEADINGS.values())


def written(response: str) -> str:
    """A response as a table shows it: one that ends before its first word would look like one that is missing."""
    return response.strip() or "(empty)"


def examples(comparison: Comparison) -> list[int]:
    """Indices of a few prompts: one of each task in turn, in the order of the prompts."""
    turns: dict[str, int] = {}
    order = []
    for i, row in enumerate(comparison.prompts):
        task = str(row.get("task"))
        order.append((turns.setdefault(task, 0), i))
        turns[task] += 1
    return [i for _, i in sorted(order)[:EXAMPLES]]


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(map(cell, headings)) + " |"
    yield "|" + " --- |" * len(headings)
    for line in lines:
        yield "| " + " | ".join(map(cell, line)) + " |"


def cell(text: str) -> str:
    """Text for a Markdown table: no HTML, no markup, no link, no line break that would end the row."""
    safe = "".join(f"&#{ord(char)};" if char in MARKUP else char for char in printable(text))
    return LINK.sub(lambda found: f"&#{ord(found[0])};", safe).replace("\n", "<br>")
