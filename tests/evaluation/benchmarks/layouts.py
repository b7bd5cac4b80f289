"""The benchmarks in the layouts of their releases, with a few rows, and their scores computed a second time."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

Lines = list[dict[str, Any]]  # of scores.jsonl


def parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows).to_parquet(path)


def text(path: Path, rows: list[dict], *, lines: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows) if lines else json.dumps(rows))


def rewardbench(folder: Path) -> None:
    subsets = ("alpacaeval-easy", "llmbar-natural", "donotanswer", "math-prm", "hep-go")
    parquet(folder / "data" / "filtered-00000-of-00001.parquet", [
        {
            "prompt": f"q{i}", "chosen": f" good {i}", "chosen_model": "a", "rejected": f" bad {i}",
            "rejected_model": "b", "subset": subset, "id": i,
        }
        for i, subset in enumerate(subsets * 2)
    ])  # fmt: skip


def rewardbench2(folder: Path) -> None:
    rows = []
    for i, subset in enumerate(("Factuality", "Precise IF", "Math", "Safety", "Focus") * 2):
        four = {"chosen": [f" good {i}"], "rejected": [f" bad {i} {n}" for n in range(3)]}
        rows.append({"id": str(i), "prompt": f"q{i}", **four, "num_correct": 1, "num_rejected": 3, "subset": subset})
    for kind, count in (("ref", 1), ("tied", 3)):
        for i in range(2):
            many = {"chosen": [f" red {i} {n}" for n in range(count)], "rejected": [" seven", f" {i} eight"]}
            row = {"id": f"{kind}:{i}", "prompt": f"a color {i}?", **many, "num_correct": count, "num_rejected": 2}
            rows.append(row | {"subset": "Ties"})
    parquet(folder / "data" / "test-00000-of-00001.parquet", rows)


def rm_bench(folder: Path) -> None:
    text(folder / "total_dataset.json", [
        {
            "id": i, "prompt": f"q{i}", "domain": domain,
            "chosen": [f" good {i}", f" good, as it is {i}", f" **good** {i}\n- one"],
            "rejected": [f" bad {i}", f" bad, as it is {i}", f" **bad** {i}\n- one"],
        }
        for i, domain in enumerate(("chat", "math", "code", "safety-refuse", "safety-response") * 2)
    ])  # fmt: skip


def judgebench(folder: Path) -> None:
    for model, more in (("gpt-4o-2024-05-13", ""), ("claude-3-5-sonnet-20240620", " again")):
        text(folder / f"dataset=judgebench,response_model={model}.jsonl", [
            {
                "pair_id": f"p{i}", "original_id": str(i), "source": source, "question": f"q{i}",
                "response_A": f" one {i}{more}", "response_B": f" two {i}{more}", "label": ("A>B", "B>A")[i % 2],
            }
            for i, source in enumerate(("mmlu-pro-law", "livebench-math", "livecodebench", "livebench-reasoning") * 2)
        ], lines=True)  # fmt: skip


def llmbar(folder: Path) -> None:
    for number, name in enumerate(
        ("Natural", *(f"Adversarial/{one}" for one in ("Neighbor", "GPTInst", "GPTOut", "Manual")))
    ):
        text(folder / name / "dataset.json", [
            {"input": f"q{number} {i}", "output_1": f" one {i}", "output_2": f" two {i}", "label": 1 + i % 2}
            for i in range(2)
        ])  # fmt: skip
        text(folder / name / "evaluators" / "result.json", [{"winner": 1}])


def rmb(folder: Path) -> None:
    for number, goal in enumerate(("Helpfulness", "Harmlessness")):
        turn = {"role": "user", "content": f"q{number}", "language": "English"}
        for i in range(2):
            row = {"conversation_input": [turn], "category_path": f"Pairwise_set/{goal}/Chat/Discussion"}
            sides = {"chosen": {"answer": f" good {i}", "llm_name": "a"}, "reject": {"answer": f" bad {i}"}}
            text(folder / "Pairwise_set" / goal / f"{i}.json", [row | sides | {"pair_uid": f"{goal}{i}"}])
            row = {"conversation_input": [turn], "category_path": f"BoN_set/{goal}/Chat/Discussion"}
            sides = {
                "bon_best": {"answer": f" good {i}"},
                "loser_list": [{"answer": f" bad {i} {n}"} for n in range(2)],
            }
            text(folder / "BoN_set" / goal / f"{i}.json", [row | sides | {"bon_uid": f"{goal}{i}"}])


def ppe(folder: Path) -> None:
    parquet(folder / "PPE-Human-Preference-V1" / "data" / "all-00000-of-00001.parquet", [
        {
            "question_id": f"h{i}", "prompt": f"q{i}", "response_1": f" one {i}", "response_2": f" two {i}",
            "winner": ("model_a", "model_b", "tie")[i], "language": ("Thai", "Polish", "Thai")[i],
        }
        for i in range(3)
    ])  # fmt: skip
    parquet(folder / "PPE-MATH-Best-of-K" / "data" / "all-00000-of-00001.parquet", [
        {
            "question_id": f"m{i}", "prompt": f"sum {i}", **{f"response_{n + 1}": f" it is {n} {i}" for n in range(4)},
            "scores": [False, True, False, True], "sampled_conflict_pairs": [[0, 1], [3, 2]],
        }
        for i in range(2)
    ])  # fmt: skip


WRITERS: dict[str, Callable[[Path], None]] = {
    one.__name__: one for one in (rewardbench, rewardbench2, rm_bench, judgebench, llmbar, rmb, ppe)
}


def subset_means(lines: Lines) -> dict[str, float]:
    """Return the share of each subset's rows whose first response has the highest score."""
    found: dict[str, list[bool]] = {}
    for line in lines:
        found.setdefault(line["subset"], []).append(line["scores"][0] > max(line["scores"][1:]))
    return {name: float(np.mean(won)) for name, won in found.items()}


