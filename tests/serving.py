"""A real server on this machine that hands out one file, as badly as a test asks for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = [
    "FileServer",
    "Handler",
    "answer",
    "cut",
    "page",
    "redirect",
    "serving",
    "stall",
    "stream",
    "trickle",
]

Behaviour = Callable[["Handler"], None]


class FileServer(ThreadingHTTPServer):
    """What it serves and how.

    Attributes
    ----------
    content : bytes
        The file, at any path.
    etag : str
        Sent as ETag and compared with If-Range; none where empty.
    ranges : bool
        Whether it knows of ranges.
    coming : deque of callable
        How the next requests are answered, one each; properly once it is empty.
    asked : list of tuple
        Range and If-Range of all requests so far.
    over : threading.Event
        Set when the test has ended, so that nothing stalls beyond it.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.etag = '"first"'
        self.ranges = True
        self.coming: deque[Behaviour] = deque()
        self.asked: list[tuple[str | None, str | None]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        """Where the file is."""
        return f"http://127.0.0.1:{self.server_address[1]}/files/sam.pth"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request as the server was told to."""

    server: FileServer

    def do_GET(self) -> None:
        self.server.asked.append((self.headers["Range"], self.headers["If-Range"]))
        behave = self.server.coming.popleft() if self.server.coming else properly
        behave(self)

    def log_message(self, *parts: object) -> None:
        """Keep quiet."""

    def head(self, status: int = 200, **fields: object) -> None:
        """Send a status and header fields; ``Content_Length=3`` is Content-Length."""
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def begin(self) -> bytes:
        """Send the head of a proper answer; return what belongs after it."""
        server, start = self.server, 0
        fields: dict[str, object] = {"ETag": server.etag} if server.etag else {}
        asked, named = self.headers["Range"], self.headers["If-Range"]
        if asked and server.ranges and named in (None, server.etag):
            start, size = int(asked.removeprefix("bytes=").rstrip("-")), len(server.content)
            if start >= size:
                self.head(416, Content_Range=f"bytes */{size}", Content_Length=0)
                return b""
            fields["Content_Range"] = f"bytes {start}-{size - 1}/{size}"
        rest = server.content[start:]
        status = 206 if "Content_Range" in fields else 200
        self.head(status, Content_Length=len(rest), **fields)
        return rest


def properly(handler: Handler) -> None:
    """The whole file, or the range that was asked for."""
    handler.wfile.write(handler.begin())


def cut(after: int) -> Behaviour:
    """End the connection after some bytes."""

    def behave(handler: Handler) -> None:
        handler.wfile.write(handler.begin()[:after])

    return behave


def stall(after: int) -> Behaviour:
    """Send nothing more after some bytes."""

    def behave(handler: Handler) -> None:
        handler.wfile.write(handler.begin()[:after])
        handler.server.over.wait(30)

    return behave


def trickle(pieces: int, seconds: float) -> Behaviour:
    """Send the file in pieces, with time between them."""

    def behave(handler: Handler) -> None:
        rest = handler.begin()
        size = -(-len(rest) // pieces)
        for start in range(0, len(rest), size):
            handler.wfile.write(rest[start : start + size])
            handler.server.over.wait(seconds)

    return behave


def stream(content: bytes) -> Behaviour:
    """Send a file without saying how long it is."""

    def behave(handler: Handler) -> None:
        handler.head()
        handler.wfile.write(content)

    return behave


def answer(status: int, body: bytes = b"", **fields: object) -> Behaviour:
    """Send a status and what else is given."""

    def behave(handler: Handler) -> None:
        handler.head(status, **{"Content_Length": len(body), **fields})
        handler.wfile.write(body)

    return behave


def page(kind: str = "text/html; charset=utf-8") -> Behaviour:
    """A page to log in at, in place of the file."""
    return answer(200, b"\n<!DOCTYPE html><title>Log in</title>", Content_Type=kind)


def redirect(location: str, status: int = 302) -> Behaviour:
    """Send the client elsewhere."""
    return answer(status, Location=location)


@contextmanager
def serving(content: bytes) -> Iterator[FileServer]:
    """A server for as long as a test takes."""
    with FileServer(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
