"""A HuggingFace Hub in this process: enough of one for the unmodified clients to push to and load from.

Models and datasets are content-addressed trees with branches, tags and pull requests. Large files arrive and leave
over LFS or, with `LoopbackHub.xet`, through Xet. Requests can be made to go wrong with `LoopbackHub.fail`.
"""

import base64
import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


Tree = dict[str, "Blob"]

LARGE_SUFFIXES = (
    *(".safetensors", ".parquet", ".arrow", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npy", ".npz", ".h5", ".onnx"),
    *(".png", ".jpg", ".gif", ".mp4", ".zip", ".gz", ".zst"),
)
LARGE_SIZE = 2**20
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_SUFFIXES).encode()
# Taken out of a client's environment: each would lead it elsewhere than to the loopback Hub and its own home.
MISLEADING = (
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE"),
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_XET_CACHE", "HF_HUB_DISABLE_XET"),
)
# Flags of a file's record in a Xet shard: what else is recorded of it.
XET_VERIFICATION, XET_SHA256 = 1 << 31, 1 << 30
ERRORS = {"403": "Forbidden", "500": "Internal Server Error", "503": "Service Unavailable"}


@dataclass(frozen=True)
class Request:
    """What one request asked and what became of it; `status` is 0 where the connection closed without an answer.

    `path` is unquoted, and `received` and `sent` count the bytes of the bodies.
    """

    method: str
    path: str
    query: dict[str, str]
    status: int
    received: int
    sent: int
    token: str | None
    user_agent: str


@dataclass
class Fault:
    how: str
    method: str
    path: str
    times: int
    seconds: float


@dataclass(frozen=True)
class Blob:
    """A file: its content is kept under `sha256`; `oid` is what git would call it (or its LFS pointer)."""

    oid: str
    sha256: str
    size: int
    large: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    tree: Tree


@dataclass
class Discussion:
    """A discussion, or a pull request, whose commits are under `refs/pr/{num}`."""

    num: int
    title: str
    author: str
    date: str
    status: str = "open"
    base: str = ""
    start: Commit | None = None
    merge_oid: str | None = None


