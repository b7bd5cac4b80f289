"""The model card: one page for the whole chain, and the metadata that the Hub reads.

Text by models and users is escaped (`rlhf.storage.markdown.cell`).
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
from rlhf.evaluation.reporting.tables import keys_of, label
from rlhf.publishing import licenses, lineage, sections
from rlhf.publishing.lineage import Link
from rlhf.publishing.scrub import Scrubber
from rlhf.publishing.snippets import snippet
from rlhf.publishing.statements import EVERY_LIMIT, LIMITS, TYPES, USES
from rlhf.runs.headlines import LABELS, RESULTS
from rlhf.runs.parents import HUB_ID
from rlhf.storage.manifest import read_manifest
from rlhf.storage.markdown import cell, table


@dataclass(frozen=True)
class Subject:
    """The published run of a card. ``chain`` ends with the run itself; ``tag`` identifies its weights."""

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
    export: Path | None = None

    @property
    def link(self) -> Link:
        """The published run."""
        return self.chain[-1]


def write(subject: Subject, scrubber: Scrubber, path: Path) -> None:
    """Write the card of ``subject`` to ``path``.

    Raises:
        HubError: the card's metadata contain a local path or anything else that the Hub refuses.
    """
    stated = sections.licenses_of(subject.chain, subject.stage.licenses)
    license = subject.stage.license or licenses.strictest(stated)
    stated = {scrubber.text(title): name for title, name in stated.items()}
    content = f"---\n{metadata(subject, license)}\n---\n\n{body(subject, scrubber, license, stated)}"
    check(content)
    path.write_text(content, encoding="utf-8")


def body(subject: Subject, scrubber: Scrubber, license: str, stated: dict[str, str]) -> str:
    """Return the page below its metadata; ``stated``: license of each model and data set of the chain."""

    def safe(text: str) -> str:
        return cell(scrubber.text(text))

    link, chain, name = subject.link, subject.chain, subject.repo or subject.name
    stage = link.run["stage"]
    # The page is Markdown: `safe` escapes foreign text; HTML escapes would be visible in code blocks.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=False
    )
    text = environment.get_template("card.md.jinja").render(
        table=lambda headings, rows: "\n".join(table(headings, rows, str)),
        name=subject.name,
        repo=name,
        revision=subject.tag,
        stage=stage,
        summary=summary(subject),
        chain=list(sections.links(chain, safe)),
        snippet=snippet(name, subject.tag, stage, subject.stage.weights, subject.has_template),
        gguf=subject.stage.weights is Weights.merged,
        statistics=[f"{link.metrics.get(key, 0.0):.4g}" for key in ("scores/mean", "scores/std")],
        data=list(sections.data(chain, safe)),
        evaluation=sections.evaluation(subject.comparison, subject.source.digest, safe),
        certificate=sections.certificate(subject.export, subject.source.digest, safe),
        figure=subject.figure,
        samples=sections.samples(subject.source.directory, subject.stage.samples, safe),
        rungs=[sections.rung(part, safe) for part in chain if part.stage is not None],
        use=USES[stage],
        limits=[size(subject), *LIMITS[stage], *EVERY_LIMIT],
        license=safe(license),
        licenses=[[safe(title), safe(name)] for title, name in stated.items()],
        conflicts=[safe(sentence) for sentence in licenses.conflicts(license, stated)],
        commands=commands(chain, scrubber),
        script=script(chain, scrubber),
        results=[[safe(str(one.metric_name)), f"{one.metric_value:.3g}"] for one in results(subject)],
        versions=versions(link),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def summary(subject: Subject) -> str:
    """Return the card's first sentence."""
    link = subject.link
    above = lineage.with_weights(subject.chain[:-1], link.roles.get("policy"))
    start = f", trained from {above.title}" if above else ""
    form = "an adapter" if subject.stage.weights is Weights.adapter else "a model"
    return (
        f"The `{link.stage}` stage of the chain *{cell(link.run['name'])}*: {form} of "
        f"{size_of(subject.parameters)} parameters{cell(start)}, with seed {link.run['seed']}."
    )


def size_of(parameters: int) -> str:
    """Return a number of parameters as text."""
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if parameters >= unit:
            return f"{parameters / unit:.3g} {name}"
    return f"{parameters:,}"


def size(subject: Subject) -> str:
    """Return the limitation that follows from the model's size."""
    return f"It has {size_of(subject.parameters)} parameters and may make up facts that are not in its data."


def commands(chain: Sequence[Link], scrubber: Scrubber) -> list[str]:
    """Return the known commands of the chain's runs, in the order in which to run them."""
    recorded = [link.manifest["command"] for link in chain if link.manifest and link.manifest["command"]]
    return [safe for command in recorded if (safe := quoted(scrubber.text(command))) is not None]


def script(chain: Sequence[Link], scrubber: Scrubber) -> str:
    """Return the installation and the commands of the chain; empty if no command is known."""
    found, revision = commands(chain, scrubber), chain[-1].run.get("git")
    commit = re.match(r"[0-9a-f]{7,40}", revision or "")
    checkout = f"a checkout of rlhf at git revision {commit[0]}" if commit else "a checkout of rlhf"
    install = [f"# in {checkout}", "pip install -e . -c constraints.txt"]
    return "\n".join([*install, *found]) if found else ""


