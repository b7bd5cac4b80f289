"""The model card: one page for the whole chain, and the metadata that the Hub reads.

Everything that a model or a user wrote stands in it as text, escaped (`rlhf.evaluation.reporting.report.cell`).
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rlhf.config import PublishStage, Weights
from rlhf.errors import HubError
from rlhf.evaluation.reporting.report import cell
from rlhf.evaluation.reporting.tables import keys_of, label
from rlhf.publishing import licenses, lineage, sections
from rlhf.publishing.lineage import Link
from rlhf.publishing.scrub import Scrubber
from rlhf.publishing.snippets import snippet
from rlhf.runs.parents import HUB_ID
from rlhf.storage.manifest import read_manifest

USES = {
    "base": "It continues text; no template has taught it turns. It is what the next stages start from.",
    "sft": "It answers in the manner of its demonstrations. The stages after it are measured against it.",
    "reward": "It scores responses to compare them with each other, for training and for choosing among samples. A "
    "score means nothing by itself, nor between reward models.",
    "dpo": "It answers in the manner that its preference pairs prefer: for research into alignment, and for assistance "
    "like that in its data.",
    "ppo": "It answers in the manner that its reward model scores highly: for research into alignment, and for "
    "assistance like that in its data.",
}
LIMITS = {
    "base": ["It was not taught to answer, to decline or to stop."],
    "sft": ["It imitates its demonstrations, their mistakes included."],
    "reward": [
        "It is a learned proxy: a policy that follows it too far loses what it stands for (https://arxiv.org/abs/2210.10760).",
        "Outside of the prompts and responses that it was trained on its scores are not to be relied on.",
    ],
    "dpo": ["It knows no more than the model that it started from; preferences change which answers it prefers."],
    "ppo": [
        "It knows no more than the model that it started from; the reward changes which answers it prefers.",
        "Its reward model is a learned proxy, and responses that the proxy overrates are overrepresented.",
    ],
}
EVERY_LIMIT = (
    "It can be wrong, offensive or biased, as its data and its starting model can: check before relying on it.",
    "It was not tested for any use in which a mistake harms somebody.",
)


@dataclass(frozen=True)
class Subject:
    """What a card is about. ``chain`` ends with the run itself, as published; ``tag`` names exactly these weights."""

    name: str
    repo: str | None
    tag: str
    chain: Sequence[Link]
    source: Link
    stage: PublishStage
    parameters: int
    has_template: bool
    figure: bool
    comparison: Path | None

    @property
    def link(self) -> Link:
        return self.chain[-1]


def write(subject: Subject, scrubber: Scrubber, path: Path) -> None:
    """
    Raises:
        HubError: the card's metadata name a local path, or something else that the Hub would refuse.
    """
    found = sections.licenses_of(subject.chain, subject.stage.licenses)
    license = subject.stage.license or licenses.strictest(found)
    found = {scrubber.text(title): name for title, name in found.items()}
    content = f"---\n{metadata(subject, license)}\n---\n\n{body(subject, scrubber, license, found)}"
    check(content)
    path.write_text(content, encoding="utf-8")


def body(subject: Subject, scrubber: Scrubber, license: str, found: dict[str, str]) -> str:
    """The page below its metadata."""

    def safe(text: str) -> str:
        return cell(scrubber.text(text))

    link, chain, name = subject.link, subject.chain, subject.repo or subject.name
    # The page is Markdown: what others wrote is escaped by `safe`, and HTML's escapes would show in its code.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=False
    )
    text = environment.get_template("card.md.jinja").render(
        name=subject.name,
        repo=name,
        revision=subject.tag,
        stage=link.stage,
        summary=summary(subject),
        chain=list(sections.links(chain, safe)),
        snippet=snippet(name, subject.tag, link.stage, subject.stage.weights, subject.has_template),
        gguf=subject.stage.weights is Weights.merged,
        statistics=[f"{link.metrics.get(key, 0.0):.4g}" for key in ("scores/mean", "scores/std")],
        data=list(sections.data(chain, safe)),
        evaluation=sections.evaluation(subject.comparison, subject.source.digest, safe),
        figure=subject.figure,
        samples=sections.samples(subject.source.directory, subject.stage.samples, safe),
        rungs=[sections.rung(one, safe) for one in chain if one.stage is not None],
        use=USES[link.stage],
        limits=[size(subject), *LIMITS[link.stage], *EVERY_LIMIT],
        license=safe(license),
        licenses=[[safe(title), safe(name)] for title, name in found.items()],
        conflicts=[safe(told) for told in licenses.conflicts(license, found)],
        commands=commands(chain, scrubber),
        versions=versions(link),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def summary(subject: Subject) -> str:
    link = subject.link
    above = lineage.with_weights(subject.chain[:-1], link.roles.get("policy"))
    start = f", trained from {above.title}" if above else ""
    form = "an adapter" if subject.stage.weights is Weights.adapter else "a model"
    return (
        f"The `{link.stage}` stage of the chain *{cell(link.manifest['name'])}*: {form} of "
        f"{size_of(subject.parameters)} parameters{cell(start)}, with seed {link.manifest['seed']}."
    )


def size_of(parameters: int) -> str:
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if parameters >= unit:
            return f"{parameters / unit:.3g} {name}"
    return f"{parameters:,}"


def size(subject: Subject) -> str:
    return f"It has {size_of(subject.parameters)} parameters: what its data did not teach it, it may make up."


def commands(chain: Sequence[Link], scrubber: Scrubber) -> list[str]:
    """The command of every run of the chain that is known, in the order in which they have to be run."""
    found = [
        quoted(scrubber.text(one.manifest["command"])) for one in chain if one.manifest and one.manifest["command"]
    ]
    return [command for command in found if command is not None]


def quoted(command: str) -> str | None:
    """``command`` on one line, every argument quoted for a shell; None where it is none of ours.

    A run.json from the Hub may say anything, and somebody will paste it.
    """
    try:
        parts = shlex.split(command)
    except ValueError:
        parts = command.split()
    ours = parts[:3] == ["python", "-m", "rlhf"]
    return " ".join(shlex.join(parts).split()) if ours else None


def versions(link: Link) -> str:
    """With which code and packages it was run."""
    found = ", ".join(f"{name} {version}" for name, version in link.manifest.get("versions", {}).items())
    revision = link.manifest.get("git")
    code = f"Code at git revision `{revision}`. " if revision else ""
    return f"{code}Versions: {found}." if found else code


def metadata(subject: Subject, license: str) -> str:
    """The YAML at the top of the card, as huggingface_hub writes it."""
    link, adapter = subject.link, subject.stage.weights is Weights.adapter
    base = base_model(subject)
    ids = [one["id"] for one in sections.sources(subject.chain).values() if one["id"]]
    found = ModelCardData(
        base_model=base,
        base_model_relation=None if base is None else "adapter" if adapter else "finetune",
        datasets=ids or None,
        library_name="peft" if adapter else "transformers",
        license=license,
        pipeline_tag="text-classification" if link.stage == "reward" else "text-generation",
        tags=["rlhf", link.stage, *(["reward-model"] if link.stage == "reward" else [])],
        model_name=subject.name,
        eval_results=results(subject) or None,
    )
    return found.to_yaml()


def base_model(subject: Subject) -> str | None:
    """The nearest model on the Hub that this one was trained from; None where there is none."""
    digest, above = subject.link.roles.get("policy"), list(subject.chain[:-1])
    while digest is not None:
        link = lineage.with_weights(above, digest)
        if link is None or link.repo is not None:
            return None if link is None else link.repo
        digest, above = link.roles.get("policy"), above[: above.index(link)]
    return None


def results(subject: Subject) -> list[EvalResult]:
    """What the Hub lists beside it: its column of the comparison, or what the stage measured on held-out rows."""
    link = subject.link
    task = "text-classification" if link.stage == "reward" else "text-generation"
    table = sections.compared(subject.comparison, subject.source.digest)
    by_comparison = table is not None and table["column"] is not None
    measured_by = read_manifest(subject.comparison) if by_comparison else subject.source.manifest
    shared = {"task_type": task} | dict.fromkeys(("dataset_type", "dataset_name"), data_name(measured_by))
    if by_comparison:
        measured = table["models"][table["column"]]
        return [
            EvalResult(
                **shared,
                metric_type=key,
                metric_name=label(key, table["reference"], table["temperature"])[0] + interval(measured[key]),
                metric_value=mean(measured[key]),
            )
            for key in keys_of({table["column"]: measured})
        ]
    held_out = {key: value for key, value in link.metrics.items() if key.startswith(("eval/", "test/"))}
    return [
        EvalResult(**shared, metric_type=key, metric_name=key, metric_value=value) for key, value in held_out.items()
    ]


def data_name(manifest: dict[str, Any]) -> str:
    """What a run was measured on: an id on the Hub, a user's own file by its name, else the name of ``data=``."""
    name = str(manifest["settings"]["data"]["name"])
    read = next(iter(sections.sources([Link(None, manifest)]).values()), None)
    if read is not None and read["id"]:
        return read["id"]
    if read is not None and name not in Path(read["path"]).parts:
        name = Path(read["path"]).name.partition(".")[0]
    return re.sub(r"[^\w.-]", "-", name)


def mean(value: float | dict[str, float]) -> float:
    return value["mean"] if isinstance(value, dict) else value


def interval(value: float | dict[str, float]) -> str:
    return f", 95 % interval {value['low']:.3g} to {value['high']:.3g}" if isinstance(value, dict) else ""


def check(content: str) -> None:
    """What can be checked without the Hub, whose own check of the metadata comes before anything is committed.

    Raises:
        HubError: the metadata are no YAML, or an id in them cannot be one on the Hub.
    """
    try:
        data = ModelCard(content).data
        ids = [
            *([data.base_model] if isinstance(data.base_model, str) else data.base_model or ()),
            *(data.datasets or ()),
        ]
        for id in ids:
            if Path(id).exists() or HUB_ID.fullmatch(id) is None:
                raise HFValidationError(f"{id} is a path of this machine and no id on the Hub")
            validate_repo_id(id)
    except (ValueError, HFValidationError) as error:
        raise HubError(
            f"the card cannot be published ({str(error).splitlines()[0]}): publish the chain with stage.publish=chain, "
            "or name its root with stage.base=org/name"
        ) from error
