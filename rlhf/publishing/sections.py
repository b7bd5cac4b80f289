"""The tables of the card, as rows of Markdown: the chain, its data, settings, metrics and samples.

``safe`` makes a cell of a foreign text: without secrets, and escaped.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlhf.config.publish import COMMIT
from rlhf.errors import HubError
from rlhf.evaluation.reporting.report import written
from rlhf.evaluation.reporting.tables import keys_of, label
from rlhf.hub.pinned import pin
from rlhf.publishing import licenses
from rlhf.publishing.lineage import Link
from rlhf.runs.identity import flatten
from rlhf.runs.parents import HUB_ID
from rlhf.storage.manifest import read_manifest

Safe = Callable[[str], str]

SHORT = 12  # hexadecimal digits of a digest or a commit
# Settings of stages that are not hyperparameters: paths, logging, samples, diagnoses, the report card; and of
# reward terms, connections. run.json has all settings.
NO_HYPERPARAMETERS = (
    "name", "policy", "reward", "branch_from", "keep_every", "teacher", "models", "sample_every", "sample_prompts",
    "sample_length", "log_every", "save_every",
    "sentinel", "rollout", "reward_defaults", "probe_rows", "tfidf_pairs", "calibration_bins", "bootstrap",
    "statistics_prompts", "statistics_temperature",
)  # fmt: skip
OF_LOGGING = ("trainer.logging_steps", "trainer.save_steps", "trainer.per_device_eval_batch_size")
MAIN = ("gold", "reward", "kl")  # of a comparison, beside the win rates
METHODS = {
    "base": "next-token prediction, from random weights or continued",
    "sft": "supervised fine-tuning on demonstrations, loss on completions only",
    "reward": "a reward model on preference pairs: -log sigmoid(r(chosen) - r(rejected))",
    "dpo": "direct preference optimization, Rafailov et al. 2023, https://arxiv.org/abs/2305.18290",
    "kto": "Kahneman-Tversky optimization, Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306",
    "online_dpo": "DPO in rounds on the policy's own responses, Dong et al. 2024, https://arxiv.org/abs/2405.07863",
    "raft": "fine-tuning on the best of K responses, Dong et al. 2023, https://arxiv.org/abs/2304.06767",
    "ppo": "proximal policy optimization against the reward model, Ziegler et al. 2019, https://arxiv.org/abs/1909.08593",
    "merge": "an average of weights, Wortsman et al. 2022, https://arxiv.org/abs/2203.05482",
}


def links(chain: Sequence[Link], safe: Safe) -> Iterator[list[str]]:
    """Yield stage, place, revision or digest, seed and method of each run or model."""
    for link in chain:
        linked = link.repo is not None and HUB_ID.fullmatch(link.repo) is not None  # an id contains no markup
        place = f"[{link.repo}](https://huggingface.co/{link.repo})" if linked else f"{safe(link.title)}, not published"
        if link is chain[-1]:
            mark = f"weights `{link.run['weights'][:SHORT]}`"
        elif link.commit and COMMIT.fullmatch(link.commit):
            mark = f"revision `{link.commit[:SHORT]}`"
        elif link.repo:
            mark = "revision not recorded"
        else:
            mark = f"weights `{link.digest[:SHORT]}`" if link.digest else "no weights in safetensors"
        if link.stage is None:
            yield ["start", place, mark, "", "trained by others" if link.repo else "trained elsewhere"]
        else:
            seed = "" if link.run["seed"] is None else safe(str(link.run["seed"]))
            yield [safe(link.stage), place, mark, seed, METHODS.get(link.stage, "")]


def sources(chain: Sequence[Link]) -> dict[str, dict[str, Any]]:
    """Return title -> data source of the chain: Hub ``id`` or None, ``commit``, ``path``, ``digest``, ``rows``."""
    found: dict[str, dict[str, Any]] = {}
    for link in chain:
        for kind, splits in (link.manifest or {}).get("data", {}).items():
            data = link.run["settings"]["data"]
            own = data.get(kind, {})
            mixed = own.get("mix")
            path = data["path"] or own.get("path") or ", ".join(mixed if isinstance(mixed, dict) else [kind])
            digest = str(link.run.get("content", {}).get(f"files.{kind}", ""))
            hub = HUB_ID.fullmatch(path) if "@" in digest or not digest else None
            id, _, commit = digest.partition("@") if "@" in digest else (hub["id"] if hub else "", "", "")
            source = {"id": id or None, "commit": commit, "path": path, "digest": digest, "rows": []}
            rows = found.setdefault(id or path, source)["rows"]
            rows += [(link.stage, kind, split, facts) for split, facts in splits.items()]
    return found


def data(chain: Sequence[Link], safe: Safe) -> Iterator[list[str]]:
    """Yield data set, revision or digest, stage, split, rows, and omissions."""
    for title, source in sources(chain).items():
        mark = f"revision `{source['commit'][:SHORT]}`" if source["commit"] else f"files `{source['digest'][:SHORT]}`"
        mark = mark if source["commit"] or source["digest"] else "revision not recorded"
        for stage, kind, split, facts in source["rows"]:
            others = {key: value for key, value in facts.items() if key not in ("rows", "fingerprint") and value}
            lost = "; ".join(f"{value} {key}" for key, value in others.items())
            yield [safe(title), mark, stage, f"{kind}, {split}", f"{facts['rows']:,}", safe(lost)]


def licenses_of(chain: Sequence[Link], table: dict[str, str]) -> dict[str, str]:
    """Return title -> license of each data source and each model that is not a run, from the Hub or else ``table``."""
    found = {}
    for link in chain:
        if link.stage is None:
            found[link.title] = _asked(link.repo, link.commit, "model") or licenses.listed(
                link.repo or link.path, table
            )
    for title, source in sources(chain).items():
        stated = _asked(source["id"], source["commit"], "dataset")
        found[title] = stated or licenses.listed(source["id"] or source["path"], table)
    return found


def _asked(id: str | None, commit: str | None, kind: str) -> str | None:
    """Return the license on the Hub; None if the page is missing or not accessible, which the card shows as unknown."""
    try:
        pinned = pin(id, commit or None, kind) if id else None
    except HubError:
        return None
    return pinned.license if pinned else None


def hyperparameters(link: Link, safe: Safe) -> Iterator[list[str]]:
    """Yield setting and value of a run's hyperparameters."""
    settings = link.run["settings"]
    if not settings:
        return
    stage = {key: value for key, value in settings["stage"].items() if key not in NO_HYPERPARAMETERS}
    adapter = settings["adapter"]
    shown = flatten(stage) | ({} if adapter["kind"] == "none" else flatten({"adapter": adapter}))
    for key, value in shown.items():
        connects = ".remote." in key and not key.endswith(".url")
        if value is not None and key not in OF_LOGGING and not connects:
            yield [code(key, safe), safe(json.dumps(value) if isinstance(value, list | dict) else str(value))]


