"""A folder put on the Hub: in one commit or not at all, and never over a commit that was not made here.

The client does not retry the request that commits. The whole sequence is safe to repeat, because what is up already is
not sent again, so the whole sequence is what is repeated. A tag is set when the commit has been fetched back and
compared: an untagged commit is one that was not.
"""

import errno
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from rlhf.console import console
from rlhf.errors import HubError, RlhfError
from rlhf.hub.faults import FAULTS, chain, told, transient
from rlhf.publishing.bundle import Bundle
from rlhf.storage import digests

OURS = "rlhf: "  # how the title of every commit begins that this module makes
INITIAL = "initial commit"  # the Hub's own, of a new repository
KEPT = (".gitattributes",)
VERSION = re.compile(r"v(\d+)")
LONGEST_TITLE = 59  # of a collection

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Destination:
    """``parent_commit``: one of somebody else's, at the head of ``branch``, to go on top of."""

    repo: str
    branch: str
    private: bool
    tag: str | None
    parent_commit: str | None
    attempts: int
    wait: float

    @property
    def title(self) -> str:
        return self.repo if self.branch == "main" else f"{self.repo}@{self.branch}"


@cache
def client() -> HfApi:
    """The Hub's client. Its token is HF_TOKEN's or the login's; no setting takes one."""
    return HfApi(library_name="rlhf", library_version=digests.versions().get("rlhf"))


def persist(what: str, step: Callable[[], Answer], destination: Destination) -> Answer:
    """``step()``, again after a while where the Hub or the network fails.

    Raises:
        HubError: it is refused, or fails at every attempt.
    """
    for attempt in range(1, destination.attempts + 1):
        try:
            return step()
        except RlhfError:
            raise
        except FAULTS as error:
            if any(isinstance(one, OSError) and one.errno == errno.ENOSPC for one in chain(error)):
                raise  # a full disk is no matter of the Hub
            if attempt == destination.attempts or not transient(error):
                raise told(error, what) from error
            console.print(
                f"publish: {told(error, what)}; attempt {attempt + 1} of {destination.attempts}", markup=False
            )
            time.sleep(destination.wait * 2 ** (attempt - 1))
    raise AssertionError("the last attempt returns or raises")


def preflight(destinations: Sequence[Destination]) -> None:
    """Everything that can be refused before a model is loaded: the token, a name, a commit that was not made here.

    Raises:
        HubError: one of them is refused.
    """
    persist("publishing", lambda: client().whoami(), destinations[0])

    def look(destination: Destination) -> None:
        if client().repo_exists(destination.repo):
            _visible(destination)
            if any(branch.name == destination.branch for branch in client().list_repo_refs(destination.repo).branches):
                _head(destination)

    for destination in destinations:
        persist(destination.title, partial(look, destination), destination)


def send(bundle: Bundle, destination: Destination) -> str:
    """Make the repository where it is not there, put the folder into it, and return the commit that has it.

    Raises:
        HubError: the Hub refuses, or cannot be reached at any attempt.
    """
    return persist(destination.title, lambda: _send(bundle, destination), destination)


def _send(bundle: Bundle, destination: Destination) -> str:
    api = client()
    api.create_repo(destination.repo, private=destination.private, exist_ok=True)
    _visible(destination)
    if destination.branch != "main":
        api.create_branch(destination.repo, branch=destination.branch, exist_ok=True)
    head, ours = _head(destination)
    adds = [CommitOperationAdd(name, str(path)) for name, path in bundle.files.items()]
    there = api.list_repo_files(destination.repo, revision=head)
    # Leftovers of an earlier version; what somebody else put beside it stays.
    gone = [name for name in there if ours and name not in bundle.files and name not in KEPT]
    commit = api.create_commit(
        destination.repo,
        [*adds, *(CommitOperationDelete(name) for name in gone)],
        commit_message=f"{OURS}{bundle.tag}",
        revision=destination.branch,
        parent_commit=head,
    )
    return commit.oid


def _visible(destination: Destination) -> None:
    if destination.private and client().repo_info(destination.repo).private is False:
        raise HubError(
            f"{destination.repo} is public and stage.private=true: give stage.private=false, or the name of another one"
        )


def _head(destination: Destination) -> tuple[str, bool]:
    """The last commit of the branch, and whether it was made here.

    Raises:
        HubError: somebody else made it, and ``parent_commit`` does not name it.
    """
    commits = client().list_repo_commits(destination.repo, revision=destination.branch)
    last = commits[0]
    ours = last.title.startswith(OURS)
    new = len(commits) == 1 and last.title == INITIAL
    if not (ours or new or last.commit_id == destination.parent_commit):
        raise HubError(
            f"{destination.title} ends with a commit that was not made here, {last.commit_id[:7]} {last.title!r}: "
            f"look at it, and give stage.parent_commit={last.commit_id} to go on top of it"
        )
    return last.commit_id, ours


def tag(commit: str, bundle: Bundle, destination: Destination) -> list[str]:
    """Name a commit that has been compared: by the digest of its weights, and as a version.

    Raises:
        HubError: the tag that is asked for is on another commit.
    """
    return persist(f"the tags of {destination.repo}", lambda: _tag(commit, bundle, destination), destination)


def _tag(commit: str, bundle: Bundle, destination: Destination) -> list[str]:
    api = client()
    there = {one.name: one.target_commit for one in api.list_repo_refs(destination.repo).tags}
    versions = [int(found[1]) for name in there if (found := VERSION.fullmatch(name))]
    named = [name for name, target in there.items() if target == commit and VERSION.fullmatch(name)]
    version = destination.tag or next(iter(named), f"v{max(versions, default=0) + 1}")
    if there.get(version, commit) != commit:
        raise HubError(f"{destination.repo} has a tag {version} on another commit: give stage.tag=<another>")
    for name in (bundle.tag, version):
        if name not in there:
            api.create_tag(destination.repo, tag=name, revision=commit, exist_ok=True)
    return [bundle.tag, version]


def collect(title: str, repos: list[str], destination: Destination) -> str:
    """Put the chain's repositories into one collection of the owner's, made where it is not there; its address.

    Raises:
        HubError: the Hub refuses.
    """

    def step() -> str:
        api, owner = client(), destination.repo.partition("/")[0]
        found = api.create_collection(
            title[:LONGEST_TITLE], namespace=owner, private=destination.private, exists_ok=True
        )
        for repo in repos:
            api.add_collection_item(found.slug, item_id=repo, item_type="model", exists_ok=True)
        return found.url

    return persist(f"the collection {title!r}", step, destination)
