"""A hub in this process: the endpoints that huggingface_hub uses to upload a repository and to load it again."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

_RELATIONS = {None, "finetune", "merge", "adapter", "quantized"}
_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass
class Repository:
    """A repository: the files of each commit, and the commit of each branch."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, changes: dict[str, bytes]) -> str:
        files = {**self.files(branch), **changes} if branch in self.branches else changes
        text = "".join(f"{name}\0{hashlib.sha256(data).hexdigest()}" for name, data in sorted(files.items()))
        sha = hashlib.sha1(f"{text}{len(self.commits)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def sha(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.sha(revision) or ""]


@dataclass
class FakeHub:
    """Users by their tokens, repositories by their ids; ``fails`` is the status with which all commits are answered."""

    url: str = ""
    users: dict[str, str] = field(default_factory=lambda: {"hf_ann": "ann"})
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fails: int = 0
    remark: str = ""

    def make(self, repo: str, files: dict[str, bytes], private: bool = False) -> Repository:
        """Make a repository that holds files already."""
        self.repositories[repo] = made = Repository(private)
        made.commit("main", files)
        return made


class RefusedError(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@contextmanager
def fake_hub() -> Generator[FakeHub]:
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _is_large(name: str, data_size: int) -> bool:
    return name.endswith(".safetensors") or data_size > 10_000_000


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _lfs(data: bytes) -> dict:
    digest = hashlib.sha256(data).hexdigest()
    return {"oid": digest, "sha256": digest, "size": len(data), "pointerSize": 134}


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        """Be silent."""

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while (length := int(self.rfile.readline(), 16)) or self.rfile.readline() is None:
                body += self.rfile.read(length)
                self.rfile.readline()
        else:
            body = self.rfile.read(size)
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        try:
            self._route(path, body)
        except RefusedError as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            self._send(refused.status, {"error": refused.message, "errors": [{"message": refused.message}]}, headers)

    def __getattr__(self, name: str):
        if name in {"do_GET", "do_HEAD", "do_POST", "do_PUT"}:
            return self._answer
        raise AttributeError(name)

    def _send(self, status: int, value, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _user(self) -> str:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token, "")

    def _repository(self, repo: str, write: bool = False) -> Repository:
        user, found = self._user(), self.hub.repositories.get(repo)
        if found is None or (found.private and repo.partition("/")[0] != user):
            raise RefusedError(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and repo.partition("/")[0] != user:
            raise RefusedError(403, "You don't have the rights to write to this repository")
        return found

    def _route(self, path: str, body: bytes) -> None:
        routes = {
            r"GET /api/whoami-v2": self._whoami,
            r"POST /api/repos/create": self._create,
            r"POST /api/validate-yaml": self._validate,
            r"GET /api/models/([^/]+/[^/]+)(?:/revision/(.+))?": self._info,
            r"GET /api/models/([^/]+/[^/]+)/tree/([^/]+)": self._tree,
            r"POST /api/models/([^/]+/[^/]+)/preupload/(.+)": self._preupload,
            r"POST /api/models/([^/]+/[^/]+)/branch/(.+)": self._branch,
            r"POST /api/models/([^/]+/[^/]+)/commit/(.+)": self._commit,
            r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch": self._batch,
            r"PUT /lfs/([0-9a-f]{64})": self._store,
            r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)": self._resolve,
        }
        for pattern, do in routes.items():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return do(body, *found.groups())
        raise RefusedError(404, f"no such endpoint: {self.command} {path}")

    def _whoami(self, _body: bytes) -> None:
        if not (user := self._user()):
            raise RefusedError(401, "Invalid username or password.")
        self._send(200, {"type": "user", "name": user, "orgs": []})

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        user = self._user()
        repo = f"{asked.get('organization') or user}/{asked['name']}"
        if repo.partition("/")[0] != user:
            raise RefusedError(403, "You don't have the rights to create a model under this namespace")
        if repo in self.hub.repositories:
            raise RefusedError(409, "You already created this model repo")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.make(repo, {".gitattributes": b"*.safetensors filter=lfs\n"}, private)
        self._send(200, {"url": f"{self.hub.url}/{repo}"})

    def _validate(self, body: bytes) -> None:
        text = json.loads(body)["content"]
        found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        data = yaml.safe_load(found[1]) if found else {}
        models = data.get("base_model") or []
        models = models if isinstance(models, list) else [models]
        if not all(_ID.fullmatch(model) for model in models):
            raise RefusedError(400, '"base_model" with value is not valid. Use a model id')
        if data.get("base_model_relation") not in _RELATIONS or not isinstance(data.get("license", ""), str):
            raise RefusedError(400, '"license" must be one of the known licences')
        self._send(200, {"errors": [], "warnings": [{"message": self.hub.remark}] if self.hub.remark else []})

    def _info(self, _body: bytes, repo: str, revision: str | None) -> None:
        found = self._repository(repo)
        sha = found.sha(revision or "main")
        if sha is None:
            raise RefusedError(404, "Invalid rev id", "RevisionNotFound")
        siblings = [
            {"rfilename": name, "size": len(data), "blobId": _blob(data)}
            | ({"lfs": _lfs(data)} if _is_large(name, len(data)) else {})
            for name, data in found.commits[sha].items()
        ]
        about = {"_id": "1", "id": repo, "modelId": repo, "tags": []}
        self._send(200, {**about, "sha": sha, "private": found.private, "siblings": siblings})

    def _tree(self, _body: bytes, repo: str, revision: str) -> None:
        files = self._repository(repo).files(revision)
        tree = [
            {"type": "file", "path": name, "size": len(data), "oid": _blob(data)}
            | ({"lfs": _lfs(data)} if _is_large(name, len(data)) else {})
            for name, data in files.items()
        ]
        self._send(200, tree)

    def _preupload(self, body: bytes, repo: str, revision: str) -> None:
        files = self._repository(repo, write=True).files(revision)
        answer = []
        for one in json.loads(body)["files"]:
            mode = "lfs" if _is_large(one["path"], one["size"]) else "regular"
            data = files.get(one["path"])
            oid = None if data is None else hashlib.sha256(data).hexdigest() if mode == "lfs" else _blob(data)
            answer.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._send(200, {"files": answer})

    def _batch(self, body: bytes, repo: str) -> None:
        self._repository(repo, write=True)
        objects = [
            {"oid": one["oid"], "size": one["size"]}
            | (
                {}
                if one["oid"] in self.hub.stored
                else {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
            )
            for one in json.loads(body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def _store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise RefusedError(400, "digest does not match")
        self.hub.stored[oid] = body
        self._send(200, {})

    def _branch(self, _body: bytes, repo: str, branch: str) -> None:
        found = self._repository(repo, write=True)
        if branch in found.branches:
            raise RefusedError(409, "Reference already exists")
        found.branches[branch] = found.branches["main"]
        self._send(200, {})

    def _commit(self, body: bytes, repo: str, revision: str) -> None:
        found = self._repository(repo, write=True)
        if self.hub.fails:
            raise RefusedError(self.hub.fails, "the hub is having a bad day <b>today</b>")
        changes = {}
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                changes[value["path"]] = self.hub.stored[value["oid"]]
        sha = found.commit(revision, changes)
        self._send(200, {"success": True, "commitUrl": f"{self.hub.url}/{repo}/commit/{sha}", "commitOid": sha})

    def _resolve(self, _body: bytes, repo: str, revision: str, name: str) -> None:
        found = self._repository(repo)
        sha = found.sha(revision)
        data = None if sha is None else found.commits[sha].get(name)
        if sha is None or data is None:
            raise RefusedError(404, "Entry not found", "EntryNotFound")
        digest = hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": sha, "ETag": f'"{digest if _is_large(name, len(data)) else _blob(data)}"'}
        self._send(200, data, headers | {"Content-Type": "application/octet-stream"})
