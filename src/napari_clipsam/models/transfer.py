"""One request to a server, made so that nobody has to wait for it.

A thread of its own talks to the server and hands on what comes; whoever reads it is never held up
for longer than a moment, and may leave at any time.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from napari_clipsam.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CutOff", "Head", "Missing", "Patience", "host_of", "transfer", "web_page"]

#: What is lost at most when a connection is cut; a multiple of what the network brings at a time.
_CHUNK = 1 << 14
#: Chunks that may wait to be read.
_AHEAD = 256
_TICK = 0.1
_HOPS = 10
_LOCAL = ("localhost", "127.0.0.1", "::1")
_END = object()
_RANGE = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?P<total>\d+)")
#: Answers of servers that are busy and may not be a moment later.
_BUSY = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, in seconds.

    Attributes
    ----------
    connect : float
        Until it answers at all.
    stall : float
        Until the next bytes come.
    pauses : tuple of float
        Before each further try; there are as many.
    """

    connect: float = 15.0
    stall: float = 30.0
    pauses: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 15.0)


@dataclass(frozen=True)
class Head:
    """What a server says before the bytes.

    Attributes
    ----------
    status : int
        200: the whole file comes. 206: the rest of it. 416: there is no rest.
    start : int
        Where in the file the first byte belongs; -1 where the server does not say it.
    total : int or None
        Bytes of the whole file.
    validator : str
        Names this very content, for a later ``If-Range``; empty where the server gives none.
    """

    status: int
    start: int
    total: int | None
    validator: str


class Missing(Exception):
    """The server knows no such file."""