def quoted(command: str) -> str | None:
    """Return ``command`` on one line with its arguments quoted for a shell, or None for another program.

    A run.json from the Hub may contain any command, and readers paste commands.
    """
    try:
        parts = shlex.split(command)
    except ValueError:
        parts = command.split()
    ours = parts[:3] == ["python", "-m", "rlhf"]
    return " ".join(shlex.join(parts).split()) if ours else None


def versions(link: Link) -> str:
    """Return the code revision and the versions of packages that the run used."""
    packages = ", ".join(f"{name} {version}" for name, version in link.run.get("versions", {}).items())
    revision = link.run.get("git")
    code = f"Code at git revision `{revision}`. " if revision else ""
    return f"{code}Versions: {packages}." if packages else code


def metadata(subject: Subject, license: str) -> str:
    """Return the YAML at the top of the card."""
    link, adapter = subject.link, subject.stage.weights is Weights.adapter
    base = base_model(subject)
    ids = [source["id"] for source in sections.sources(subject.chain).values() if source["id"]]
    return ModelCardData(
        base_model=base,
        base_model_relation=None if base is None else "adapter" if adapter else "finetune",
        datasets=ids or None,
        library_name="peft" if adapter else "transformers",
        license=license,
        pipeline_tag="text-classification" if link.stage == "reward" else "text-generation",
        tags=["rlhf", link.run["stage"], *(["reward-model"] if link.stage == "reward" else [])],
        model_name=subject.name,
        eval_results=results(subject) or None,
    ).to_yaml()


def base_model(subject: Subject) -> str | None:
    """Return the nearest ancestor on the Hub, or None."""
    digest, above = subject.link.roles.get("policy"), list(subject.chain[:-1])
    while digest is not None:
        link = lineage.with_weights(above, digest)
        if link is None or link.repo is not None:
            return None if link is None else link.repo
        digest, above = link.roles.get("policy"), above[: above.index(link)]
    return None


def results(subject: Subject) -> list[EvalResult]:
    """Return the main metrics, which the Hub lists: of the comparison, or the held-out ones of the stage.

    run.json has all metrics, and the card's tables show them.
    """
    link = subject.link
    task = "text-classification" if link.stage == "reward" else "text-generation"
    table = sections.compared(subject.comparison, subject.source.digest)
    if subject.comparison is not None and table is not None and table["column"] is not None:
        shared = measured_on(task, read_manifest(subject.comparison) or {})
        measured = table["models"][table["column"]]
        keys = [key for key in keys_of({table["column"]: measured}) if sections.is_main(key)]
        return [
            EvalResult(
                **shared,
                metric_type=key.partition("/")[0],
                metric_name=label(key, table["reference"], table["temperature"]).label + interval(measured[key]),
                metric_value=mean(measured[key]),
            )
            for key in keys
        ]
    shared = measured_on(task, subject.source.run)
    keys = [next((key for key in ways if key in link.metrics), None) for ways in RESULTS.get(link.run["stage"], ())]
    return [
        EvalResult(**shared, metric_type=TYPES.get(key, key), metric_name=LABELS[key], metric_value=link.metrics[key])
        for key in keys
        if key is not None and key != "steps"
    ]


def measured_on(task: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of every metric that a run measured."""
    return {"task_type": task} | dict.fromkeys(("dataset_type", "dataset_name"), data_name(manifest))


def data_name(manifest: dict[str, Any]) -> str:
    """Return the name of the data that a run measured on: a Hub id, the name of a local file, or that of ``data=``."""
    name = str(manifest["settings"]["data"]["name"])
    read = next(iter(sections.sources([Link(None, manifest)]).values()), None)
    if read is not None and read["id"]:
        return read["id"]
    if read is not None and name not in Path(read["path"]).parts:
        name = Path(read["path"]).name.partition(".")[0]
    return re.sub(r"[^\w.-]", "-", name)


def mean(value: float | dict[str, float]) -> float:
    """Return the mean of a metric with or without an interval."""
    return value["mean"] if isinstance(value, dict) else value


def interval(value: float | dict[str, float]) -> str:
    """Return the interval of a metric as text, "" without one."""
    return f", 95 % interval {value['low']:.3g} to {value['high']:.3g}" if isinstance(value, dict) else ""


def check(content: str) -> None:
    """Check the metadata offline; the Hub checks them again before it accepts a commit.

    Raises:
        HubError: the metadata are not YAML, or contain an invalid Hub id.
    """
    try:
        data: Any = ModelCard(content).data
        ids = [
            *([data.base_model] if isinstance(data.base_model, str) else data.base_model or ()),
            *(data.datasets or ()),
        ]
        for id in ids:
            if Path(id).exists() or HUB_ID.fullmatch(id) is None:
                raise HFValidationError(f"{id} is a local path, not a Hub id")
            validate_repo_id(id)
    except (ValueError, HFValidationError) as error:
        raise HubError(
            f"the card cannot be published ({str(error).splitlines()[0]}): publish the chain with stage.publish=chain, "
            "or name its root with stage.base=org/name"
        ) from error
