"""The tables of a comparison as text, for the terminal, Markdown and the page alike."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rlhf.evaluation.comparison.comparison import Comparison
from rlhf.evaluation.statistics.metrics import Estimate

# Metric -> its label and one line on what it means; {reference} and {temperature} are those of the comparison.
LABELS = {
    "gold": ("gold reward", "mean score by the hidden gold reward of this world"),
    "reward": ("reward model", "mean score by the learned reward model"),
    "win_rate": ("win rate vs {reference} ({judge})", "share of comparisons with {reference} on the same prompts "
                 "that are won, judged by {judge}, ties half"),
    "win_rate/lc": ("win rate vs {reference} ({judge}, length-matched)", "win rate if both responses were equally "
                    "long, by AlpacaEval 2's regression in its minimal form, without the difficulty of each "
                    "instruction, so it is not comparable with that leaderboard's length-controlled win rate"),
    "win_rate_previous": ("win rate vs previous stage ({judge})", "the same against the model it was trained from, or "
                          "else the column to its left"),
    "win_rate_previous/lc": ("win rate vs previous stage ({judge}, length-matched)", "the same if both responses were "
                             "equally long"),
    "kl": ("KL to {reference} (nats per response)", "divergence of the policy from {reference}, estimated on the "
           "policy's own samples at temperature {temperature}; it depends on the temperature"),
    "correct": ("correct", "share of responses that are correct"),
    "format_followed": ("instruction following", "share of responses in the form that the prompt asks for"),
    "specific": ("names the subject", "share of responses that name what they are about"),
    "instructions/prompts": ("instruction following (per prompt)", "share of responses that follow every checkable "
                             "instruction of their prompt"),
    "instructions/all": ("instruction following (per instruction)", "share of checkable instructions followed"),
    "consistency/resamples": ("consistency (resampling)", "share of pairs of samples of one prompt that say the same"),
    "consistency/paraphrases": ("consistency (paraphrase)", "share of pairs of responses to two wordings of one "
                                "question that say the same"),
    "calibration/answers": ("ECE", "expected calibration error: the probability of an answer, estimated by the share "
                            "of the other samples that say the same, against how often it is correct"),
    "calibration/answers_floor": ("ECE noise floor", "the ECE that a calibrated model would show on as many responses"),
    "ends": ("EOS rate", "share of responses that end with the end of sequence instead of being cut off"),
    "length": ("response length (tokens)", "mean tokens of a response, the end of sequence included"),
    "distinct_1": ("distinct-1", "distinct words as a share of all words"),
    "distinct_2": ("distinct-2", "distinct pairs of words as a share of all pairs of words"),
    "text/perplexity": ("perplexity", "of held-out base text, per token: what alignment costs in language modeling"),
    "text/bits_per_byte": ("bits per byte", "of held-out base text; comparable between tokenizers"),
}  # fmt: skip
SKEWED = 0.2  # difference of the two sides of an interval, as a share of its width, from which ± would mislead
JUDGES = {"gold": "gold", "reward": "reward model"}
SECTIONS = {
    "Gold reward by task": "gold/task/",
    "Correct by task": "correct/task/",
    "Gold reward by novelty of the prompt (none: all of it was seen in training)": "gold/held_out/",
    "Correct by novelty of the prompt (none: all of it was seen in training)": "correct/held_out/",
    "Instruction following by the form asked for": "format_followed/format/",
    "Instruction following by kind of instruction": "instructions/kind/",
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


def keys_of(metrics: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return the metrics of the main table, in the order of `LABELS`; win rates are ordered by judge, gold first."""
    found = dict.fromkeys(key for row in metrics.values() for key in row)
    order = list(LABELS)
    judges = list(dict.fromkeys([*JUDGES, *(key.rpartition("/")[2] for key in found if key.startswith("win_rate"))]))

    def place(key: str) -> tuple[int, ...]:
        kind, _, judge = key.rpartition("/")
        if not key.startswith("win_rate"):
            return (order.index(key), 0, 0)
        first = order.index("win_rate_previous" if key.startswith("win_rate_previous") else "win_rate")
        return (first, judges.index(judge), order.index(kind))

    return sorted((key for key in found if key in LABELS or key.startswith("win_rate")), key=place)


