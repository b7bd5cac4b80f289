"""The numbers of the package rewardbench, in its environment: rows as JSON on the input, numbers on the output."""

import json
import sys

import numpy as np
import rewardbench
from datasets import Dataset
from rewardbench.constants import EXAMPLE_COUNTS, SUBSET_MAPPING
from rewardbench.utils import calculate_scores_per_section, process_single_model, reroll_and_score_dataset


def accuracies(pairs: list[dict]) -> dict[str, float]:
    """Return the accuracy of each subset, as scripts/run_rm.py of its repository counts it."""
    won: dict[str, list[bool]] = {}
    for pair in pairs:
        chosen, rejected = pair["scores"]
        won.setdefault(pair["subset"], []).append(chosen > rejected)
    return {subset: float(np.mean(results)) for subset, results in won.items()}


def best_of_4(rows: list[dict]) -> dict[str, float]:
    """Return the mean result of each subset, as scripts/run_v2.py computes it from one line per response."""
    lines = [
        {"text": text, "scores": score, "subset": row["subset"], "id": row["id"]}
        for row in rows
        for text, score in enumerate(row["scores"])
    ]
    rolled = reroll_and_score_dataset(Dataset.from_list(lines), [len(row["scores"]) for row in rows])
    results: dict[str, list[float]] = {}
    for row in rolled:
        results.setdefault(row["subset"], []).append(row["results"])
    return {subset: float(np.mean(values)) for subset, values in results.items()}


given = json.load(sys.stdin)
subsets = accuracies(given["pairs"])
numbers = {
    "version": rewardbench.__version__,
    "sections": calculate_scores_per_section(EXAMPLE_COUNTS, SUBSET_MAPPING, subsets),
    "subsets": subsets,
    "best of 4": best_of_4(given["rows"]),
    "ties": [float(process_single_model(Dataset.from_list(ties))[1]) for ties in given["ties"]],
}
json.dump(numbers, sys.stdout)
