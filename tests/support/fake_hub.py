"""A small hub on a loopback port: enough of its API for the real `huggingface_hub` client.

Serves one repository at one revision from a dictionary of files. Large files (LFS) are redirected
to another origin, as the hub's are to its storage. Counts what is fetched, and misbehaves on
request. Knows nothing of what the client should do.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".model", ".onnx")


class Fault(Enum):
    """How the hub misbehaves when a file's content is asked for."""

    FLIPPED_BIT = auto()  # right size, one bit wrong
    CUT_OFF = auto()  # half of it, announced as the whole
    REFUSED = auto()  # HTTP 503
    STALLED = auto()  # half of it, then silence until the hub is closed


@dataclass(frozen=True)
class RemoteFile:
    """One file of the repository, and what the hub tells of it."""

    name: str
    data: bytes

    @property
    def is_lfs(self) -> bool:
        """Whether git stores only a pointer to it."""
        return self.name.endswith(LFS_SUFFIXES)

    @property
    def sha256(self) -> str:
        """Of the content; the hub tells it of large files only."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git stores of a large file."""
        oid = f"oid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return b"version https://git-lfs.github.com/spec/v1\n" + oid.encode()

    @property
    def blob_id(self) -> str:
        """Git's id of what git stores: the file itself, or the pointer to it."""
        return git_sha1(self.pointer if self.is_lfs else self.data)

    @property
    def etag(self) -> str:
        """The sha256 of a large file, git's id of another."""
        return self.sha256 if self.is_lfs else self.blob_id

    def sibling(self, claimed_size: int | None) -> dict[str, Any]:
        """Its entry in the repository's list of files."""
        size = len(self.data) if claimed_size is None else claimed_size
        entry = {"rfilename": self.name, "size": size, "blobId": self.blob_id}
        if not self.is_lfs:
            return entry
        lfs = {"sha256": self.sha256, "size": size, "pointerSize": len(self.pointer)}
        return entry | {"lfs": lfs}


def git_sha1(data: bytes) -> str:
    """The id git gives a blob, as `git hash-object` prints it.

    Example:
        >>> git_sha1(b"hello")
        'b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0'
    """
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data), usedforsecurity=False).hexdigest()


@dataclass
class FakeHub:
    """A running hub.

    Attributes:
        files: what the repository holds.
        faults: what goes wrong with a file; tests add and remove entries.
        claimed_sizes: sizes to report instead of the true ones.
        fetched: how often each file's content was asked for.
        stalled: set when a stalled file has sent its half.
    """

    repository: str
    revision: str
    files: Mapping[str, RemoteFile]
    endpoint: str = ""
    faults: dict[str, Fault] = field(default_factory=dict)
    claimed_sizes: dict[str, int] = field(default_factory=dict)
    fetched: Counter[str] = field(default_factory=Counter)
    stalled: Event = field(default_factory=Event)
    closing: Event = field(default_factory=Event)


@contextmanager
def running_hub(repository: str, revision: str, files: Mapping[str, bytes]) -> Iterator[FakeHub]:
    """Serve `files`, by their paths in the repository, until the block ends."""
    remote = {name: RemoteFile(name, data) for name, data in files.items()}
    hub = FakeHub(repository, revision, remote)
    with _Server(hub) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.closing.set()
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: FakeHub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base's name
        pass

    def _answer(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        newest = f"/api/models/{hub.repository}"
        api = (newest, f"{newest}/revision/{hub.revision}")
        resolve = f"/{hub.repository}/resolve/{hub.revision}/"
        if url.path in api:
            blobs = parse_qs(url.query).get("blobs") in (["true"], ["True"])
            self._send_json(hub, with_blobs=blobs)
        elif url.path.startswith(resolve) and url.path.removeprefix(resolve) in hub.files:
            self._resolve(hub, hub.files[url.path.removeprefix(resolve)])
        elif url.path.startswith("/storage/") and url.path.removeprefix("/storage/") in hub.files:
            self._send_content(hub, hub.files[url.path.removeprefix("/storage/")], {})
        else:
            self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")

    def _send_json(self, hub: FakeHub, *, with_blobs: bool) -> None:
        siblings = [file.sibling(hub.claimed_sizes.get(name)) for name, file in hub.files.items()]
        if not with_blobs:
            siblings = [{"rfilename": sibling["rfilename"]} for sibling in siblings]
        info = {"id": hub.repository, "sha": hub.revision, "siblings": siblings}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(info).encode())

    def _resolve(self, hub: FakeHub, file: RemoteFile) -> None:
        headers = {"X-Repo-Commit": hub.revision, "ETag": f'"{file.etag}"'}
        if not file.is_lfs:
            self._send_content(hub, file, headers)
            return
        linked = {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
        storage = f"http://localhost:{self.server.server_port}/storage/{file.name}"
        self._send(302, headers | linked | {"Location": storage}, b"")

    def _send_content(self, hub: FakeHub, file: RemoteFile, headers: Mapping[str, str]) -> None:
        data, half = file.data, len(file.data) // 2
        if self.command == "GET":
            hub.fetched[file.name] += 1
            match hub.faults.get(file.name):
                case Fault.FLIPPED_BIT:
                    data = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
                case Fault.CUT_OFF:
                    data = data[:half]
                case Fault.REFUSED:
                    self._send(503, {}, b"")
                    return
                case Fault.STALLED:
                    self._stall(hub, data)
                    return
        self._send(200, headers, data)

    def _stall(self, hub: FakeHub, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        hub.stalled.set()
        hub.closing.wait()
        self.close_connection = True

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