@dataclass
class Repository:
    kind: str
    id: str
    private: bool
    created: str
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    discussions: dict[int, Discussion] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    @property
    def prefix(self) -> str:
        """What stands before the id in the addresses of pages and files."""
        return "datasets/" if self.kind == "dataset" else ""

    def ref(self, revision: str) -> str | None:
        """The full name of a branch, tag or pull request."""
        return next((r for r in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision) if r in self.refs), None)

    def at(self, revision: str) -> Commit:
        ref = self.ref(revision)
        oid = self.refs[ref] if ref else revision
        if oid not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision: str) -> Iterator[Commit]:
        """The commits that lead to a revision, newest first."""
        commit: Commit | None = self.at(revision)
        while commit is not None:
            yield commit
            commit = self.commits[commit.parent] if commit.parent else None

    def commit(self, ref: str, tree: Tree, title: str, author: str, message: str = "") -> Commit:
        parent = self.refs.get(ref)
        oid = hashlib.sha1(f"{self.kind} {self.id} {parent} {title} {time.time_ns()}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, message, author, now(), tree)
        self.refs[ref] = oid
        return self.commits[oid]

    def discuss(self, title: str, author: str) -> Discussion:
        num = len(self.discussions) + 1
        self.discussions[num] = Discussion(num, title, author, now())
        return self.discussions[num]

    def open_pull_request(self, title: str, author: str, status: str, base: str, start: Commit) -> Discussion:
        pull = self.discuss(title, author)
        pull.status, pull.base, pull.start = status, base, start
        self.refs[f"refs/pr/{pull.num}"] = start.oid
        return pull


class Refusal(Exception):
    """An error answer of the Hub."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        header = message.encode("ascii", "backslashreplace").decode()
        error_headers = {"X-Error-Message": header} | ({"X-Error-Code": code} if code else {})
        self.answer = json_answer({"error": message}, status, {**error_headers, **headers})


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]


def json_answer(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    body = json.dumps(data, default=str).encode()
    return Answer(status, body, {"Content-Type": "application/json", **(headers or {})})


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str, size: int) -> bool:
    return 0 < size and (path.endswith(LARGE_SUFFIXES) or "tfevents" in path or size > LARGE_SIZE)


def front_matter(card: bytes) -> Any:
    """The metadata at the head of a README; `None` if there is none."""
    match = re.match(r"---[ \t]*\r?\n(.*?\n)??---[ \t]*(\r?\n|\Z)", card.decode(), re.DOTALL)
    return yaml.safe_load(match[1] or "") if match else None


class LoopbackHub:
    """A Hub on 127.0.0.1 that keeps files in `folder`; as on the Hub, a new repository starts with a `.gitattributes`.

    Attributes:
        tokens (`dict[str, str]`): The users by their tokens; a user owns the repositories under their name.
        requests (`list[Request]`): What was asked so far.
        xet (`bool`): Whether large files are offered through Xet, to clients whose `environment` was made since.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.url = ""
        self.tokens = {"hf_writer_token": "tester", "hf_stranger_token": "stranger"}
        self.xet = False
        self.lock = threading.RLock()
        self.server: Server | None = None
        self.resets = 0
        self.reset()

    def start(self) -> "LoopbackHub":
        port = urlsplit(self.url).port or 0
        self.server = Server(("127.0.0.1", port), Handler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None

    def __enter__(self) -> "LoopbackHub":
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def reset(self) -> None:
        """Forget all repositories, files, requests and faults."""
        with self.lock:
            self.resets += 1
            self.store = self.folder / str(self.resets)
            self.repositories: dict[tuple[str, str], Repository] = {}
            self.requests: list[Request] = []
            self.faults: list[Fault] = []
            self.xet_hashes: dict[str, str] = {}
            self.blobs.mkdir(parents=True, exist_ok=True)

    @property
    def blobs(self) -> Path:
        return self.store / "blobs"

    @property
    def cas(self) -> Path:
        return self.store / "cas"

    def repository(self, repo_id: str, repo_type: str = "model") -> Repository:
        return self.repositories[repo_type, repo_id]

    def exists(self, repo_id: str, repo_type: str = "model") -> bool:
        return (repo_type, repo_id) in self.repositories

    def is_private(self, repo_id: str, repo_type: str = "model") -> bool:
        return self.repository(repo_id, repo_type).private

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        with self.lock:
            tree = self.repository(repo_id, repo_type).at(revision).tree
            return {path: self.content(blob) for path, blob in sorted(tree.items())}

    def commits(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> list[str]:
        with self.lock:
            return [commit.title for commit in self.repository(repo_id, repo_type).history(revision)]

    def pull_requests(self, repo_id: str, repo_type: str = "model") -> list[int]:
        with self.lock:
            discussions = self.repository(repo_id, repo_type).discussions
            return [num for num, discussion in discussions.items() if discussion.start is not None]

    def write(
        self,
        repo_id: str,
        files: dict[str, bytes],
        repo_type: str = "model",
        revision: str = "main",
        private: bool = False,
    ) -> str:
        """Commit files as its owner would on the website, in a new repository if there is none, and name the commit.

        A branch that is not there yet starts at `main`.
        """
        with self.lock:
            if not self.exists(repo_id, repo_type):
                self.create(repo_id, repo_type, private)
            repo = self.repository(repo_id, repo_type)
            ref = repo.ref(revision) or f"refs/heads/{revision}"
            repo.refs.setdefault(ref, repo.at("main").oid)
            new = {path: self.add(content, is_large(path, len(content))) for path, content in files.items()}
            title = f"Upload {', '.join(files)}"
            return repo.commit(ref, {**repo.at(ref).tree, **new}, title, repo.owner).oid

    def fail(self, how: str, *, method: str = "", path: str = "", times: int = 1, seconds: float = 0) -> None:
        """Let the next `times` requests go wrong that have this method, if given, and in whose path `path` is found.

        Args:
            how (`str`):
                `"403"`, `"500"`, `"503"`: answered with that status; `"drop"`: the connection is closed half-way
                through the request's body; `"drop_after"`: the request is carried out, then the connection is
                closed; `"truncate"`: the connection is closed half-way through the answer's body; `"stall"`:
                answered after `seconds`.
            path (`str`):
                A regular expression.
        """
        if how not in {*ERRORS, "drop", "drop_after", "truncate", "stall"}:
            raise ValueError(f"No such fault: {how!r}")
        with self.lock:
            self.faults.append(Fault(how, method, path, times, seconds))

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that meets this request."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method in ("", method) and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def environment(self, home: Path, token: str | None = "hf_writer_token", **more: str) -> dict[str, str]:
        """The environment of a process whose Hub is this one and which keeps its caches in `home`."""
        kept = {name: value for name, value in os.environ.items() if name not in MISLEADING}
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        ours |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        ours |= {"HF_TOKEN": token} if token is not None else {}
        # The Hub here reads what arrived over Xet, but has no decompressor.
        ours |= {"HF_XET_DATA_XORB_COMPRESSION_POLICY": "none"} if self.xet else {"HF_HUB_DISABLE_XET": "1"}
        return {**kept, **ours, **more}

    def create(self, repo_id: str, repo_type: str, private: bool) -> Repository:
        repo = self.repositories[repo_type, repo_id] = Repository(repo_type, repo_id, private, now())
        tree = {".gitattributes": self.add(GIT_ATTRIBUTES, large=False)}
        repo.commit("refs/heads/main", tree, "initial commit", repo.owner)
        return repo

    def add(self, content: bytes, large: bool) -> Blob:
        sha256 = hashlib.sha256(content).hexdigest()
        (self.blobs / sha256).write_bytes(content)
        return large_blob(sha256, len(content)) if large else Blob(git_oid(content), sha256, len(content), False)

    def content(self, blob: Blob) -> bytes:
        return (self.blobs / blob.sha256).read_bytes()

    def receive(self, sha256: str) -> None:
        """Take in a file that arrived over Xet, if it did."""
        for arrived, xet, segments in xet_files(self.cas):
            if arrived == sha256:
                content = b"".join(xorb_content(self.cas, *segment) for segment in segments)
                if self.add(content, large=True).sha256 != sha256:
                    raise Refusal(400, "The content does not match its oid")
                self.xet_hashes[sha256] = xet
                return


def xet_hash(raw: bytes) -> str:
    """A Xet hash is written as four little-endian integers."""
    return "".join(f"{part:016x}" for part in struct.unpack("<4Q", raw))


def xet_files(cas: Path) -> Iterator[tuple[str, str, list[tuple[str, int, int]]]]:
    """The files in the Xet store, `(SHA-256, Xet hash, segments)`, where a segment is `(xorb, first chunk, end)`.

    A shard is a header, then for each file a record with its hash, its segments, as many verifications, and its
    SHA-256; every record takes 48 bytes.
    """
    for shard in sorted(cas.glob("xet/xorbs/shards/*.mdb")):
        records = struct.iter_unpack("<32s4I", shard.read_bytes()[48:][: -(shard.stat().st_size % 48) or None])
        for raw, flags, count, _, _ in records:
            if raw == b"\xff" * 32:
                break
            segments = [
                (xet_hash(xorb), first, end) for xorb, _, _, first, end in (next(records) for _ in range(count))
            ]
            verifications = count if flags & XET_VERIFICATION else 0
            following = [next(records) for _ in range(verifications + bool(flags & XET_SHA256))]
            if flags & XET_SHA256:
                yield xet_hash(following[-1][0]), xet_hash(raw), segments


def xorb_content(cas: Path, xorb: str, first: int, end: int) -> bytes:
    """Chunks of a xorb, each of which follows a header with its size as sent, its compression, and its size."""
    data, at, chunks = (cas / "xet/xorbs/xorbs" / f"default.{xorb}").read_bytes(), 0, []
    for _ in range(end):
        size, compression = int.from_bytes(data[at + 1 : at + 4], "little"), data[at + 4]
        if compression:
            raise Refusal(400, "A chunk is compressed: set HF_XET_DATA_XORB_COMPRESSION_POLICY=none")
        chunks.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    return b"".join(chunks[first:])


def large_blob(sha256: str, size: int) -> Blob:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return Blob(git_oid(pointer.encode()), sha256, size, True)


@dataclass
class Call:
    """A request that reached the Hub, by `user` if it came with a token."""

    hub: LoopbackHub
    query: dict[str, str]
    headers: Any
    body: bytes
    user: str | None

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def repository(self, kind: str, repo_id: str) -> Repository:
        """A repository that the user may read."""
        repo = self.hub.repositories.get(("dataset" if kind.startswith("dataset") else "model", repo_id))
        if repo is None or (repo.private and repo.owner != self.user):
            self.signed_in("RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return repo

    def signed_in(self, code: str | None = None) -> str:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.", code)
        return self.user

    def writable(self, kind: str, repo_id: str, revision: str | None = None) -> Repository:
        """A repository whose revision the user may change: their own, or the pull request they opened."""
        repo = self.repository(kind, repo_id)
        user = self.signed_in("RepoNotFound")
        pull_request = re.fullmatch(r"refs/pr/(\d+)", revision or "")
        opened = repo.discussions.get(int(pull_request[1])) if pull_request else None
        if not (user == repo.owner or (opened and user == opened.author) or self.query.get("create_pr") == "1"):
            raise Refusal(403, "You do not have the rights to change this repository")
        return repo


ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Answer]]] = []
PARTS = {"kind": "models|datasets", "prefix": "datasets/|", "id": "[^/]+/[^/]+", "path": ".+", "num": "[0-9]+"}
PARTS |= {"ref": "branch|tag", "access": "read|write"}


def endpoint(method: str, address: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Register what answers a method and address; each `{part}` of the address is an argument, unquoted."""
    pattern = re.sub(r"\{(\w+)\}", lambda part: f"({PARTS.get(part[1], '[^/]+')})", address.replace(".", r"\."))

    def register(answer: Callable[..., Answer]) -> Callable[..., Answer]:
        ROUTES.append((method, re.compile(pattern), answer))
        return answer

    return register


def answer_to(call: Call, method: str, raw_path: str) -> Answer:
    if "Authorization" in call.headers and call.user is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    for route_method, pattern, answer in ROUTES:
        match = pattern.fullmatch(raw_path)
        if match and route_method == ("GET" if method == "HEAD" else method):
            return answer(call, *map(unquote, match.groups()))
    if re.fullmatch("/api/(models|datasets)/[^/]+|/(datasets/)?[^/]+/resolve/.*", raw_path):
        call.signed_in("RepoNotFound")
        raise Refusal(404, "Repository not found", "RepoNotFound")
    raise Refusal(404, f"No such endpoint: {method} {raw_path}")


@endpoint("GET", "/api/whoami-v2")
def whoami(call: Call) -> Answer:
    user = call.signed_in()
    token = {"accessToken": {"displayName": "loopback", "role": "write"}}
    return json_answer({"type": "user", "id": user, "name": user, "fullname": user, "orgs": [], "auth": token})


@endpoint("GET", "/api/{kind}/{id}/auth-check")
def may_read(call: Call, kind: str, repo_id: str) -> Answer:
    call.repository(kind, repo_id)
    return json_answer({})


@endpoint("GET", "/api/{kind}/{id}/auth-check/write")
def may_write(call: Call, kind: str, repo_id: str) -> Answer:
    call.writable(kind, repo_id)
    return json_answer({})


@endpoint("POST", "/api/validate-yaml")
def validate_yaml(call: Call) -> Answer:
    try:
        metadata = front_matter(call.json["content"].encode())
    except yaml.YAMLError as error:
        return json_answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
    empty = [{"message": "empty or missing yaml metadata in repo card"}]
    return json_answer({"errors": [], "warnings": [] if metadata else empty})


def asked_repository(call: Call) -> tuple[str, str]:
    """Id and type of the repository in the body of a request to create or delete it."""
    data = call.json
    repo_id = f"{data.get('organization') or call.signed_in()}/{data['name']}"
    if repo_id.split("/")[0] != call.signed_in():
        raise Refusal(403, f"You don't have the rights for a {data.get('type', 'model')} under this namespace")
    return repo_id, data.get("type") or "model"


@endpoint("POST", "/api/repos/create")
def create_repository(call: Call) -> Answer:
    repo_id, repo_type = asked_repository(call)
    existed = call.hub.exists(repo_id, repo_type)
    private = bool(call.json.get("private")) or call.json.get("visibility") == "private"
    repo = call.hub.repository(repo_id, repo_type) if existed else call.hub.create(repo_id, repo_type, private)
    answer = {"url": f"{call.hub.url}/{repo.prefix}{repo_id}", "name": repo_id, "id": repo_id}
    if existed:
        return json_answer({**answer, "error": f"You already created this {repo_type} repo"}, 409)
    return json_answer(answer)


@endpoint("DELETE", "/api/repos/delete")
def delete_repository(call: Call) -> Answer:
    repo_id, repo_type = asked_repository(call)
    call.repository(repo_type, repo_id)
    del call.hub.repositories[repo_type, repo_id]
    return json_answer({})


@endpoint("PUT", "/api/{kind}/{id}/settings")
def change_settings(call: Call, kind: str, repo_id: str) -> Answer:
    repo = call.writable(kind, repo_id)
    visibility = call.json.get("visibility", "private" if call.json.get("private", repo.private) else "public")
    repo.private = visibility == "private"
    return json_answer({"private": repo.private})


@endpoint("GET", "/api/{kind}/{id}")
@endpoint("GET", "/api/{kind}/{id}/revision/{revision}")
def information(call: Call, kind: str, repo_id: str, revision: str = "main") -> Answer:
    repo = call.repository(kind, repo_id)
    commit = repo.at(revision)
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.tree)]
    if call.query.get("blobs", "").lower() == "true":
        for sibling in siblings:
            blob = commit.tree[sibling["rfilename"]]
            sibling |= {"size": blob.size, "blobId": blob.oid}
            if blob.large:
                sibling["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": 134}
    card: Any = None
    with suppress(yaml.YAMLError):
        card = front_matter(call.hub.content(commit.tree["README.md"])) if "README.md" in commit.tree else None
    card = card if isinstance(card, dict) else {}
    about = {key: card[key] for key in ("library_name", "pipeline_tag", "model-index") if key in card}
    tags = card.get("tags") or []
    return json_answer(
        {
            **{"_id": commit.oid[:24], "id": repo_id, "author": repo.owner, "sha": commit.oid, "cardData": card},
            **{"createdAt": repo.created, "lastModified": commit.date, "private": repo.private, "gated": False},
            **{"disabled": False, "downloads": 0, "likes": 0, "tags": [tags] if isinstance(tags, str) else tags},
            **{"siblings": siblings, "usedStorage": sum(blob.size for blob in commit.tree.values()), **about},
        }
    )


def entry(call: Call, repo: Repository, revision: str, path: str, expand: bool) -> dict[str, Any]:
    """What a listing says of a file or folder."""
    tree = repo.at(revision).tree
    if path in tree:
        blob = tree[path]
        about: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
        if blob.large:
            about["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}
            if call.hub.xet and blob.sha256 in call.hub.xet_hashes:
                about["xetHash"] = call.hub.xet_hashes[blob.sha256]
    else:
        about = {"type": "directory", "oid": git_oid(repr(below(tree, path)).encode()), "size": 0, "path": path}
    if expand:
        last = None
        for commit in repo.history(revision):
            if below(commit.tree, path) != below(tree, path):
                break
            last = commit
        about["lastCommit"] = last and {"id": last.oid, "title": last.title, "date": last.date}
    return about


def below(tree: Tree, path: str) -> Tree:
    """A file, or the files in a folder."""
    return {name: blob for name, blob in tree.items() if not path or name == path or name.startswith(f"{path}/")}


def folders(tree: Tree) -> set[str]:
    return {str(parent) for path in tree for parent in Path(path).parents if str(parent) != "."}


@endpoint("GET", "/api/{kind}/{id}/tree/{revision}")
@endpoint("GET", "/api/{kind}/{id}/tree/{revision}/{path}")
def list_tree(call: Call, kind: str, repo_id: str, revision: str, path: str = "") -> Answer:
    repo = call.repository(kind, repo_id)
    commit = repo.at(revision)
    path = path.strip("/")
    if path and path not in folders(commit.tree):
        raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
    start = f"{path}/" if path else ""
    names = [name for name in sorted(folders(commit.tree) | set(commit.tree)) if name.startswith(start)]
    if call.query.get("recursive", "").lower() != "true":
        names = [name for name in names if "/" not in name.removeprefix(start)]
    expand = call.query.get("expand", "").lower() == "true"
    return json_answer([entry(call, repo, revision, name, expand) for name in names])


@endpoint("POST", "/api/{kind}/{id}/paths-info/{revision}")
def paths_information(call: Call, kind: str, repo_id: str, revision: str) -> Answer:
    repo = call.repository(kind, repo_id)
    tree = repo.at(revision).tree
    form = parse_qs(call.body.decode())
    expand = form.get("expand", [""])[0].lower() == "true"
    paths = [path for path in form.get("paths", []) if path in tree or path in folders(tree)]
    return json_answer([entry(call, repo, revision, path, expand) for path in paths])


@endpoint("GET", "/api/{kind}/{id}/refs")
def list_refs(call: Call, kind: str, repo_id: str) -> Answer:
    repo = call.repository(kind, repo_id)

    def under(start: str) -> list[dict[str, str]]:
        found = [ref for ref in repo.refs if ref.startswith(start)]
        return [{"name": ref.removeprefix(start), "ref": ref, "targetCommit": repo.refs[ref]} for ref in found]

    lists = {"branches": under("refs/heads/"), "tags": under("refs/tags/"), "converts": []}
    return json_answer({**lists, "pullRequests": under("refs/pr/")})


@endpoint("GET", "/api/{kind}/{id}/commits/{revision}")
def list_commits(call: Call, kind: str, repo_id: str, revision: str) -> Answer:
    history = call.repository(kind, repo_id).history(revision)
    return json_answer(
        [
            {"id": c.oid, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": c.author}]}
            for c in history
        ]
    )


@endpoint("POST", "/api/{kind}/{id}/{ref}/{name}")
def create_ref(call: Call, kind: str, repo_id: str, ref: str, name: str) -> Answer:
    repo = call.writable(kind, repo_id)
    if ref == "branch":
        new, start = f"refs/heads/{name}", call.json.get("startingPoint", "main")
    else:
        new, start = f"refs/tags/{call.json['tag']}", name
    if new in repo.refs:
        raise Refusal(409, f"Reference already exists: {new}")
    repo.refs[new] = repo.at(start).oid
    return json_answer({})


@endpoint("DELETE", "/api/{kind}/{id}/{ref}/{name}")
def delete_ref(call: Call, kind: str, repo_id: str, ref: str, name: str) -> Answer:
    repo = call.writable(kind, repo_id)
    old = f"refs/heads/{name}" if ref == "branch" else f"refs/tags/{name}"
    if old == "refs/heads/main":
        raise Refusal(403, "The main branch cannot be deleted")
    if repo.refs.pop(old, None) is None:
        raise Refusal(404, f"No such reference: {old}", "RevisionNotFound")
    return json_answer({})


def discussion_answer(repo: Repository, d: Discussion) -> dict[str, Any]:
    about = {"num": d.num, "title": d.title, "status": d.status, "author": {"name": d.author}, "createdAt": d.date}
    about |= {"isPullRequest": d.start is not None, "repo": {"name": repo.id, "type": repo.kind}, "events": []}
    if d.start is not None:
        changes = {"base": f"refs/heads/{d.base}", "mergeCommitId": d.merge_oid}
        about |= {"changes": changes, "filesWithConflicts": [], "diff": ""}
    return about


def discussion_of(repo: Repository, num: str) -> Discussion:
    if int(num) not in repo.discussions:
        raise Refusal(404, f"No discussion {num}")
    return repo.discussions[int(num)]


@endpoint("GET", "/api/{kind}/{id}/discussions")
def list_discussions(call: Call, kind: str, repo_id: str) -> Answer:
    repo = call.repository(kind, repo_id)
    found = [discussion_answer(repo, discussion) for discussion in repo.discussions.values()]
    return json_answer({"discussions": found, "count": len(found), "start": 0})


@endpoint("POST", "/api/{kind}/{id}/discussions")
def open_discussion(call: Call, kind: str, repo_id: str) -> Answer:
    repo = call.repository(kind, repo_id)
    title, author = call.json["title"], call.signed_in("RepoNotFound")
    if call.json.get("pullRequest"):
        return json_answer(
            discussion_answer(repo, repo.open_pull_request(title, author, "draft", "main", repo.at("main")))
        )
    return json_answer(discussion_answer(repo, repo.discuss(title, author)))


@endpoint("GET", "/api/{kind}/{id}/discussions/{num}")
def discussion(call: Call, kind: str, repo_id: str, num: str) -> Answer:
    repo = call.repository(kind, repo_id)
    return json_answer(discussion_answer(repo, discussion_of(repo, num)))


@endpoint("POST", "/api/{kind}/{id}/discussions/{num}/merge")
def merge(call: Call, kind: str, repo_id: str, num: str) -> Answer:
    """What the pull request changed since it was opened becomes one commit on its base."""
    repo = call.writable(kind, repo_id)
    pull = discussion_of(repo, num)
    if pull.start is None or pull.status == "merged":
        raise Refusal(400, "There is nothing to merge")
    before, after, tree = pull.start.tree, repo.at(f"refs/pr/{num}").tree, {**repo.at(pull.base).tree}
    for path in before.keys() - after.keys():
        tree.pop(path, None)
    tree |= {path: blob for path, blob in after.items() if before.get(path) != blob}
    title = f"{pull.title} (#{num})"
    pull.merge_oid = repo.commit(f"refs/heads/{pull.base}", tree, title, call.signed_in()).oid
    pull.status = "merged"
    return json_answer({})


@endpoint("POST", "/api/{kind}/{id}/preupload/{revision}")
def preupload(call: Call, kind: str, repo_id: str, revision: str) -> Answer:
    tree = call.writable(kind, repo_id, revision).at(revision).tree
    files = []
    for file in call.json["files"]:
        path = file["path"]
        mode = "lfs" if is_large(path, file["size"]) else "regular"
        oid = {"oid": tree[path].etag} if path in tree else {}
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **oid})
    return json_answer({"files": files})


@endpoint("POST", "/api/{kind}/{id}/commit/{revision}")
def commit(call: Call, kind: str, repo_id: str, revision: str) -> Answer:
    repo = call.writable(kind, repo_id, revision)
    head = repo.at(revision)
    items = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    header = items[0]["value"]
    parent, author, ref, page = header.get("parentCommit") or head.oid, call.signed_in(), repo.ref(revision), {}
    if ref is None or ref.startswith("refs/tags/"):
        raise Refusal(400, f"{revision} is not a branch")
    if call.query.get("create_pr") == "1":
        start = repo.at(parent)
        tree = changed_tree(call.hub, start.tree, items[1:])
        pull = repo.open_pull_request(header["summary"], author, "open", revision, start)
        ref = f"refs/pr/{pull.num}"
        page = {"pullRequestUrl": f"{call.hub.url}/{repo.prefix}{repo_id}/discussions/{pull.num}"}
    elif head.oid.startswith(parent):
        tree = changed_tree(call.hub, head.tree, items[1:])
    else:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    new = repo.commit(ref, tree, header["summary"], author, header.get("description", ""))
    where = {"commitUrl": f"{call.hub.url}/{repo.prefix}{repo_id}/commit/{new.oid}", "commitOid": new.oid}
    return json_answer({"success": True, **where, **page})


def changed_tree(hub: LoopbackHub, tree: Tree, operations: list[dict[str, Any]]) -> Tree:
    tree = {**tree}
    for operation in operations:
        value = operation["value"]
        path = value["path"].strip("/")
        if operation["key"] == "file":
            tree[path] = hub.add(base64.b64decode(value["content"]), large=False)
        elif operation["key"] == "lfsFile":
            kept = hub.blobs / value["oid"]
            if hub.xet and value["oid"] not in hub.xet_hashes:
                hub.receive(value["oid"])
            if not kept.exists():
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
            tree[path] = large_blob(value["oid"], kept.stat().st_size)
        elif operation["key"] in ("deletedFile", "deletedFolder"):
            gone = below(tree, path)
            if not gone:
                raise Refusal(404, f"{path} does not exist", "EntryNotFound")
            tree = {name: blob for name, blob in tree.items() if name not in gone}
        else:
            raise Refusal(400, f"Unknown operation {operation['key']}")
    return tree


@endpoint("GET", "/api/{kind}/{id}/xet-{access}-token/{revision}")
def xet_token(call: Call, kind: str, repo_id: str, access: str, revision: str) -> Answer:
    if access == "write":
        call.writable(kind, repo_id, revision)
    else:
        call.repository(kind, repo_id)
    # The client's own simulation of the Xet store keeps what it is given in a folder.
    call.hub.cas.mkdir(exist_ok=True)
    where, token, end = f"local://{call.hub.cas}", "xet_loopback", int(time.time()) + 3600
    headers = {"X-Xet-Cas-Url": where, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(end)}
    return json_answer({"casUrl": where, "accessToken": token, "exp": end}, headers=headers)


@endpoint("POST", "/{prefix}{id}.git/info/lfs/objects/batch")
def lfs_batch(call: Call, prefix: str, repo_id: str) -> Answer:
    # Whoever may open a pull request may upload a file for it.
    call.repository(prefix, repo_id)
    call.signed_in()
    objects = []
    for wanted in call.json["objects"]:
        objects.append({"oid": wanted["oid"], "size": wanted["size"]})
        if not (call.hub.blobs / wanted["oid"]).exists():
            addresses = {"upload": f"{call.hub.url}/lfs/{wanted['oid']}", "verify": f"{call.hub.url}/lfs/verify"}
            objects[-1]["actions"] = {action: {"href": address} for action, address in addresses.items()}
    return json_answer({"transfer": "basic", "objects": objects})


@endpoint("PUT", "/lfs/{oid}")
def lfs_upload(call: Call, oid: str) -> Answer:
    if hashlib.sha256(call.body).hexdigest() != oid:
        raise Refusal(400, "The content does not match its oid")
    call.hub.add(call.body, large=True)
    return Answer(200, b"", {"ETag": f'"{oid}"'})


@endpoint("POST", "/lfs/verify")
def lfs_verify(call: Call) -> Answer:
    kept = call.hub.blobs / call.json["oid"]
    if not kept.exists() or kept.stat().st_size != call.json["size"]:
        raise Refusal(404, "No such object")
    return json_answer({})


@endpoint("GET", "/{prefix}{id}/resolve/{revision}/{path}")
def resolve(call: Call, prefix: str, repo_id: str, revision: str, path: str) -> Answer:
    repo = call.repository(prefix, repo_id)
    commit = repo.at(revision)
    if path not in commit.tree:
        raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.oid})
    blob = commit.tree[path]
    content = call.hub.content(blob)
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    headers["Content-Type"] = "application/octet-stream"
    if blob.large:
        headers |= {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        if call.hub.xet and blob.sha256 in call.hub.xet_hashes:
            route = f"{call.hub.url}/api/{repo.kind}s/{repo_id}/xet-read-token/{commit.oid}"
            headers |= {"X-Xet-Hash": call.hub.xet_hashes[blob.sha256], "X-Xet-Refresh-Route": route}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("Range", ""))
    if asked is None or asked[0] == "bytes=-":
        return Answer(200, content, headers)
    first = int(asked[1]) if asked[1] else max(blob.size - int(asked[2]), 0)
    last = min(int(asked[2]), blob.size - 1) if asked[1] and asked[2] else blob.size - 1
    if first > last:
        return Answer(416, b"", {**headers, "Content-Range": f"bytes */{blob.size}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{blob.size}"
    return Answer(206, content[first : last + 1], headers)


class Handler(BaseHTTPRequestHandler):
    """Reads a request, lets the Hub answer it, or does what a fault asks instead."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Server"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def handle_request(self) -> None:
        hub = self.server.hub
        address = urlsplit(self.path)
        path = unquote(address.path)
        query = {key: values[-1] for key, values in parse_qs(address.query, keep_blank_values=True).items()}
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        fault, resets = hub.fault(self.command, path), hub.resets
        how = fault.how if fault else ""
        body, complete = self.read_body(share=0.5 if how == "drop" else 1)
        stopped = fault is not None and how == "stall" and self.server.stopped.wait(fault.seconds)
        # What was asked of a Hub that has been emptied meanwhile is not done to the new one.
        stopped |= hub.resets != resets
        answer = None
        if how in ERRORS:
            answer = Refusal(int(how), ERRORS[how]).answer
        elif complete and how != "drop" and not stopped:
            answer = self.answer(Call(hub, query, self.headers, body, hub.tokens.get(token or "")), address.path)
        if answer is None or how == "drop_after":
            answer, status, sent = None, 0, b""
        else:
            status, sent = answer.status, b"" if self.command == "HEAD" else answer.body
            sent = sent[: len(sent) // 2] if how == "truncate" else sent
        agent = self.headers.get("User-Agent", "")
        # Before the answer: a client that has it may look at the requests at once.
        hub.requests.append(Request(self.command, path, query, status, len(body), len(sent), token, agent))
        self.close_connection |= answer is None or how == "truncate"
        if answer:
            self.send_answer(answer, sent)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def answer(self, call: Call, raw_path: str) -> Answer:
        try:
            with call.hub.lock:
                return answer_to(call, self.command, raw_path)
        except Refusal as refusal:
            return refusal.answer
        except Exception as error:
            # A defect of this Hub, which the client would only report as a failing server.
            traceback.print_exc()
            return Refusal(500, repr(error)).answer

    def read_body(self, share: float) -> tuple[bytes, bool]:
        """The given share of the body, and whether the client sent as much."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            length = int(int(self.headers.get("Content-Length", 0)) * share)
            body = self.rfile.read(length)
            return body, len(body) == length
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
            if share < 1:
                return b"".join(chunks), True
        return b"".join(chunks), self.rfile.readline() == b"\r\n"

    def send_answer(self, answer: Answer, sent: bytes) -> None:
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)


class Server(ThreadingHTTPServer):
    """Also closes the connections that clients keep open when it stops."""

    daemon_threads = True
    hub: LoopbackHub

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.stopped = threading.Event()
        self.connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no concern of the Hub."""

    def stop(self) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
