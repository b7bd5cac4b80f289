"""Upload a finished run to the Hugging Face Hub, with a card for the whole chain, and check that it loads from there.

    python -m rlhf stage=publish                               # dry run: writes folder and card
    python -m rlhf stage=publish stage.repo=me/almanac-ppo     # private, in one commit, tagged
    python -m rlhf stage=publish stage.repo=me/almanac-ppo stage.publish=chain

Safe to repeat: uploaded files are not sent again, and commits that were not made here are never overwritten.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
from rich.table import Table
from rich.text import Text

from rlhf.config import Publish, PublishStage, Settings, Weights
from rlhf.console import console
from rlhf.errors import LineageError
from rlhf.publishing import bundle, lineage, sections, upload
from rlhf.publishing.bundle import Bundle, Plan
from rlhf.publishing.lineage import Link
from rlhf.publishing.scrub import Scrubber
from rlhf.publishing.upload import Destination
from rlhf.publishing.verify import verify
from rlhf.runs.directory import BUNDLES
from rlhf.runs.run import Run


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Build a bundle per repository, upload it unless dry, and return the number of files and bytes."""
    stage = settings.stage_as(PublishStage)
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()  # it warns about unchanged files
    chain = lineage.rooted(lineage.chain(run["run"]), stage.run, stage.base)
    subject = chain[-1]
    manifest: Any = subject.manifest  # a published run has one
    if subject.digest is not None and subject.digest == subject.roles.get("policy"):
        unchanged = f"publish: {subject.title} has the weights that it started from: training changed nothing"
        console.print(unchanged, markup=False, soft_wrap=True)
    rising = lineage.going_up(chain, stage.publish)
    names = lineage.repositories(rising, stage.repo)
    if not stage.dry:
        upload.preflight([destination(names[link.key], link is subject, stage) for link in rising])
    scrubber = Scrubber.of([one.manifest["settings"].get("checkpoints", "") for one in chain if one.manifest])
    comparison = Path(run["compare"].path) if "compare" in run.parents else None
    export = Path(run["export"].path) if "export" in run.parents else None
    if stage.export is not None and sections.certificate(export, subject.digest, str) is None:
        raise LineageError(f"stage.export={stage.export} is not an export of {stage.run}: set an export of it, or null")
    above: list[Link] = []
    sent, files, size = [], 0, 0
    for link in chain:
        own = stage if link is subject else replace(stage, weights=Weights.merged)
        plan = Plan(own, settings.model, tuple(above), scrubber, comparison, export)
        if link not in rising:
            above.append(bundle.kept(link, plan))
            continue
        repo = names[link.key]
        folder = run.work / BUNDLES / repo.rpartition("/")[2]
        folder.mkdir(parents=True)
        built = bundle.build(link, repo if stage.repo else None, folder.name, folder, plan)
        show(built, destination(repo, link is subject, stage), stage, run.directory / BUNDLES / folder.name)
        files, size = files + len(built.files), size + built.size
        if not stage.dry:
            sent.append(put(built, link, destination(repo, link is subject, stage), plan, run.work))
        commit = sent[-1]["commit"] if sent else None
        above.append(replace(built.link, commit=commit))
    run.manifest["published"] = sent
    if stage.publish is Publish.chain and stage.repo is not None and not stage.dry:
        title = stage.collection or manifest["name"]
        address = upload.collect(title, [one["repo"] for one in sent], destination(stage.repo, True, stage))
        console.print(f"publish: the collection is {address}", markup=False, soft_wrap=True)
    return {"repositories": len(rising), "files": files, "bytes": size}


def destination(repo: str, is_subject: bool, stage: PublishStage) -> Destination:
    """Return the destination of one run. Tag and parent commit apply only to the published run, not to its parents."""
    tag, parent_commit = (stage.tag, stage.parent_commit) if is_subject else (None, None)
    return Destination(repo, stage.branch, stage.private, tag, parent_commit, stage.attempts, stage.wait)


def put(built: Bundle, link: Link, where: Destination, plan: Plan, work: Path) -> dict:
    """Upload a bundle, verify it by download, tag the commit, and delete the local copy of the weights."""
    commit = upload.send(built, where)
    if plan.stage.verify:
        verify(built, link, commit, where, plan, work)
    tags = upload.tag(commit, built, where)
    for path in built.folder.glob("*.safetensors"):
        path.unlink()
    same = ", fetched back and the same" if plan.stage.verify else ""
    console.print(
        f"publish: {where.title} is at {commit[:7]}, tagged {', '.join(tags)}{same}", markup=False, soft_wrap=True
    )
    return {"repo": where.repo, "branch": where.branch, "commit": commit, "tags": tags}


def show(built: Bundle, where: Destination, stage: PublishStage, place: Path) -> None:
    """Print the files of a bundle, their sizes and the destination."""
    table = Table()
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for name, path in built.files.items():
        table.add_row(Text(name), f"{path.stat().st_size:,}")
    table.add_row(Text(f"{len(built.files)} files"), f"{built.size:,}")
    console.print(table)
    kind, where_to = "private" if where.private else "public", where.title if stage.repo else "stage.repo=<you>/<name>"
    remedy = f"dry_run=false sends it to {where_to} ({kind})" if stage.repo else f"{where_to} sends it"
    if stage.dry:
        console.print(
            f"publish: nothing was sent; {place}/README.md is the card, {remedy}", markup=False, soft_wrap=True
        )
    else:
        console.print(f"publish: uploading to {where.title} ({kind})", markup=False, soft_wrap=True)
