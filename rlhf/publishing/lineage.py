"""A run and its ancestors, oldest first: on this machine, on the Hub, or known only from a run.json."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlhf.config import Publish
from rlhf.errors import LineageError
from rlhf.hub.pinned import pin
from rlhf.runs.branches import available
from rlhf.runs.parents import Parent
from rlhf.storage.checksums import DIGESTS
from rlhf.storage.digests import file_digest
from rlhf.storage.manifest import read_manifest


@dataclass(frozen=True)
class Link:
    """One run or model of a chain. ``manifest`` is None for a model that is not a run, the root of most chains.

    ``directory`` is the local directory of the run, ``repo`` and ``commit`` its place on the Hub; either may be None.
    """

    digest: str | None
    manifest: dict[str, Any] | None
    directory: Path | None = None
    repo: str | None = None
    commit: str | None = None
    path: str = ""

    @property
    def key(self) -> tuple[str | None, ...]:
        """The identity within a chain; the digest is not enough, since training may change nothing."""
        return self.digest, self.stage, self.title

    @property
    def run(self) -> dict[str, Any]:
        """The run.json of a run."""
        assert self.manifest is not None, f"{self.path} is not a run"
        return self.manifest

    @property
    def stage(self) -> str | None:
        """The stage of a run, or None."""
        return None if self.manifest is None else self.manifest["stage"]

    @property
    def title(self) -> str:
        """A name without local paths: ``almanac/sft``, or the name of the model."""
        if self.manifest is not None:
            return f"{self.manifest['name']}/{self.stage}"
        return self.repo or Path(self.path).name

    @property
    def roles(self) -> dict[str, str]:
        """Role -> digest of each parent."""
        parents = {} if self.manifest is None else self.manifest["parents"]
        return {role: parent["digest"] for role, parent in parents.items()}

    @property
    def metrics(self) -> dict[str, float]:
        """The final metrics of a run."""
        return {} if self.manifest is None else self.manifest["metrics"]

    @property
    def parent(self) -> Parent:
        """The run or model for rlhf.modeling.loading."""
        if self.directory is not None:
            return Parent("run", str(self.directory), self.manifest)
        return Parent("run", self.repo or self.path, self.manifest, self.commit)


def chain(parent: Parent) -> list[Link]:
    """Return ``parent`` and its ancestors, each once, parents before children.

    An ancestor that is missing or has been trained again has only its digest and stage.
    """
    found: dict[tuple, Link] = {}
    _walk(_link(parent), _known(parent.manifest), found, ())
    return list(found.values())


def _link(parent: Parent) -> Link:
    here = parent.revision is None
    directory = Path(parent.path) if here and parent.manifest else None
    hub = {} if here else {"repo": parent.path, "commit": parent.revision}
    return Link(parent.digest, parent.manifest, directory, path=parent.path, **hub)


def _known(manifest: dict[str, Any] | None) -> dict[tuple, Link]:
    """Return the ancestors in a published run.json by digest and stage."""
    held = (manifest or {}).get("lineage", [])
    return {(run["weights"], run["stage"]): Link(run["weights"], run, **run.get("published", {})) for run in held}


def _walk(link: Link, known: dict[tuple, Link], found: dict[tuple, Link], below: tuple[tuple, ...]) -> None:
    if link.key in found or link.key in below:
        return
    for record in (link.manifest or {}).get("parents", {}).values():
        above = _ancestor(record, known, here=link.directory is not None)
        _walk(above, known | _known(above.manifest), found, (*below, link.key))
    found[link.key] = link


def _ancestor(record: dict[str, Any], known: dict[tuple, Link], here: bool) -> Link:
    path, digest, revision = record["path"], record["digest"], record["revision"]
    held = digest, record["stage"]
    if "run" in record:
        return Link(digest, record["run"], repo=path, commit=revision, path=path)
    if held in known:
        return known[held]
    if record["stage"] is None:
        on_hub = revision is not None or "@" in (digest or "")
        return Link(digest, None, path=path, **({"repo": path, "commit": revision} if on_hub else {}))
    # Paths in a run.json from the Hub are not read on this machine.
    manifest = read_manifest(Path(path)) if here else None
    if manifest is not None and _branched(Path(path), record):
        return Link(manifest["weights"], manifest, Path(path), path=path)
    if manifest is None or manifest.get("weights") != digest:
        return Link(digest, _stub(record), path=path)
    return Link(digest, manifest, Path(path), path=path)


def _branched(run: Path, record: dict[str, Any]) -> bool:
    """Whether ``run`` still has the update that a branch of it started from."""
    place = available(run).get(record.get("update", -1))
    return place is not None and file_digest(place / DIGESTS) == record["digest"]


def _stub(record: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a run that is missing."""
    name = Path(record["path"]).parent.name or "gone"
    return {"stage": record["stage"], "name": name, "weights": record["digest"], "parents": {}, "metrics": {}} | {
        "settings": {}, "data": {}, "seed": None, "command": None, "status": "gone",
    }  # fmt: skip


