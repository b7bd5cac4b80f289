"""A run and everything that it descends from, oldest first: here, on the Hub, or known from a run.json alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlhf.config import Publish
from rlhf.errors import LineageError
from rlhf.hub.pinned import pin
from rlhf.runs.parents import Parent
from rlhf.storage.manifest import read_manifest


@dataclass(frozen=True)
class Link:
    """One rung of a chain. ``manifest`` is None for a model that is no run of ours, the root of most chains.

    ``directory`` is where the run lies here, ``repo`` and ``commit`` where it is on the Hub; either may be None.
    ``roles`` are its parents, role -> digest.
    """

    digest: str | None
    manifest: dict[str, Any] | None
    directory: Path | None = None
    repo: str | None = None
    commit: str | None = None
    path: str = ""

    @property
    def key(self) -> tuple[str | None, ...]:
        """What tells it from the others of a chain: training that changed nothing leaves the digest of its parent."""
        return self.digest, self.stage, self.title

    @property
    def stage(self) -> str | None:
        return None if self.manifest is None else self.manifest["stage"]

    @property
    def title(self) -> str:
        """What it is called where its path on this machine must not stand: ``almanac/sft``, or the model's own name."""
        if self.manifest is not None:
            return f"{self.manifest['name']}/{self.stage}"
        return self.repo or Path(self.path).name

    @property
    def roles(self) -> dict[str, str]:
        return {} if self.manifest is None else {role: one["digest"] for role, one in self.manifest["parents"].items()}

    @property
    def metrics(self) -> dict[str, float]:
        return {} if self.manifest is None else self.manifest["metrics"]

    @property
    def parent(self) -> Parent:
        """What rlhf.modeling.loading loads."""
        if self.directory is not None:
            return Parent("run", str(self.directory), self.manifest)
        return Parent("run", self.repo or self.path, self.manifest, self.commit)


def chain(parent: Parent) -> list[Link]:
    """``parent`` and its ancestors, each once, parents before children.

    An ancestor that is gone, or was trained again since, is a link that knows its digest and stage alone.
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
    """The ancestors that a published run.json holds, by their digests and stages."""
    held = (manifest or {}).get("lineage", [])
    return {(one["weights"], one["stage"]): Link(one["weights"], one, **one.get("published", {})) for one in held}


def _walk(link: Link, known: dict[tuple, Link], found: dict[tuple, Link], below: tuple[tuple, ...]) -> None:
    if link.key in found or link.key in below:
        return
    for record in (link.manifest or {}).get("parents", {}).values():
        above = _ancestor(record, known, here=link.directory is not None)
        _walk(above, known | _known(above.manifest), found, (*below, link.key))
    found[link.key] = link


def _ancestor(record: dict[str, Any], known: dict[str, Link], here: bool) -> Link:
    path, digest, revision = record["path"], record["digest"], record["revision"]
    held = digest, record["stage"]
    if "run" in record:
        return Link(digest, record["run"], repo=path, commit=revision, path=path)
    if held in known:
        return known[held]
    if record["stage"] is None:
        on_hub = revision is not None or "@" in (digest or "")
        return Link(digest, None, path=path, **({"repo": path, "commit": revision} if on_hub else {}))
    # Of what a run.json from the Hub says, nothing is looked for on this machine.
    manifest = read_manifest(Path(path)) if here else None
    if manifest is None or manifest.get("weights") != digest:
        return Link(digest, _stub(record), path=path)
    return Link(digest, manifest, Path(path), path=path)


def _stub(record: dict[str, Any]) -> dict[str, Any]:
    """What is left of a run that is gone."""
    name = Path(record["path"]).parent.name or "gone"
    return {"stage": record["stage"], "name": name, "weights": record["digest"], "parents": {}, "metrics": {}} | {
        "settings": {}, "data": {}, "seed": None, "command": None, "status": "gone",
    }  # fmt: skip


def with_weights(links: Sequence[Link], digest: str | None) -> Link | None:
    """The last link of a chain that has these weights, or had them before they were merged or cast for the Hub."""
    for one in reversed(links):
        before = None if one.manifest is None else one.manifest.get("trained_weights")
        if digest == one.digest or (digest is not None and digest == before):
            return one
    return None


def rooted(chain: list[Link], run: str, base: str | None) -> list[Link]:
    """The chain, a root that was read from a local folder named ``base``, as it is on the Hub; ``none``: it is not.

    Raises:
        LineageError: ``run`` is none, or nobody else could know what the root of its chain is.
    """
    if chain[-1].manifest is None:
        raise LineageError(f"stage.run={run} is no run of ours: give the directory of one")
    named = []
    for link in chain:
        local = link.stage is None and link.repo is None
        if local and base is None:
            raise LineageError(
                f"the chain starts from the local path {link.path}, which nobody else has: give stage.base=org/name, "
                "its Hub id, or stage.base=none where it is on no Hub"
            )
        if local and base != "none":
            id, _, revision = base.partition("@")
            pinned = pin(id, revision or None)
            link = replace(link, repo=id, commit=pinned.commit if pinned else revision or None)
        named.append(link)
    return named


def going_up(chain: list[Link], publish: Publish) -> list[Link]:
    """The runs that get a repository: the last, or every one that has none yet.

    Raises:
        LineageError: a run of the chain is neither here nor on the Hub.
    """
    if publish is Publish.run:
        return chain[-1:]
    for link in chain:
        if link.stage is not None and link.directory is None and link.repo is None:
            raise LineageError(
                f"stage.publish=chain needs every run of the chain, and {link.path or link.title} is gone or was "
                "trained again since: run what comes after it again, or give stage.publish=run"
            )
    return [link for link in chain[:-1] if link.stage is not None and link.repo is None] + chain[-1:]


def repositories(rising: list[Link], repo: str | None) -> dict[tuple, str]:
    """Key -> repository: ``repo`` for the last run, and for the others that name with their own stage at its end."""
    last = rising[-1]
    whole = repo or f"{last.manifest['name'].replace('/', '-')}-{last.stage}"
    stem = whole.removesuffix(f"-{last.stage}")
    found = {last.key: whole}
    for link in rising[:-1]:
        name = f"{stem}-{link.stage}"
        found[link.key] = name if name not in found.values() else f"{name}-{link.digest[:6]}"
    return found


def published(link: Link, repo: str, commit: str | None, manifest: dict[str, Any]) -> Link:
    """``link`` as it is on the Hub now, with the run.json that lies there."""
    return replace(link, digest=manifest["weights"], manifest=manifest, repo=repo, commit=commit)