def titled(model: str) -> str:
    """Return a column's name as it stands in a sentence: the names of methods are abbreviations."""
    return model.upper() if model in ("sft", "dpo", "ppo") else model


def label(key: str, reference: str, temperature: float) -> tuple[str, str]:
    """Return a metric's label and what it means; of a metric of a section the last part of its key, and nothing."""
    kind, _, name = key.rpartition("/")
    found = LABELS.get(kind if key.startswith("win_rate") else key, (name, ""))
    given = {"reference": titled(reference), "temperature": f"{temperature:g}", "judge": JUDGES.get(name, name)}
    return found[0].format(**given), found[1].format(**given)


def label_in(comparison: Comparison, key: str) -> tuple[str, str]:
    return label(key, comparison.stage.reference, comparison.stage.temperature)


def meanings(comparison: Comparison) -> list[tuple[str, str]]:
    """Return label and meaning of each metric of the main table."""
    return [label_in(comparison, key) for key in keys_of(comparison.metrics)]


def rows(comparison: Comparison, keys: Sequence[str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """A metric's heading and its value for each model; what a model does not have is a dash."""
    for key in keys or keys_of(comparison.metrics):
        found = [row.get(key) for row in comparison.metrics.values()]
        if any(value is not None for value in found):
            yield label_in(comparison, key)[0], ["–" if value is None else number(value) for value in found]
    if keys is None and any(comparison.previous.values()):
        yield "previous stage", [comparison.previous.get(name) or "–" for name in comparison.metrics]


def number(value: float | Estimate) -> str:
    """Return a number with its interval, as ± if both sides are about equally long and as its bounds if not."""
    if not isinstance(value, Estimate):
        return f"{value:.3g}"
    below, above = value.mean - value.low, value.high - value.mean
    if abs(above - below) > SKEWED * (above + below) and abs(above - below) >= 0.01:
        return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"
    return f"{value.mean:.2f} ±{(above + below) / 2:.2f}"


def spread(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    """The main table's metrics over seeds."""
    for key in keys_of(comparison.metrics):
        found = [comparison.seeds.metrics.get(name, {}).get(key) for name in comparison.metrics]
        if any(found):
            yield (
                label_in(comparison, key)[0],
                ["–" if pair is None else f"{pair[0]:.3g} ({pair[1]:.2g})" for pair in found],
            )


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
    return [
        *comparison.notes,
        *unmatched(comparison),
        *uncalibrated(comparison),
        *disagreeing(comparison),
        *on_reward_model(comparison),
    ]


def unmatched(comparison: Comparison) -> Iterator[str]:
    """Say which models have no length-matched win rate, since the regression would only extrapolate."""
    lacking = [
        name
        for name, row in comparison.metrics.items()
        if any(
            key.startswith("win_rate") and key.count("/") == 1 and key.replace("/", "/lc/") not in row for key in row
        )
    ]
    if lacking:
        yield (
            f"A length-matched win rate is left out for {', '.join(lacking)}: every response is longer than those it "
            "is compared with, or every one is shorter."
        )


def uncalibrated(comparison: Comparison) -> Iterator[str]:
    never = [name for name, row in comparison.metrics.items() if "correct" in row and row["correct"].mean == 0]
    if never and comparison.stage.samples > 1:
        yield f"No ECE for {', '.join(never)}: no response is correct."


def disagreeing(comparison: Comparison) -> Iterator[str]:
    """Say for which models the gold reward and the reward model disagree about who wins, beyond their intervals."""
    for name, row in comparison.metrics.items():
        gold, reward = row.get("win_rate/gold"), row.get("win_rate/reward")
        if gold is None or reward is None:
            continue
        if reward.low > 0.5 > gold.high or gold.low > 0.5 > reward.high:
            yield (
                f"The reward model and the gold reward disagree about {name}: win rate {reward.mean:.2f} and "
                f"{gold.mean:.2f} vs {titled(comparison.stage.reference)}."
            )


def on_reward_model(comparison: Comparison) -> Iterator[str]:
    found = comparison.reliability
    if found is not None:
        pairs = sum(one.count for one in found.bins)
        right = sum(one.accuracy * one.count for one in found.bins) / pairs
        yield (
            f"The reward model orders {right:.3f} of {pairs} held-out pairs correctly; its ECE is {found.error:.3f} "
            f"(a calibrated model would show {found.floor:.3f} on as many pairs)."
        )
