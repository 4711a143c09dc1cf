"""A stand-in for the Hugging Face hub that speaks its protocol on this machine, for its own library to talk to."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class Repository:
    """What the hub has under one name."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    @property
    def sha(self) -> str:
        """The commit, which changes with the files."""
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


@dataclass
class Hub:
    """The stand-in.

    Attributes:
        address: for HF_ENDPOINT.
        repositories: by name.
        requests: method and path of each request so far.
        tokens: what was sent to say who asks.
        refusals: statuses of the next commits, which aren't taken.
    """

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    stored: dict[str, bytes] = field(default_factory=dict)
    refusals: list[int] = field(default_factory=list)


@contextmanager
def running() -> Iterator[Hub]:
    """Run a hub while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle_one_request(self) -> None:
        """Answer, whoever has left meanwhile."""
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_GET(self) -> None:
        """Tell about a repository, or give a file."""
        self._note()
        path = self.path.partition("?")[0]
        if path.startswith(("/api/models/", "/api/datasets/")):
            name, listed, revision = path.split("/", 3)[3].partition("/tree/")
            if not listed:
                name, _, revision = name.partition("/revision/")
            if repository := self._found(name, revision):
                if listed:
                    files = repository.files.items()
                    self._answer([{"type": "file", "path": each, "size": len(held), "oid": ""} for each, held in files])
                    return
                told = {"id": name, "sha": repository.sha, "private": repository.private, "gated": repository.gated}
                self._answer({**told, "siblings": [{"rfilename": each} for each in repository.files]})
            return
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        if repository := self._found(name, revision, file):
            if repository.gated:
                self._refuse(403, "GatedRepo")
                return
            content = repository.files[file]
            etag = hashlib.sha1(content).hexdigest()
            self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": repository.sha})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Make a repository, take a commit, or tell where to put large files."""
        self._note()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            known = name in self.hub.repositories
            if not known:
                self.hub.repositories[name] = Repository(
                    private=asked.get("visibility") == "private" or asked.get("private", False)
                )
            self._answer({"url": f"{self.hub.address}/{name}", "id": name}, 409 if known else 200)
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [self._place(each) for each in json.loads(body)["objects"]]
            self._answer({"transfer": "basic", "objects": objects})
        elif "/preupload/" in path:
            files = [
                {"path": each["path"], "uploadMode": self._mode(each["path"]), "shouldIgnore": False, "oid": None}
                for each in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif self.hub.refusals:
            self._refuse(self.hub.refusals.pop(), "Busy")
        else:
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            repository = self.hub.repositories[name]
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    repository.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    repository.files[value["path"]] = self.hub.stored[value["oid"]]
                elif line["key"] == "deletedFile":
                    del repository.files[value["path"]]
            address = f"{self.hub.address}/{name}/commit/{repository.sha}"
            self._answer({"success": True, "commitOid": repository.sha, "commitUrl": address, "hookOutput": ""})

    def do_PUT(self) -> None:
        """Take a large file."""
        self._note()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.stored[hashlib.sha256(content).hexdigest()] = content
        self._send(200, b"", {})

    def _note(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        if token := self.headers.get("Authorization"):
            self.hub.tokens.add(token)

    def _mode(self, path: str) -> str:
        return "lfs" if path.endswith((".safetensors", ".gguf")) else "regular"

    def _place(self, asked: dict[str, Any]) -> dict[str, Any]:
        where = {"upload": {"href": f"{self.hub.address}/put/{asked['oid']}"}}
        return {"oid": asked["oid"], "size": asked["size"]} | (
            {} if asked["oid"] in self.hub.stored else {"actions": where}
        )

    def _found(self, name: str, revision: str, file: str = "") -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._refuse(404, "RepoNotFound")
        elif revision not in ("", "main", repository.sha):
            self._refuse(404, "RevisionNotFound")
        elif file and file not in repository.files:
            self._refuse(404, "EntryNotFound")
        else:
            return repository
        return None

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code})

    def _answer(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
