"""The tables of a comparison as text, for the terminal, Markdown and the page."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rlhf.config.stage import POLICIES
from rlhf.evaluation.comparison.comparison import CHANGE, DOMAIN, TASK, TAX, Comparison, interval
from rlhf.evaluation.statistics.metrics import Estimate


class Wording(NamedTuple):
    """The words for a metric: ``label`` of the field, ``plain`` label, ``meaning`` in one line.

    {reference} and {temperature} are those of the comparison.
    """

    label: str
    plain: str
    meaning: str


LABELS = {
    "gold": Wording("gold reward", "How good it is", "mean score by the hidden gold reward of this world"),
    "reward": Wording("reward model", "How good the reward model says it is", "mean score by the learned reward model"),
    "win_rate": Wording(
        "win rate vs {reference} ({judge})", "How often it beats {reference}, by {judge}",
        "share of comparisons with {reference} on the same prompts that are won, judged by {judge}; a tie counts half"),
    "win_rate/lc": Wording(
        "win rate vs {reference} ({judge}, length-matched)", "The same at equal length",
        "win rate at equal response length, by the minimal form of AlpacaEval 2's regression, without the difficulty "
        "of each instruction, so it is not comparable with that leaderboard's length-controlled win rate"),
    "win_rate_previous": Wording(
        "win rate vs previous stage ({judge})", "How often it beats the stage before it, by {judge}",
        "win rate vs the model that it was trained from, or else the column to its left"),
    "win_rate_previous/lc": Wording(
        "win rate vs previous stage ({judge}, length-matched)", "The same at equal length",
        "the same at equal response length"),
    "kl": Wording(
        "KL to {reference} (nats per response)", "How far it moved from {reference}",
        "divergence of the policy from {reference}, estimated on the policy's own samples at temperature "
        "{temperature}; it depends on the temperature"),
    "correct": Wording("correct", "How often it is correct", "share of responses that are correct"),
    "format_followed": Wording(
        "instruction following", "How often it has the requested form",
        "share of responses in the form that the prompt asks for"),
    "specific": Wording(
        "names the subject", "How often it names its subject", "share of responses that name their subject"),
    "instructions/prompts": Wording(
        "instruction following (per prompt)", "How often it follows every instruction",
        "share of responses that follow every checkable instruction of their prompt"),
    "instructions/all": Wording(
        "instruction following (per instruction)", "How many instructions it follows",
        "share of checkable instructions followed"),
    "consistency/resamples": Wording(
        "consistency (resampling)", "How often two of its responses agree",
        "share of pairs of samples of one prompt that agree"),
    "consistency/paraphrases": Wording(
        "consistency (paraphrase)", "How often it agrees across two wordings",
        "share of pairs of responses to two wordings of one question that agree"),
    "calibration/answers": Wording(
        "ECE", "How far its confidence is from its accuracy",
        "expected calibration error: the probability of an answer, estimated by the share of the other samples that "
        "agree with it, vs. how often it is correct"),
    "calibration/answers_floor": Wording(
        "ECE noise floor", "How far it would be by chance",
        "the ECE that a calibrated model would show on as many responses"),
    "ends": Wording(
        "EOS rate", "How often it finishes",
        "share of responses that end with an end-of-sequence token instead of being cut off"),
    "length": Wording("response length (tokens)", "How long it is", "mean tokens of a response, including EOS"),
    "distinct_1": Wording("distinct-1", "How varied its words are", "distinct words as a share of all words"),
    "distinct_2": Wording(
        "distinct-2", "How varied its pairs of words are", "distinct pairs of words as a share of all pairs of words"),
    "text/perplexity": Wording(
        "perplexity", "How surprised it is by plain text, per token",
        "of held-out base text, per token; the cost of alignment in language modeling"),
    "text/bits_per_byte": Wording(
        "bits per byte", "How surprised it is by plain text, per byte",
        "of held-out base text; comparable between tokenizers"),
}  # fmt: skip
SKEWED = 0.2  # difference of the two sides of an interval, as a share of its width, above which ± is misleading
JUDGES = {"gold": "gold", "reward": "reward model"}
SECTIONS = {
    "Gold reward by task": "gold/task/",
    "Correct by task": "correct/task/",
    "Gold reward by novelty of the prompt (none: all of it was seen in training)": "gold/held_out/",
    "Correct by novelty of the prompt (none: all of it was seen in training)": "correct/held_out/",
    "Instruction following by the form asked for": "format_followed/format/",
    "Instruction following by kind of instruction": "instructions/kind/",
    "Bits per byte by domain": f"{DOMAIN}/",
    "Alignment tax: bits per byte above the reference's, on the same texts": f"{TAX}/",
    "Tasks of lm-eval-harness": f"{TASK}/",
    "Tasks of lm-eval-harness: difference from the reference on the same documents": f"{CHANGE}/",
}


class Grid(NamedTuple):
    """A table. The first heading and the first cell of each row belong to the column of row headings."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def grids(comparison: Comparison) -> Iterator[Grid]:
    """Yield all tables, the main one first."""
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
    """Return a column's name as used in prose: names of methods in capitals."""
    return model.upper() if model in POLICIES else model


