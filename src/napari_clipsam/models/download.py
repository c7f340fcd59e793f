"""Large files from the network: with progress, resumed, stopped at any time, checked before use."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from napari_clipsam._machine import size_text
from napari_clipsam.errors import DownloadError, OutputError, Stopped
from napari_clipsam.models.checksum import Checksum, hashing
from napari_clipsam.models.transfer import (
    CutOff,
    Head,
    Missing,
    Patience,
    host_of,
    transfer,
    web_page,
)

__all__ = ["Download", "DownloadProgress", "Patience", "discard"]

#: Bytes that make a try count as a success, after which patience begins anew.
_WORTHWHILE = 1 << 20
#: Of what a busy server asks to wait.
_LONGEST_WAIT = 30.0
_REPORT_EVERY = 0.1
_TICK = 0.05


@dataclass(frozen=True)
class DownloadProgress:
    """How far a download is.

    Attributes
    ----------
    done : int
        Bytes that are there.
    total : int or None
        Bytes of the whole file, where the server says it.
    seconds_left : float or None
        At the pace of the last seconds; None before there is one.
    """

    done: int
    total: int | None
    seconds_left: float | None


Progress = Generator[DownloadProgress, None, None]


class Download:
    """One file on its way.

    Iterating over `run` moves it on; leaving at any point keeps what has come, and a later run goes
    on from there.

    Parameters
    ----------
    name : str
        What the user calls the file.
    sources : sequence of str
        Addresses; the next is tried where one does not have the file.
    part : Path
        Where it is written. Beside it goes a note of which content of which address it is.
    checksum : Checksum, optional
        What it has to hash to.
    stop : callable
        Asked many times a second; True ends it.
    patience : Patience

    Attributes
    ----------
    source : str
        The address it came from.
    sha256 : str
        Of the whole file, once `run` has ended.
    """

    def __init__(
        self,
        name: str,
        sources: Sequence[str],
        part: Path,
        checksum: Checksum | None = None,
        stop: Callable[[], bool] = lambda: False,
        patience: Patience | None = None,
    ) -> None:
        self.source = sources[0]
        self.sha256 = ""
        self._name = name
        self._sources = tuple(sources)
        self._part = part
        self._checksum = checksum
        self._stop = stop
        self._patience = patience or Patience()
        self._total: int | None = None
        self._pace = _Pace()

    def run(self) -> Progress:
        """Fetch and verify the file.

        Yields
        ------
        DownloadProgress
            Several times a second, also while nothing comes.

        Raises
        ------
        DownloadError
            It cannot be had, or is not what it should be; of the latter nothing is kept.
        OutputError
            It cannot be written; what has come is kept.
        Stopped
            What has come is kept.
        """
        for source in self._in_order():
            self.source = source
            try:
                yield from self._from_source()
                return
            except Missing as error:
                reason = str(error)
        raise DownloadError(f"{reason} {self._advice()}")

    def _in_order(self) -> list[str]:
        """The addresses; that of what has come already first."""
        begun = self._note().get("source")
        return sorted(self._sources, key=lambda source: source != begun)

    def _from_source(self) -> Progress:
        resumed = self._size() > 0
        yield from self._fetch()
        right = yield from self._verify()
        if not right and resumed:
            # Parts of two files may have been put together; the whole of one may do.
            discard(self._part)
            yield from self._fetch()
            right = yield from self._verify()
        if not right:
            discard(self._part)
            raise DownloadError(self._other_bytes())

    # ------------------------------------------------------------ fetching

    def _fetch(self) -> Progress:
        """All tries it takes until the file is complete."""
        failures, farthest = 0, self._size()
        while True:
            try:
                yield from self._try()
                return
            except CutOff as cut:
                failures = 0 if self._size() > farthest + _WORTHWHILE else failures + 1
                farthest = max(farthest, self._size())
                pauses = self._patience.pauses
                if failures > len(pauses) or not (cut.reached or self._pace.moved):
                    raise DownloadError(self._no_network(cut)) from cut
                pause = pauses[failures - 1] if failures else 0.0
                yield from self._pause(max(pause, min(cut.wait, _LONGEST_WAIT)))
            except DownloadError as error:
                raise DownloadError(f"{error} {self._advice()}") from error

    def _try(self) -> Progress:
        """One request, from where the file ends on."""
        start, validator = self._resume_point()
        with closing(transfer(self.source, start, validator, self._patience)) as coming:
            head = None
            for item in coming:
                self._check_stop()
                if isinstance(item, Head):
                    head = item
                    break
                yield self._progress(start)
            assert head is not None  # the first thing that comes, or an error
            if self._is_complete(head, start):
                return
            fits = head.status == 206 and head.start == start
            if head.status != 200 and not (fits and self._total in (None, head.total)):
                discard(self._part)
                raise CutOff(f"{host_of(self.source)} answered with another part of the file")
            yield from self._receive(coming, head)

    def _is_complete(self, head: Head, start: int) -> bool:
        """Whether all is there already, which a server says by having no rest."""
        return head.status == 416 and start > 0 and head.total == start

    def _receive(self, coming: Generator[Head | bytes | None, None, None], head: Head) -> Progress:
        """Write what comes."""
        done, file = head.start, None
        self._total = head.total
        reported = 0.0
        try:
            for item in coming:
                self._check_stop()
                if isinstance(item, bytes):
                    if file is None:
                        file = self._opened(item, head)
                    self._write(file, item)
                    done += len(item)
                    self._pace.add(done)
                if item is None or time.monotonic() - reported > _REPORT_EVERY:
                    reported = time.monotonic()
                    yield self._progress(done)
            if file is None:
                raise DownloadError(f"{host_of(self.source)} sent an empty file.")
            self._write(file, b"")
        finally:
            if file is not None:
                with suppress(OSError):
                    file.close()
        if self._total is not None and done < self._total:
            raise CutOff(f"the connection to {host_of(self.source)} was cut")
        yield self._progress(done)

    def _opened(self, first: bytes, head: Head) -> IO[bytes]:
        """The file, open at the place of the first bytes, which tell whether it is worth it."""
        if head.start == 0 and first.lstrip()[:1] == b"<":
            raise DownloadError(web_page(self.source))
        try:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            self._check_space(head)
            if head.start:
                return self._part.open("ab")
            file = self._part.open("wb")
            note = {"source": self.source, "validator": head.validator, "total": head.total}
            _note_of(self._part).write_text(json.dumps(note), encoding="utf-8")
            return file
        except OSError as error:
            raise self._unwritable(error) from error

    def _write(self, file: IO[bytes], chunk: bytes) -> None:
        """Write a chunk; an empty one sees to it that all is on the disk."""
        try:
            file.write(chunk)
            if not chunk:
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _check_space(self, head: Head) -> None:
        """Refuse what the disk has no room for, before it is full."""
        free = shutil.disk_usage(self._part.parent).free
        needed = 0 if head.total is None else head.total - head.start
        if needed > free:
            raise OutputError(
                f"{self._name} needs {size_text(needed)} more, and {self._part.parent} has "
                f"{size_text(free)} left. Free some space, or set NAPARI_CLIPSAM_HOME to another "
                "folder."
            )

    def _resume_point(self) -> tuple[int, str]:
        """Bytes that are there and what names them; what cannot be resumed is thrown away."""
        size = self._size()
        if size == 0:
            return 0, ""
        note = self._note()
        validator, total = str(note.get("validator", "")), note.get("total")
        # Without a validator only a checksum tells whether two parts are of one file.
        known = validator or self._checksum is not None
        if known and note.get("source") == self.source and (total is None or size <= total):
            self._total = total
            return size, validator
        discard(self._part)
        self._total = None
        return 0, ""

    def _note(self) -> dict[str, Any]:
        """What is known of the part; nothing where the note is missing or damaged."""
        try:
            note = json.loads(_note_of(self._part).read_text(encoding="utf-8"))
            total = note["total"]
            sound = total is None or isinstance(total, int)
            return dict(note) if sound else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _size(self) -> int:
        try:
            return self._part.stat().st_size
        except OSError:
            return 0

    # ------------------------------------------------------------ checking, waiting

    def _verify(self) -> Generator[DownloadProgress, None, bool]:
        kinds = {"sha256", self._checksum.kind if self._checksum else "sha256"}
        try:
            steps = hashing(self._part, kinds)
            while True:
                self._check_stop()
                try:
                    next(steps)
                except StopIteration as end:
                    digests: dict[str, str] = end.value
                    break
                yield self._progress(self._size())
        except OSError as error:
            raise OutputError(
                f"{self._part} cannot be read again ({error.strerror}). Start the download anew."
            ) from error
        self.sha256 = digests["sha256"]
        return self._checksum is None or self._checksum.matches(digests[self._checksum.kind])

    def _check_stop(self) -> None:
        if self._stop():
            of = "" if self._total is None else f" of {size_text(self._total)}"
            raise Stopped(
                f"The download of {self._name} was stopped at {size_text(self._size())}{of}; what "
                "is there is kept. Start it again to go on from there."
            )

    def _pause(self, seconds: float) -> Progress:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._check_stop()
            yield self._progress(self._size())
            time.sleep(min(_TICK, seconds))

    def _progress(self, done: int) -> DownloadProgress:
        return DownloadProgress(done, self._total, self._pace.left(done, self._total))

    # ------------------------------------------------------------ messages

    def _advice(self) -> str:
        return (
            f"Try again later, or get {self.source} in another way and run `napari-clipsam models "
            f"import {self._name} FILE`."
        )

    def _no_network(self, cut: CutOff) -> str:
        kept = "; what has come is kept" if self._size() else ""
        return f"{self._name} could not be downloaded: {cut}{kept}. {self._advice()}"

    def _other_bytes(self) -> str:
        assert self._checksum is not None  # only what was compared can differ
        meant = (
            "its publisher states"
            if self._checksum.origin == "publisher"
            else "was first downloaded here"
        )
        return (
            f"The file from {host_of(self.source)} is not the one that {meant} ({self._checksum}); "
            f"it was deleted. {self._advice()}"
        )

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self._part.parent} cannot be written to ({error.strerror}). Free some space, or set "
            "NAPARI_CLIPSAM_HOME to another folder."
        )


def discard(part: Path) -> None:
    """Delete what has come of a file, and the note beside it."""
    with suppress(OSError):
        part.unlink(missing_ok=True)
    with suppress(OSError):
        _note_of(part).unlink(missing_ok=True)


def _note_of(part: Path) -> Path:
    return part.with_suffix(".json")


class _Pace:
    """Bytes a second over the last seconds."""

    _SECONDS = 10.0

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    @property
    def moved(self) -> bool:
        """Whether anything came at all."""
        return bool(self._seen)

    def add(self, done: int) -> None:
        now = time.monotonic()
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, done))
        while now - self._seen[0][0] > self._SECONDS:
            self._seen.popleft()

    def left(self, done: int, total: int | None) -> float | None:
        if total is None or len(self._seen) < 2:
            return None
        (began, first), (_, last) = self._seen[0], self._seen[-1]
        seconds = time.monotonic() - began
        return (total - done) * seconds / (last - first) if last > first and seconds else None
