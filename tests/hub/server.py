"""A local in-memory server with the part of the Hub's HTTP API that the real client uses. It fails on request.

Written from the client's source and its requests. It tests the client and this package, but not that the real Hub
responds like this, and not xet storage. ``received`` and ``headers`` hold every byte.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

REPO = r"(?P<kind>models|datasets)/(?P<repo>[\w.-]+/[\w.-]+)"
LFS_FROM = 1 << 18  # bytes; weights go through LFS whatever their size
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Repo:
    """``commits``: oid -> (title, files); ``branches`` and ``tags``: name -> oid; newest commit of a branch last."""

    private: bool
    owner: str
    commits: dict[str, dict] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, title: str, files: dict[str, bytes]) -> str:
        parent = self.branches.get(branch)
        oid = hashlib.sha1(f"{parent}{title}{sorted(files)}{len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = {"title": title, "files": files, "parent": parent}
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        return (
            self.branches.get(revision) or self.tags.get(revision) or (revision if revision in self.commits else None)
        )


@dataclass
class Fault:
    """The failure of the next ``times`` requests that match: a status, ``cut`` (body), ``lost`` (reply) or ``drop``."""

    method: str
    path: str
    what: int | str
    times: int = 1
    message: str = "made to fail"
    met: int = 0


class RefusalError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None):
        self.status, self.message, self.code = status, message, code


class Hub:
    """The state of the server: ``tokens`` maps a token to (user, may write)."""

    def __init__(self) -> None:
        self.tokens = {
            "hf_alicewrites01": ("alice", True),
            "hf_alicereads001": ("alice", False),
            "hf_youwrite00001": ("you", True),
        }
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.collections: dict[str, dict] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.received: list[bytes] = []
        self.headers: list[str] = []
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def break_(self, method: str, path: str, what: int | str, times: int = 1, message: str = "made to fail") -> Fault:
        self.faults.append(Fault(method, path, what, times, message))
        return self.faults[-1]

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.met < fault.times and fault.method == method and re.search(fault.path, path):
                    fault.met += 1
                    return fault
        return None

    def files(self, repo: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """Return the files of a revision, by name, as a full download gets them."""
        held = self.repos[kind, repo]
        files = held.commits[held.resolve(revision)]["files"]
        return {name: content for name, content in files.items() if name != ".gitattributes"}

    def titles(self, repo: str, branch: str = "main") -> list[str]:
        """Return the titles of a branch's commits, newest first."""
        return [commit["title"] for _, commit in self.history(self.repos["models", repo], branch)]

    def history(self, held: Repo, revision: str) -> Iterator[tuple[str, dict]]:
        oid = held.resolve(revision)
        while oid is not None:
            yield oid, held.commits[oid]
            oid = held.commits[oid]["parent"]

    @property
    def everything(self) -> bytes:
        return b"\n".join(self.received)