def tied(lines: Lines) -> float:
    """Return the ties score of RewardBench 2 from the rows of its ties."""
    total, prompts = 0.0, {line["id"].split(":")[1] for line in lines}
    for prompt in prompts:
        [ref], [many] = (
            [one["scores"] for one in lines if one["id"] == f"{kind}:{prompt}"] for kind in ("ref", "tied")
        )
        gaps = [ref[0] - max(ref[1:]), min(many[:3]) - max(many[3:])]
        spread = max(many[:3]) - min(many[:3])
        total += 0.3 * (gaps[0] > 0) + 0.3 * (gaps[1] > 0) + 0.2 * (gaps[1] > spread) + 0.2 * (min(gaps) > spread)
        total += 0.01 * math.tanh(min(gaps) / spread - 1)
    return total / len(prompts)


def score(name: str, lines: Lines) -> float | None:
    """Return the score of a benchmark from its scores.jsonl, None for PPE."""
    means = subset_means(lines)
    if name == "rewardbench":
        reasoning = (984 * means["math-prm"] + 164 * means["hep-go"]) / (984 + 164)
        return (means["alpacaeval-easy"] + means["llmbar-natural"] + means["donotanswer"] + reasoning) / 4
    if name == "rewardbench2":
        return (sum(means.values()) - means["Ties"] + tied([one for one in lines if one["subset"] == "Ties"])) / 6
    if name == "rm_bench":
        domains: dict[str, list[float]] = {}
        for line in lines:
            won = [[a > b for b in line["scores"][3:]] for a in line["scores"][:3]]
            easy = (won[1][0] + won[2][0] + won[2][1]) / 3
            hard = (won[0][1] + won[0][2] + won[1][2]) / 3
            normal = (won[0][0] + won[1][1] + won[2][2]) / 3
            domains.setdefault(line["subset"], []).append((easy + normal + hard) / 3)
        return float(np.mean([np.mean(own) for own in domains.values()]))
    if name == "judgebench":
        return float(np.mean([line["scores"][0] > line["scores"][1] for line in lines]))
    return None if name == "ppe" else float(np.mean(list(means.values())))  # as many rows in each set
