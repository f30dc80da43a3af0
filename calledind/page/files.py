# mypy: allow-untyped-calls
"""The page's own files, from the package: read once, named by their contents' hash, and nothing that is not there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from twisted.web.http import CACHED
from twisted.web.resource import Resource

from calledind.api.answers import respond
from calledind.api.site import Request

FOLDER = Path(__file__).parent / "static"
SHELL = "index.html"
"What each view's address is answered with: the views are drawn by its scripts."
KINDS = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".LICENSE": b"text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class File:
    """One file, in memory."""

    kind: bytes
    "Of the Content-Type header."
    content: bytes
    etag: bytes


def read_files(folder: Path = FOLDER) -> dict[str, File]:
    """Return path below `folder` -> file, for all whose kind is known. Raises OSError."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in KINDS:
            content = path.read_bytes()
            etag = b'"%b"' % hashlib.sha256(content).hexdigest()[:20].encode()
            found[path.relative_to(folder).as_posix()] = File(KINDS[path.suffix], content, etag)
    return found


class Static(Resource):
    """Serves the files below its own path."""

    isLeaf = True

    def __init__(self, files: dict[str, File]) -> None:
        super().__init__()
        self._files = files

    def render_GET(self, request: Request) -> bytes:
        name = b"/".join(request.postpath or ()).decode("latin-1")
        file = self._files.get(name)
        return respond(request, 404, "there is no such file") if file is None else give(request, file)


class Shell(Resource):
    """The page itself, whichever of its views is asked for."""

    isLeaf = True

    def __init__(self, files: dict[str, File]) -> None:
        super().__init__()
        self._file = files[SHELL]

    def render_GET(self, request: Request) -> bytes:
        return give(request, self._file)


def give(request: Request, file: File) -> bytes:
    """Answer with a file, or with 304 where the browser has it; it asks each time, which costs no more than that."""
    request.setHeader(b"content-type", file.kind)
    request.setHeader(b"cache-control", b"no-cache")
    if request.setETag(file.etag) is CACHED:
        return b""
    request.setHeader(b"content-length", b"%d" % len(file.content))
    return b"" if request.method == b"HEAD" else file.content