class Handler(BaseHTTPRequestHandler):
    """One method per endpoint, found by its pattern."""

    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_POST = do_PUT = do_HEAD = do_DELETE = do_GET  # noqa: N815

    def answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        fault = hub.fault_for(self.command, path)
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.what == "cut" and self.command == "PUT":
            hub.received.append(self.rfile.read(length // 2))
            return self.hang_up()
        body = self.read_chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        hub.headers.append(str(self.headers))
        hub.received += [self.path.encode(), body]
        if fault and fault.what == "drop":
            return self.hang_up()
        try:
            if fault and isinstance(fault.what, int):
                raise RefusalError(fault.what, fault.message)
            with hub.lock:
                status, headers, content = self.route(path, body)
        except RefusalError as refusal:
            headers = {"X-Error-Message": refusal.message} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            return self.send(refusal.status, headers, json.dumps({"error": refusal.message}).encode())
        if fault and fault.what == "lost":
            return self.hang_up()
        self.send(status, headers, content, cut=bool(fault) and fault.what == "cut")

    def read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(2)

    def send(self, status: int, headers: dict[str, str], content: bytes, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.hang_up()

    def route(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        for method, pattern, name in ROUTES:
            if method == self.command and (found := re.fullmatch(pattern, path)):
                answer = getattr(self, name)(body=body, **found.groupdict())
                return answer if isinstance(answer, tuple) else (200, {}, json.dumps(answer).encode())
        raise RefusalError(404, f"no such endpoint: {self.command} {path}")

    # User, repository and revision of a request.

    def user(self) -> tuple[str | None, bool]:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not token:
            return None, False
        if token not in self.hub.tokens:
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def repo(self, kind: str, repo: str, write: bool = False) -> Repo:
        user, may_write = self.user()
        held = self.hub.repos.get((kind, repo))
        if held is None or (held.private and held.owner != user):
            raise RefusalError(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and not (may_write and held.owner == user):
            raise RefusalError(403, "you need to be a member with write access")
        return held

    def at(self, held: Repo, revision: str) -> str:
        oid = held.resolve(revision)
        if oid is None:
            raise RefusalError(404, f"no revision {revision}", "RevisionNotFound")
        return oid

    # Endpoints.

    def whoami(self, body: bytes) -> dict:
        user, _ = self.user()
        if user is None:
            raise RefusalError(401, "Invalid username or password.")
        return {"type": "user", "name": user, "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    def create(self, body: bytes) -> Any:
        user, may_write = self.user()
        asked = json.loads(body)
        kind = f"{asked.get('type') or 'model'}s"
        name = f"{asked.get('organization') or user}/{asked['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else 'datasets/'}{name}"
        if (kind, name) in self.hub.repos:
            return 409, {}, json.dumps({"error": "You already created this repo", "url": url}).encode()
        if user is None:
            raise RefusalError(401, "Invalid username or password.")
        if not may_write or not name.startswith(f"{user}/"):
            raise RefusalError(403, "You don't have the rights to create a repo under this namespace")
        held = self.hub.repos[kind, name] = Repo(asked.get("visibility") == "private", user)
        held.commit("main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return {"url": url, "id": name}

    def validate(self, body: bytes) -> Any:
        content = json.loads(body)["content"]
        try:
            data = yaml.safe_load(front_matter(content))
            errors = [] if isinstance(data.get("license", ""), str) else [{"message": '"license" must be a string'}]
        except (TypeError, yaml.YAMLError) as error:
            errors = [{"message": str(error)}]
        return (400 if errors else 200), {}, json.dumps({"errors": errors, "warnings": []}).encode()

    def preupload(self, body: bytes, kind: str, repo: str, revision: str) -> dict:
        held = self.repo(kind, repo, write=True)
        there = held.commits[self.at(held, revision)]["files"]
        found = []
        for file in json.loads(body)["files"]:
            name, lfs = file["path"], file["path"].endswith((".safetensors", ".parquet")) or file["size"] > LFS_FROM
            oid = None if name not in there else oid_of(there[name], lfs)
            mode = "lfs" if lfs else "regular"
            found.append({"path": name, "uploadMode": mode, "shouldIgnore": False} | ({"oid": oid} if oid else {}))
        return {"files": found}

    def batch(self, body: bytes, repo: str, prefix: str) -> dict:
        self.repo("datasets" if prefix else "models", repo, write=True)
        asked = json.loads(body)["objects"]
        return {"transfer": "basic", "objects": [self.action(one, repo, prefix) for one in asked]}

    def action(self, one: dict, repo: str, prefix: str) -> dict:
        if one["oid"] in self.hub.blobs:
            return one
        verify = f"{self.hub.url}/{prefix or ''}{repo}.git/info/lfs/objects/verify"
        return one | {
            "actions": {"upload": {"href": f"{self.hub.url}/storage/{one['oid']}"}, "verify": {"href": verify}}
        }

    def store(self, body: bytes, oid: str) -> Any:
        if hashlib.sha256(body).hexdigest() != oid:
            raise RefusalError(400, "the content does not match its digest")
        self.hub.blobs[oid] = body
        return 200, {}, b""

    def verify(self, body: bytes, repo: str, prefix: str) -> dict:
        asked = json.loads(body)
        if len(self.hub.blobs.get(asked["oid"], b"")) != asked["size"]:
            raise RefusalError(404, "the object is not there")
        return {}

    def commit(self, body: bytes, kind: str, repo: str, revision: str) -> dict:
        held = self.repo(kind, repo, write=True)
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        head = held.branches.get(revision)
        if head is None:
            raise RefusalError(404, f"no branch {revision}", "RevisionNotFound")
        if header.get("parentCommit") not in (None, head):
            raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(held.commits[head]["files"])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        oid = held.commit(revision, header["summary"], files)
        return {"commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "success": True}

    def tag(self, body: bytes, kind: str, repo: str, revision: str) -> Any:
        held, name = self.repo(kind, repo, write=True), json.loads(body)["tag"]
        if name in held.tags:
            raise RefusalError(409, "Tag reference exists already")
        held.tags[name] = self.at(held, revision)
        return {}

    def branch(self, body: bytes, kind: str, repo: str, name: str) -> Any:
        held = self.repo(kind, repo, write=True)
        if name in held.branches:
            raise RefusalError(409, "Reference already exists")
        held.branches[name] = self.at(held, json.loads(body or b"{}").get("startingPoint") or "main")
        return {}

    def refs(self, body: bytes, kind: str, repo: str) -> dict:
        held = self.repo(kind, repo)

        def listed(found: dict[str, str], where: str) -> list[dict]:
            return [{"name": name, "ref": f"refs/{where}/{name}", "targetCommit": oid} for name, oid in found.items()]

        return {"branches": listed(held.branches, "heads"), "tags": listed(held.tags, "tags"), "converts": []}

    def commits(self, body: bytes, kind: str, repo: str, revision: str) -> list[dict]:
        held = self.repo(kind, repo)
        self.at(held, revision)
        return [
            {"id": oid, "title": one["title"], "message": "", "date": DATE, "authors": [{"user": held.owner}]}
            for oid, one in self.hub.history(held, revision)
        ]

    def info(self, body: bytes, kind: str, repo: str, revision: str | None = None) -> dict:
        held = self.repo(kind, repo)
        oid = self.at(held, revision or "main")
        files = held.commits[oid]["files"]
        found = {"id": repo, "sha": oid, "private": held.private, "tags": [], "lastModified": DATE, "downloads": 0}
        card = files.get("README.md", b"").decode()
        data = yaml.safe_load(front_matter(card)) if card.startswith("---") else None
        return found | {"siblings": [{"rfilename": name} for name in files], "cardData": data}

    def tree(self, body: bytes, kind: str, repo: str, revision: str, folder: str | None) -> list[dict]:
        held = self.repo(kind, repo)
        files = held.commits[self.at(held, revision)]["files"]
        start = f"{folder}/" if folder else ""
        inside = {name: content for name, content in files.items() if name.startswith(start)}
        if start and not inside:
            raise RefusalError(404, f"no folder {folder}", "EntryNotFound")
        if "true" not in parse_qs(urlsplit(self.path).query).get("recursive", []):
            folders = {start + name[len(start) :].split("/")[0] for name in inside if "/" in name[len(start) :]}
            inside = {name: content for name, content in inside.items() if "/" not in name[len(start) :]}
        else:
            folders = set()
        return [{"type": "directory", "path": name, "oid": "0" * 40} for name in sorted(folders)] + [
            {"type": "file", "path": name, "size": len(content), "oid": oid_of(content, False)}
            for name, content in inside.items()
        ]

    def paths(self, body: bytes, kind: str, repo: str, revision: str) -> list[dict]:
        held = self.repo(kind, repo)
        files = held.commits[self.at(held, revision)]["files"]
        asked = parse_qs(body.decode()).get("paths", []) if not body.startswith(b"{") else json.loads(body)["paths"]
        return [
            {"type": "file", "path": name, "size": len(files[name]), "oid": oid_of(files[name], False)}
            for name in asked
            if name in files
        ]

    def resolve(self, body: bytes, repo: str, revision: str, name: str, prefix: str) -> tuple[int, dict, bytes]:
        held = self.repo("datasets" if prefix else "models", repo)
        oid = self.at(held, revision)
        content = held.commits[oid]["files"].get(name)
        if content is None:
            raise RefusalError(404, "Entry not found", "EntryNotFound")
        headers = {"ETag": f'"{oid_of(content, False)}"', "X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        if (wanted := self.headers.get("Range")) and (found := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)):
            start, end = int(found[1]), int(found[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            return 206, headers, content[start : end + 1]
        return 200, headers, content

    def make_collection(self, body: bytes) -> Any:
        user, may_write = self.user()
        asked = json.loads(body)
        if not may_write or asked["namespace"] != user:
            raise RefusalError(403, "not your namespace")
        slug = f"{user}/{re.sub(r'[^a-z0-9]+', '-', asked['title'].lower())}-0123456789abcdef"
        if slug in self.hub.collections:
            return 409, {}, json.dumps({"error": "it exists", "slug": slug}).encode()
        found = {
            "slug": slug,
            "title": asked["title"],
            "owner": {"name": user},
            "items": [],
            "private": asked["private"],
        }
        self.hub.collections[slug] = found | {"lastUpdated": DATE, "position": 0, "theme": "orange", "upvotes": 0}
        return self.hub.collections[slug]

    def collection(self, body: bytes, slug: str) -> dict:
        return self.hub.collections[slug]

    def add_item(self, body: bytes, slug: str) -> dict:
        item = json.loads(body)["item"]
        items = self.hub.collections[slug]["items"]
        if any(one["id"] == item["id"] for one in items):
            raise RefusalError(409, "it is there already")
        items.append(item | {"_id": str(len(items)), "position": len(items), "repoType": item["type"]})
        return self.hub.collections[slug]


ID = r"(?P<repo>[\w.-]+/[\w.-]+)"
PREFIX = r"/(?P<prefix>datasets/)?"
ROUTES = (
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "validate"),
    ("POST", rf"/api/{REPO}/preupload/(?P<revision>.+)", "preupload"),
    ("POST", rf"{PREFIX}{ID}\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/storage/(?P<oid>\w+)", "store"),
    ("POST", rf"{PREFIX}{ID}\.git/info/lfs/objects/verify", "verify"),
    ("POST", rf"/api/{REPO}/commit/(?P<revision>.+)", "commit"),
    ("POST", rf"/api/{REPO}/tag/(?P<revision>.+)", "tag"),
    ("POST", rf"/api/{REPO}/branch/(?P<name>.+)", "branch"),
    ("GET", rf"/api/{REPO}/refs", "refs"),
    ("GET", rf"/api/{REPO}/commits/(?P<revision>.+)", "commits"),
    ("GET", rf"/api/{REPO}", "info"),
    ("GET", rf"/api/{REPO}/revision/(?P<revision>.+)", "info"),
    ("GET", rf"/api/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", "tree"),
    ("POST", rf"/api/{REPO}/paths-info/(?P<revision>.+)", "paths"),
    ("POST", "/api/collections", "make_collection"),
    ("GET", r"/api/collections/(?P<slug>[\w.-]+/[\w.-]+)", "collection"),
    ("POST", r"/api/collections/(?P<slug>[\w.-]+/[\w.-]+)/items", "add_item"),
    ("GET", rf"{PREFIX}{ID}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", "resolve"),
    ("HEAD", rf"{PREFIX}{ID}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", "resolve"),
)


def oid_of(content: bytes, lfs: bool) -> str:
    """Return git's object id of a file, or the sha256 of its content if it is in LFS."""
    return (
        hashlib.sha256(content).hexdigest() if lfs else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    )


def front_matter(card: str) -> str:
    """Return the YAML at the top of a card."""
    return re.match(r"---\n(.*?)\n---\n", card, flags=re.DOTALL)[1]


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    try:
        yield hub
    finally:
        hub.close()
