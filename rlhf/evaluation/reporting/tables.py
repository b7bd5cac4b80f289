"""The tables of a comparison as text, for the terminal, Markdown and the page alike."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rlhf.evaluation.comparison.comparison import Comparison
from rlhf.evaluation.statistics.metrics import Estimate
from rlhf.evaluation.statistics.reward_calibration import calibration_error

# Metric -> its heading and what it says.
HEADINGS = {
    "gold": ("gold reward", "what the hidden gold reward of this world gives"),
    "reward": ("reward model", "what the learned reward model gives"),
    "win_rate/gold": ("wins by gold", "chance that the gold reward puts it above the reference's response, ties half"),
    "win_rate/lc/gold": ("wins by gold, equal length", "as if both were equally long: AlpacaEval 2's regression"),
    "win_rate/reward": ("wins by RM", "chance that the reward model puts it above the reference's response"),
    "win_rate/lc/reward": ("wins by RM, equal length", "the same as if both were equally long"),
    "win_rate_previous/gold": ("wins over before, gold", "against the stage it comes from, else the column before"),
    "win_rate_previous/lc/gold": ("wins over before, gold, equal length", "the same as if both were equally long"),
    "win_rate_previous/reward": ("wins over before, RM", "against the stage it comes from, else the column before"),
    "win_rate_previous/lc/reward": ("wins over before, RM, equal length", "the same as if both were equally long"),
    "kl": ("KL", "divergence from the reference, nats a response, on the model's own samples"),
    "correct": ("correct", "share of responses that are right"),
    "format_followed": ("follows", "share of responses in the form that was asked for"),
    "specific": ("specific", "share of responses that name what they are about"),
    "instructions/prompts": ("prompts followed", "share of responses that follow every checkable instruction"),
    "instructions/all": ("instructions followed", "share of checkable instructions that are followed"),
    "consistency/resamples": ("agrees", "share of pairs of samples of one prompt that say the same"),
    "consistency/paraphrases": ("paraphrases", "the same across prompts that ask for one thing in other words"),
    "calibration/answers": ("miscalibrated", "expected calibration error of an answer's probability, by how many other "
                            "samples say the same, against how often it is right"),
    "ends": ("ends", "share of responses that end by themselves"),
    "length": ("tokens", "length of a response"),
    "distinct_1": ("distinct-1", "distinct words as a share of all"),
    "distinct_2": ("distinct-2", "distinct pairs of words as a share of all"),
    "text/perplexity": ("perplexity", "on held-out base text: what alignment cost"),
    "text/bits_per_byte": ("bits/byte", "on held-out base text, comparable between tokenizers"),
}  # fmt: skip
SECTIONS = {
    "Gold reward by task": "gold/task/",
    "Correct by task": "correct/task/",
    "Gold reward by what training has not seen": "gold/held_out/",
    "Correct by what training has not seen": "correct/held_out/",
    "Instructions followed, by the form asked for": "format_followed/format/",
    "Instructions followed, by kind": "instructions/kind/",
}


class Grid(NamedTuple):
    """A table: its headings, the first one of the column of row headings, and its rows."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def grids(comparison: Comparison) -> Iterator[Grid]:
    """Every table, the one of all metrics first."""
    names = list(comparison.metrics)
    yield Grid("Every metric", ["", *names], [[heading, *cells] for heading, cells in rows(comparison)])
    if comparison.seeds is not None:
        seeds = ", ".join(map(str, comparison.seeds.seeds))
        lines = [[heading, *cells] for heading, cells in spread(comparison)]
        yield Grid(f"Over seeds {seeds}: mean (standard deviation)", ["", *names], lines)
    for title, prefix in SECTIONS.items():
        keys = sorted({key for row in comparison.metrics.values() for key in row if key.startswith(prefix)})
        if keys:
            yield Grid(title, ["", *names], [[heading, *cells] for heading, cells in rows(comparison, keys)])
    if any(run.seconds is not None for run in comparison.records.values()):
        yield costs(comparison)


def keys_of(comparison: Comparison) -> list[str]:
    """The metrics of the main table, in its order: those of `HEADINGS`, and win rates by any other judge after them."""
    found = dict.fromkeys(key for row in comparison.metrics.values() for key in row)
    others = [key for key in found if key.startswith("win_rate") and key not in HEADINGS]
    return [*(key for key in HEADINGS if key in found), *others]


def heading(key: str) -> str:
    if key in HEADINGS:
        return HEADINGS[key][0]
    kind, _, name = key.rpartition("/")
    if kind.startswith("win_rate"):
        over = "wins over before" if kind.startswith("win_rate_previous") else "wins"
        return f"{over} by {name}" + (", equal length" if kind.endswith("/lc") else "")
    return name


def rows(comparison: Comparison, keys: Sequence[str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """A metric's heading and its value for each model; what a model does not have is a dash."""
    for key in keys or keys_of(comparison):
        found = [row.get(key) for row in comparison.metrics.values()]
        if any(value is not None for value in found):
            yield heading(key), ["–" if value is None else number(value) for value in found]
    if keys is None and any(comparison.previous.values()):
        yield "stage before", [comparison.previous.get(name) or "–" for name in comparison.metrics]


def number(value: float | Estimate) -> str:
    return f"{value.mean:.2f} ±{(value.high - value.low) / 2:.2f}" if isinstance(value, Estimate) else f"{value:.3g}"


def spread(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    """The main table's metrics over seeds."""
    for key in keys_of(comparison):
        found = [comparison.seeds.metrics.get(name, {}).get(key) for name in comparison.metrics]
        if any(found):
            yield heading(key), ["–" if pair is None else f"{pair[0]:.3g} ({pair[1]:.2g})" for pair in found]


def costs(comparison: Comparison) -> Grid:
    """What each run took. Time and memory are as its machine was then; memory is of the whole process."""
    runs = {name: run for name, run in comparison.records.items() if run.seconds is not None}
    lines = {
        "seconds": [f"{run.seconds:.0f}" for run in runs.values()],
        "tokens": ["–" if run.tokens is None else f"{run.tokens:,}" for run in runs.values()],
        "peak GiB": ["–" if run.peak_memory_gib is None else f"{run.peak_memory_gib:.2f}" for run in runs.values()],
    }
    return Grid("What each stage cost", ["", *runs], [[title, *cells] for title, cells in lines.items()])


def remarks(comparison: Comparison) -> list[str]:
    """The notes, and what no table has room for."""
    bins = comparison.reliability
    if not bins:
        return comparison.notes
    pairs, error = sum(one.count for one in bins), calibration_error(bins)
    right = sum(one.accuracy * one.count for one in bins) / pairs
    return [
        *comparison.notes,
        f"The reward model orders {right:.3f} of {pairs} held-out pairs rightly; its expected calibration error is "
        f"{error:.3f}.",
    ]
