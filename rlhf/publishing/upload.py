"""Upload of a folder to the Hub, in one commit, and never over a commit by somebody else.

The client does not retry the request that commits. Repeating the whole sequence is safe, since uploaded files are not
sent again. A tag is set after the commit has been fetched back and compared; an untagged commit has not been verified.
"""

import errno
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from rlhf.console import console
from rlhf.errors import HubError
from rlhf.hub.faults import FAULTS, chain, told, transient
from rlhf.publishing.bundle import Bundle
from rlhf.storage import digests

OURS = "rlhf: "  # prefix of the titles of this module's commits
INITIAL = "initial commit"  # title of the Hub's first commit in a new repository
KEPT = (".gitattributes",)
VERSION = re.compile(r"v(\d+)")
LONGEST_TITLE = 59  # characters of a collection's title

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Destination:
    """A repository to upload to. ``parent_commit``: a commit by somebody else at the head of ``branch`` to build on."""

    repo: str
    branch: str
    private: bool
    tag: str | None
    parent_commit: str | None
    attempts: int
    wait: float

    @property
    def title(self) -> str:
        """The repository, and the branch unless it is ``main``."""
        return self.repo if self.branch == "main" else f"{self.repo}@{self.branch}"


@cache
def client() -> HfApi:
    """Return the Hub's client. Its token is HF_TOKEN or the login's; it cannot be set in the configuration."""
    return HfApi(library_name="rlhf", library_version=digests.versions().get("rlhf"))


def persist(what: str, step: Callable[[], Answer], destination: Destination) -> Answer:
    """Return ``step()``; retry with increasing delays if the Hub or the network fails.

    Raises:
        HubError: the Hub refuses the request, or every attempt fails.
    """

    def report(state: RetryCallState) -> None:
        error: Any = state.outcome and state.outcome.exception()
        attempt = f"attempt {state.attempt_number + 1} of {destination.attempts}"
        console.print(f"publish: {told(error, what)}; {attempt}", markup=False)

    tries = Retrying(
        stop=stop_after_attempt(destination.attempts),
        wait=wait_exponential(destination.wait),
        retry=retry_if_exception(lambda error: isinstance(error, FAULTS) and not _full(error) and transient(error)),
        before_sleep=report,
        reraise=True,
    )
    try:
        return tries(step)
    except FAULTS as error:
        if _full(error):
            raise
        raise told(error, what) from error


def _full(error: BaseException) -> bool:
    """Return whether a disk is full, which is not an error of the Hub."""
    return any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in chain(error))


def preflight(destinations: Sequence[Destination]) -> None:
    """Check the token, the repositories and their last commits before a model is loaded.

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
    """Create the repository if it does not exist, upload the folder, and return the commit.

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
    # Files of an earlier version; files by others stay.
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
            f"{destination.repo} is public and stage.private=true: set stage.private=false, or use another repository"
        )


def _head(destination: Destination) -> tuple[str, bool]:
    """Return the last commit of the branch, and whether this module made it.

    Raises:
        HubError: somebody else made it, and ``parent_commit`` does not name it.
    """
    commits = client().list_repo_commits(destination.repo, revision=destination.branch)
    last = commits[0]
    ours = last.title.startswith(OURS)
    new = len(commits) == 1 and last.title == INITIAL
    if not (ours or new or last.commit_id == destination.parent_commit):
        raise HubError(
            f"{destination.title} ends with a commit by somebody else, {last.commit_id[:7]} {last.title!r}: "
            f"check it, and set stage.parent_commit={last.commit_id} to build on it"
        )
    return last.commit_id, ours


def tag(commit: str, bundle: Bundle, destination: Destination) -> list[str]:
    """Tag a verified commit with the digest of its weights and a version; return both tags.

    Raises:
        HubError: ``stage.tag`` is on another commit.
    """
    return persist(f"the tags of {destination.repo}", lambda: _tag(commit, bundle, destination), destination)


def _tag(commit: str, bundle: Bundle, destination: Destination) -> list[str]:
    api = client()
    there = {ref.name: ref.target_commit for ref in api.list_repo_refs(destination.repo).tags}
    versions = [int(found[1]) for name in there if (found := VERSION.fullmatch(name))]
    named = [name for name, target in there.items() if target == commit and VERSION.fullmatch(name)]
    version = destination.tag or next(iter(named), f"v{max(versions, default=0) + 1}")
    if there.get(version, commit) != commit:
        raise HubError(f"{destination.repo} has a tag {version} on another commit: set stage.tag=<another>")
    for name in (bundle.tag, version):
        if name not in there:
            api.create_tag(destination.repo, tag=name, revision=commit, exist_ok=True)
    return [bundle.tag, version]


def collect(title: str, repos: list[str], destination: Destination) -> str:
    """Add the chain's repositories to a collection of the owner, creating it if needed, and return its URL.

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