def metrics(link: Link, safe: Safe) -> Iterator[list[str]]:
    """Yield name and value of a run's final metrics."""
    for key, value in link.metrics.items():
        if key != "objective" and isinstance(value, int | float):
            yield [code(key, safe), f"{value:.4g}"]


def code(name: str, safe: Safe) -> str:
    """Return a name in Markdown's code font if it contains no markup."""
    return f"`{name}`" if re.fullmatch(r"[\w./-]+", name) else safe(name)


def rung(link: Link, safe: Safe) -> dict[str, Any]:
    """Return the settings and the metrics of one stage."""
    title = f"{safe(link.title)}: {METHODS.get(link.run['stage'], '')}"
    return {"title": title, "settings": list(hyperparameters(link, safe)), "metrics": list(metrics(link, safe))}


def compared(comparison: Path | None, digest: str | None) -> dict[str, Any] | None:
    """Return the metrics of stage=compare if it included the model with these weights, else None.

    ``column`` is the model's title in the comparison, or None for the reward model, which has no column.
    """
    manifest = None if comparison is None else read_manifest(comparison)
    if comparison is None or manifest is None:
        return None
    titles = [title for title, record in manifest["parents"].items() if record["digest"] == digest]
    if not titles:
        return None
    found = json.loads((comparison / "metrics.json").read_text(encoding="utf-8"))
    return found | {"column": next((title for title in titles if title in found["models"]), None)}


def is_main(key: str) -> bool:
    """Return whether a metric of a comparison is one that a reader looks for first."""
    return key in MAIN or (key.startswith("win_rate/") and "/lc/" not in key)


def evaluation(comparison: Path | None, digest: str | None, safe: Safe) -> dict[str, Any] | None:
    """Return the comparison's main table and its questions for the card."""
    found = compared(comparison, digest)
    if found is None:
        return None
    models = found["models"]
    table, meanings = [], []
    for key in keys_of(models):
        heading, _, meaning = map(safe, label(key, found["reference"], found["temperature"]))
        table.append([heading, *(number(row.get(key)) for row in models.values())])
        meanings.append([heading, meaning])
    return {key: found[key] for key in ("prompts", "samples", "temperature", "seed")} | {
        "column": safe(found["column"] or "reward model"),
        "headings": ["", *(safe(title) for title in models)],
        "rows": table,
        "meanings": meanings,
        "notes": [safe(note) for note in found["notes"]],
        "question_headings": ["question", *(safe(title) for title in models)],
        "questions": [
            [safe(text), *(safe(written(answers.get(title, ""))) for title in models)]
            for text, answers in found["questions"].items()
        ],
    }


def certificate(export: Path | None, digest: str | None, safe: Safe) -> dict[str, Any] | None:
    """Return the certificate of an export for the card, or None if it exports other weights or a reward model."""
    path = None if export is None else export / "certificate.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}
    if digest is None or found.get("weights") != digest or "readers" not in found:
        return None
    rows = [
        [safe(reader), one["tokens"], f"{one['kl_mean']:.2g}", f"{one['kl_max']:.2g}"]
        + [f"{one[key]:.1%}" for key in ("same_token", "same_answer")]
        for reader, one in found["readers"].items()
    ]
    return {
        "form": safe(f"{found['format']}, {found['precision']}"),
        "prompts": int(found["prompts"]),
        "limit": f"{found['limit']:g}",
        "headings": ["read by", "answer tokens", "KL per token", "largest KL", "equal tokens", "equal answers"],
        "rows": rows,
    }


def number(value: Any) -> str:
    """Return a metric as text, with its interval if it has one."""
    if value is None:
        return "–"
    if isinstance(value, dict):
        return f"{value['mean']:.2f} ({value['low']:.2f} to {value['high']:.2f})"
    return f"{value:.3g}"


def samples(directory: Path | None, most: int, safe: Safe) -> list[list[str]]:
    """Return up to ``most`` pairs of prompt and response, of the last step with samples."""
    path = None if directory is None else directory / "samples.jsonl"
    if path is None or not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    return [[safe(row["prompt"]), safe(written(row["completion"]))] for row in last[:most]]