def label(key: str, reference: str, temperature: float) -> Wording:
    """Return the words for a metric; for a metric of `SECTIONS` the last part of its key."""
    kind, _, name = key.rpartition("/")
    found = LABELS.get(kind if key.startswith("win_rate") else key, Wording(name, name, ""))
    values = {"reference": titled(reference), "temperature": f"{temperature:g}", "judge": JUDGES.get(name, name)}
    return Wording(*(text.format(**values) for text in found))


def label_in(comparison: Comparison, key: str) -> Wording:
    """Return `label` with the reference and the temperature of the comparison."""
    return label(key, comparison.stage.reference, comparison.stage.temperature)


def meanings(comparison: Comparison) -> list[Wording]:
    """Return the words for each metric of the main table."""
    return [label_in(comparison, key) for key in keys_of(comparison.metrics)]


def rows(comparison: Comparison, keys: Sequence[str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yield each metric's heading and its value for each model, a dash if a model lacks it."""
    for key in keys or keys_of(comparison.metrics):
        found = [row.get(key) for row in comparison.metrics.values()]
        if any(value is not None for value in found):
            yield label_in(comparison, key).label, ["–" if value is None else number(value) for value in found]
    if keys is None and any(comparison.previous.values()):
        yield "previous stage", [comparison.previous.get(name) or "–" for name in comparison.metrics]


def number(value: float | Estimate) -> str:
    """Return a number with its interval: as ± if it is symmetric, else as its bounds."""
    if not isinstance(value, Estimate):
        return f"{value:.3g}"
    below, above = value.mean - value.low, value.high - value.mean
    if abs(above - below) > SKEWED * (above + below) and abs(above - below) >= 0.01:
        return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"
    return f"{value.mean:.2f} ±{(above + below) / 2:.2f}"


def spread(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    """Yield each metric's heading and, for each model, its mean and standard deviation over seeds."""
    if comparison.seeds is None:
        return
    for key in keys_of(comparison.metrics):
        found = [comparison.seeds.metrics.get(name, {}).get(key) for name in comparison.metrics]
        if any(found):
            yield (
                label_in(comparison, key).label,
                ["–" if pair is None else f"{pair[0]:.3g} ({pair[1]:.2g})" for pair in found],
            )


def costs(comparison: Comparison) -> Grid:
    """Return the cost of each run as recorded on its machine; memory is the peak of the whole process."""
    runs = {name: run for name, run in comparison.records.items() if run.seconds is not None}
    lines = {
        "seconds": [f"{run.seconds:.0f}" for run in runs.values()],
        "tokens": ["–" if run.tokens is None else f"{run.tokens:,}" for run in runs.values()],
        "peak GiB": ["–" if run.peak_memory_gib is None else f"{run.peak_memory_gib:.2f}" for run in runs.values()],
    }
    return Grid("What each stage cost", ["", *runs], [[title, *cells] for title, cells in lines.items()])


def remarks(comparison: Comparison) -> list[str]:
    """Return the comparison's notes and those derived from its metrics."""
    return [
        *comparison.notes,
        *(f"{name}: {fall}" for name, run in comparison.records.items() for fall in run.falls),
        *unmatched(comparison),
        *uncalibrated(comparison),
        *disagreeing(comparison),
        *on_reward_model(comparison),
    ]


def unmatched(comparison: Comparison) -> Iterator[str]:
    """Report the models without a length-matched win rate, for which the regression would extrapolate."""
    lacking = [
        name
        for name, row in comparison.metrics.items()
        if any(
            key.startswith("win_rate") and key.count("/") == 1 and key.replace("/", "/lc/") not in row for key in row
        )
    ]
    if lacking:
        yield (
            f"No length-matched win rate for {', '.join(lacking)}: every response is longer than those that it is "
            "compared with, or every one is shorter."
        )


def uncalibrated(comparison: Comparison) -> Iterator[str]:
    """Report the models without an ECE, which are never correct."""
    shares = {name: interval(row, "correct") for name, row in comparison.metrics.items()}
    never = [name for name, share in shares.items() if share is not None and share.mean == 0]
    if never and comparison.stage.samples > 1:
        yield f"No ECE for {', '.join(never)}: no response is correct."


def disagreeing(comparison: Comparison) -> Iterator[str]:
    """Report the models for which the win rates by gold reward and reward model are on different sides of ½.

    Both intervals must exclude ½.
    """
    for name, row in comparison.metrics.items():
        gold, reward = interval(row, "win_rate/gold"), interval(row, "win_rate/reward")
        if gold is None or reward is None:
            continue
        if reward.low > 0.5 > gold.high or gold.low > 0.5 > reward.high:
            yield (
                f"The reward model and the gold reward disagree about {name}: win rate {reward.mean:.2f} and "
                f"{gold.mean:.2f} vs {titled(comparison.stage.reference)}."
            )


def on_reward_model(comparison: Comparison) -> Iterator[str]:
    """Report the accuracy and the ECE of the reward model on held-out pairs."""
    found = comparison.reliability
    if found is not None:
        pairs = sum(part.count for part in found.bins)
        right = sum(part.accuracy * part.count for part in found.bins) / pairs
        yield (
            f"The reward model orders {right:.3f} of {pairs} held-out pairs correctly; its ECE is {found.error:.3f} "
            f"(expected for a calibrated model on as many pairs: {found.floor:.3f})."
        )