class CutOff(Exception):
    """The connection was lost, or the server is busy; another try may do.

    Attributes
    ----------
    reached : bool
        Whether a server answered at all.
    wait : float
        Seconds the server asks to wait.
    """

    def __init__(self, reason: str, reached: bool = True, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reached = reached
        self.wait = wait


def transfer(
    url: str, start: int, validator: str, patience: Patience
) -> Generator[Head | bytes | None, None, None]:
    """Ask for a file from a byte on.

    Parameters
    ----------
    url : str
    start : int
        Bytes that are there already.
    validator : str
        `Head.validator` of what is there; empty asks for the rest whatever it is.
    patience : Patience

    Yields
    ------
    Head, then bytes
        And None whenever nothing came for a moment.

    Raises
    ------
    DownloadError
        The server refuses, or what comes is no file; the message says what happened, not what to
        do.
    Missing, CutOff
    """
    coming: queue.Queue[Any] = queue.Queue(_AHEAD)
    left = threading.Event()

    def hand_on(item: object) -> bool:
        while not left.is_set():
            try:
                coming.put(item, timeout=_TICK)
                return True
            except queue.Full:
                pass
        return False

    def talk() -> None:
        try:
            for item in _converse(url, start, validator, patience):
                if not hand_on(item):
                    return
            hand_on(_END)
        except Exception as error:  # noqa: BLE001 - raised again where it is read
            hand_on(error)

    threading.Thread(target=talk, name="napari-clipsam-download", daemon=True).start()
    try:
        while True:
            try:
                item = coming.get(timeout=_TICK)
            except queue.Empty:
                yield None
                continue
            if item is _END:
                return
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        left.set()


def _converse(url: str, start: int, validator: str, patience: Patience) -> Iterator[Head | bytes]:
    """Head and bytes, as they come; blocks."""
    import requests
    from urllib3.exceptions import HTTPError

    headers = {"Accept-Encoding": "identity", "User-Agent": "napari-clipsam"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    reached = False
    try:
        with requests.Session() as session:
            response = _follow(session, url, headers, patience)
            with response:
                reached = True
                head = _read_head(response)
                yield head
                if head.status != 416:
                    yield from _body(response)
    except (requests.RequestException, HTTPError, OSError) as error:
        raise _understood(error, url, reached) from error


def _body(response: Any) -> Iterator[bytes]:
    if "Content-Encoding" in response.headers:
        yield from response.iter_content(_CHUNK)
        return
    # Unlike iter_content, this hands on what came before a cut.
    while chunk := response.raw.read(_CHUNK, decode_content=False):
        yield chunk


def _follow(session: Any, url: str, headers: dict[str, str], patience: Patience) -> Any:
    """The answer at the end of all redirects, each of which has to be as safe as the first."""
    for _ in range(_HOPS):
        _check_address(url)
        response = session.get(
            url,
            headers=headers,
            stream=True,
            allow_redirects=False,
            timeout=(patience.connect, patience.stall),
        )
        location = response.headers.get("Location")
        if not (response.is_redirect and location):
            return response
        response.close()
        url = urljoin(url, location)
    raise DownloadError(f"{host_of(url)} redirects without end.")


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL):
        return
    raise DownloadError(
        f"The way to the file leads over {parts.scheme}://{parts.hostname or ''}, which is not "
        "secure: a proxy, or a network that wants a login, may have stepped in."
    )


def _read_head(response: Any) -> Head:
    status, host = response.status_code, host_of(response.url)
    fields = response.headers
    if status in (404, 410):
        raise Missing(f"{host} does not have the file (status {status}).")
    if status in _BUSY:
        raise CutOff(f"{host} is busy (status {status})", wait=_seconds(fields.get("Retry-After")))
    if status == 407:
        raise DownloadError("The proxy asks for a name and password (status 407).")
    if status not in (200, 206, 416):
        raise DownloadError(f"{host} refuses to give the file (status {status}).")
    if "html" in fields.get("Content-Type", "").lower():
        raise DownloadError(web_page(response.url))
    start, total = 0, None
    span = _RANGE.fullmatch(fields.get("Content-Range", ""))
    length = fields.get("Content-Length", "")
    if status == 200 and length.isdigit() and "Content-Encoding" not in fields:
        total = int(length)
    elif status != 200 and span:
        start, total = int(span["start"] or 0), int(span["total"])
    elif status != 200:
        # A part of who knows what; asked again from the beginning.
        start = -1
    tag = fields.get("ETag", "")
    # A weak tag promises the same meaning, not the same bytes.
    validator = tag if tag and not tag.startswith("W/") else fields.get("Last-Modified", "")
    return Head(status, start, total, validator)


def _seconds(retry_after: str | None) -> float:
    """What a server asks to wait; a date instead of a number is not worth the reading."""
    return float(retry_after) if retry_after and retry_after.isdigit() else 0.0


def _understood(error: Exception, url: str, reached: bool) -> Exception:
    """A failure of the network as what it means here."""
    import requests

    host = host_of(url)
    if isinstance(error, requests.exceptions.ProxyError):
        return DownloadError(f"The proxy on the way to {host} does not let the file through.")
    if isinstance(error, requests.exceptions.SSLError):
        return DownloadError(
            f"{host} cannot prove that it is {host}: a proxy may read along. If that is meant, set "
            "REQUESTS_CA_BUNDLE to its certificate."
        )
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidHeader):
        return DownloadError(f"The address {url} cannot be used.")
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return CutOff(f"{host} does not answer", reached=False)
    if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
        return CutOff(f"nothing came from {host} any more")
    if not reached and isinstance(error, requests.exceptions.ConnectionError):
        refused = "Connection aborted" not in str(error)
        return CutOff(f"{host} cannot be reached", reached=not refused)
    return CutOff(f"the connection to {host} was cut")


def web_page(url: str) -> str:
    """What to say of a page in place of a file."""
    return (
        f"{host_of(url)} answered with a web page, not with the file: a proxy, or a network that "
        "wants a login, may have stepped in."
    )


def host_of(url: str) -> str:
    """The server of an address, for messages."""
    return urlsplit(url).hostname or url