def with_weights(links: Sequence[Link], digest: str | None) -> Link | None:
    """Return the last link with these weights, or with weights that were merged or cast from them for the Hub."""
    for link in reversed(links):
        before = None if link.manifest is None else link.manifest.get("trained_weights")
        if digest == link.digest or (digest is not None and digest == before):
            return link
    return None


def rooted(chain: list[Link], run: str, base: str | None) -> list[Link]:
    """Return the chain with a local root replaced by the Hub model ``base``; unchanged if ``base`` is ``none``.

    Raises:
        LineageError: ``run`` is not a run, or its chain starts from a local model and ``base`` is None.
    """
    if chain[-1].manifest is None:
        raise LineageError(f"stage.run={run} is not a run: set the directory of one")
    named = []
    for link in chain:
        local = link.stage is None and link.repo is None
        if local and base is None:
            raise LineageError(
                f"the chain starts from the local path {link.path}, which nobody else has: set stage.base=org/name, "
                "its Hub id, or stage.base=none if it is not on the Hub"
            )
        if local and base is not None and base != "none":
            id, _, revision = base.partition("@")
            pinned = pin(id, revision or None)
            link = replace(link, repo=id, commit=pinned.commit if pinned else revision or None)
        named.append(link)
    return named


def going_up(chain: list[Link], publish: Publish) -> list[Link]:
    """Return the runs to upload: the last, or every one that is not on the Hub yet.

    Raises:
        LineageError: a run of the chain is neither on this machine nor on the Hub.
    """
    if publish is Publish.run:
        return chain[-1:]
    for link in chain:
        if link.stage is not None and link.directory is None and link.repo is None:
            raise LineageError(
                f"stage.publish=chain needs every run of the chain, and {link.path or link.title} is missing or has "
                "been trained again: run the later stages again, or set stage.publish=run"
            )
    return [link for link in chain[:-1] if link.stage is not None and link.repo is None] + chain[-1:]


def repositories(rising: list[Link], repo: str | None) -> dict[tuple, str]:
    """Return key -> repository: ``repo`` for the last run, and for the others the same name with another stage."""
    last = rising[-1]
    whole = repo or f"{last.run['name'].replace('/', '-')}-{last.stage}"
    stem = whole.removesuffix(f"-{last.stage}")
    found = {last.key: whole}
    for link in rising[:-1]:
        name = f"{stem}-{link.stage}"
        found[link.key] = name if name not in found.values() else f"{name}-{str(link.digest)[:6]}"
    return found


def published(link: Link, repo: str | None, commit: str | None, manifest: dict[str, Any]) -> Link:
    """Return ``link`` with its place on the Hub and the published run.json."""
    return replace(link, digest=manifest["weights"], manifest=manifest, repo=repo, commit=commit)
