"""Put a finished run on the Hugging Face Hub, with a card for the whole chain, and fetch it back to see that it loads.

    python -m rlhf stage=publish                               # nothing is sent: the folder and the card, for a look
    python -m rlhf stage=publish stage.repo=me/almanac-ppo     # private, in one commit, tagged
    python -m rlhf stage=publish stage.repo=me/almanac-ppo stage.publish=chain

Safe to repeat: what is up already is not sent again, and nothing is put over a commit that was not made here.
"""

from dataclasses import replace
from pathlib import Path

import huggingface_hub
from rich.table import Table
from rich.text import Text

from rlhf.config import Publish, PublishStage, Settings, Weights
from rlhf.console import console
from rlhf.publishing import bundle, lineage, upload
from rlhf.publishing.bundle import Bundle, Plan
from rlhf.publishing.lineage import Link
from rlhf.publishing.scrub import Scrubber
from rlhf.publishing.upload import Destination
from rlhf.publishing.verify import verify
from rlhf.runs.directory import BUNDLES
from rlhf.runs.run import Run


def run(settings: Settings, run: Run) -> dict[str, float]:
    stage = settings.stage
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()  # that nothing has changed is no warning here
    chain = lineage.rooted(lineage.chain(run["run"]), stage.run, stage.base)
    subject = chain[-1]
    if subject.digest is not None and subject.digest == subject.roles.get("policy"):
        told = f"publish: {subject.title} has the weights that it started from: training changed nothing"
        console.print(told, markup=False, soft_wrap=True)
    rising = lineage.going_up(chain, stage.publish)
    names = lineage.repositories(rising, stage.repo)
    if not stage.dry:
        upload.preflight([destination(names[link.key], link is subject, stage) for link in rising])
    scrubber = Scrubber.of([one.manifest["settings"].get("checkpoints", "") for one in chain if one.manifest])
    comparison = Path(run["compare"].path) if "compare" in run.parents else None
    above: list[Link] = []
    sent, files, size = [], 0, 0
    for link in chain:
        own = stage if link is subject else replace(stage, weights=Weights.merged)
        plan = Plan(own, settings.model, tuple(above), scrubber, comparison)
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
    if stage.publish is Publish.chain and not stage.dry:
        title = stage.collection or subject.manifest["name"]
        address = upload.collect(title, [one["repo"] for one in sent], destination(stage.repo, True, stage))
        console.print(f"publish: the collection is {address}", markup=False, soft_wrap=True)
    return {"repositories": len(rising), "files": files, "bytes": size}


def destination(repo: str, is_subject: bool, stage: PublishStage) -> Destination:
    """Tag and commit are given for the run that is asked for, and for none of its parents."""
    own = {"tag": stage.tag, "parent_commit": stage.parent_commit}
    shared = {"branch": stage.branch, "private": stage.private, "attempts": stage.attempts, "wait": stage.wait}
    return Destination(repo, **shared, **(own if is_subject else dict.fromkeys(own)))


def put(built: Bundle, link: Link, where: Destination, plan: Plan, work: Path) -> dict:
    """Send, fetch back and compare, tag. The weights need not lie here a second time."""
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
    """What goes, how large it is, and where to."""
    table = Table()
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for name, path in built.files.items():
        table.add_row(Text(name), f"{path.stat().st_size:,}")
    table.add_row(Text(f"{len(built.files)} files"), f"{built.size:,}")
    console.print(table)
    kind, where_to = "private" if where.private else "public", where.title if stage.repo else "stage.repo=<you>/<name>"
    told = f"to be sent to {where_to} ({kind}) with dry_run=false" if stage.repo else f"{where_to} sends it"
    if stage.dry:
        console.print(f"publish: nothing was sent; {place}/README.md is the card, {told}", markup=False, soft_wrap=True)
    else:
        console.print(f"publish: going to {where.title} ({kind})", markup=False, soft_wrap=True)
