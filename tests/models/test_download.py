"""Downloads from a real server that cuts, stalls, redirects, lies and refuses."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import xxhash
from serving import FileServer, answer, cut, page, redirect, serving, stall, stream, trickle

from napari_clipsam.errors import ClipSamError, DownloadError, OutputError, Stopped
from napari_clipsam.models.checksum import Checksum
from napari_clipsam.models.download import Download, DownloadProgress, Patience
from napari_clipsam.models.transfer import host_of

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
#: Quick to give up.
QUICK = Patience(connect=2, stall=0.3, pauses=(0.01, 0.01, 0.01))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(CONTENT) as server:
        yield server


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "cells.part"


def make(
    server: FileServer, part: Path, checksum: Checksum | None = None, **options: object
) -> Download:
    options = {"sources": [server.url], "patience": QUICK, **options}
    return Download("cells", part=part, checksum=checksum, **options)


def fetch(*given: object, **options: object) -> list[DownloadProgress]:
    return list(make(*given, **options).run())


def begun(server: FileServer, part: Path, size: int = 100_000) -> None:
    """Let a download come as far as `size`, and be given up."""
    server.coming.append(cut(size))
    with pytest.raises(DownloadError):
        fetch(server, part, patience=Patience(pauses=()))
    assert part.read_bytes() == CONTENT[:size]
    server.asked.clear()


def nothing_left(part: Path) -> bool:
    return not part.parent.exists() or not list(part.parent.iterdir())


# ---------------------------------------------------------------- what goes well


def test_a_file_comes_whole_and_is_hashed(server: FileServer, part: Path) -> None:
    download = make(server, part)
    steps = list(download.run())

    assert part.read_bytes() == CONTENT
    assert download.sha256 == SHA256 and download.source == server.url
    assert steps[-1] == DownloadProgress(300_000, 300_000, 0.0)
    assert server.asked == [(None, None)]


def test_progress_rises_and_estimates_the_rest(server: FileServer, part: Path) -> None:
    server.coming.append(trickle(6, 0.15))
    steps = fetch(server, part)

    done = [step.done for step in steps]
    assert done == sorted(done) and len(set(done)) >= 4
    middle = [s for s in steps if 100_000 < s.done < 300_000 and s.seconds_left is not None]
    assert middle and all(0 < s.seconds_left < 3 for s in middle if s.seconds_left is not None)


@pytest.mark.parametrize(
    "checksum",
    [
        Checksum("sha256", SHA256),
        Checksum("sha256", SHA256[:6]),
        Checksum("md5", hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()),
        Checksum("xxh128", xxhash.xxh3_128(CONTENT).hexdigest()),
    ],
)
def test_the_checksum_a_publisher_states_is_compared(
    server: FileServer, part: Path, checksum: Checksum
) -> None:
    fetch(server, part, checksum)

    assert part.read_bytes() == CONTENT


def test_a_file_of_unknown_length_comes_whole(server: FileServer, part: Path) -> None:
    server.coming.append(stream(CONTENT))
    steps = fetch(server, part)

    assert part.read_bytes() == CONTENT
    assert {(step.total, step.seconds_left) for step in steps} == {(None, None)}


def test_what_a_proxy_packed_is_unpacked(server: FileServer, part: Path) -> None:
    server.coming.append(answer(200, gzip.compress(CONTENT), Content_Encoding="gzip"))
    fetch(server, part, Checksum("sha256", SHA256))

    assert part.read_bytes() == CONTENT


def test_redirects_are_followed(server: FileServer, part: Path) -> None:
    server.coming += [redirect("/elsewhere"), redirect(server.url, 307)]
    fetch(server, part)

    assert part.read_bytes() == CONTENT


def test_the_next_address_is_tried_where_one_has_no_file(server: FileServer, part: Path) -> None:
    server.coming.append(answer(404))
    other = server.url + "?other"
    download = make(server, part, sources=[server.url, other])
    list(download.run())

    assert download.source == other and part.read_bytes() == CONTENT


# ---------------------------------------------------------------- cut off and resumed


def test_a_cut_connection_is_taken_up_where_it_was_cut(server: FileServer, part: Path) -> None:
    server.coming += [cut(70_000), cut(50_000)]
    fetch(server, part)

    assert part.read_bytes() == CONTENT
    assert server.asked == [
        (None, None),
        ("bytes=70000-", '"first"'),
        ("bytes=120000-", '"first"'),
    ]


def test_a_stalled_connection_is_taken_up_again(server: FileServer, part: Path) -> None:
    server.coming.append(stall(131_072))
    steps = fetch(server, part)

    assert part.read_bytes() == CONTENT and len(server.asked) == 2
    assert sum(step.done == 131_072 for step in steps) >= 2, "it is seen that nothing comes"


def test_a_later_download_goes_on_from_what_is_there(server: FileServer, part: Path) -> None:
    begun(server, part)
    steps = fetch(server, part)

    assert server.asked == [("bytes=100000-", '"first"')]
    assert steps[0].done >= 100_000 and part.read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_sends_all_of_it_again(server: FileServer, part: Path) -> None:
    begun(server, part)
    server.ranges = False
    fetch(server, part)

    assert len(server.asked) == 1 and part.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: FileServer, part: Path) -> None:
    begun(server, part)
    server.content, server.etag = CONTENT[::-1], '"second"'
    fetch(server, part)

    assert part.read_bytes() == CONTENT[::-1]


def test_parts_of_two_files_are_never_one(server: FileServer, part: Path) -> None:
    """A server without validators, whose file changed between two connections."""
    server.etag = ""
    checksum = Checksum("sha256", hashlib.sha256(CONTENT[::-1]).hexdigest())
    server.coming.append(cut(100_000))
    with pytest.raises(DownloadError):
        fetch(server, part, checksum, patience=Patience(pauses=()))
    server.content = CONTENT[::-1]
    server.asked.clear()

    fetch(server, part, checksum)

    assert server.asked == [("bytes=100000-", None), (None, None)]
    assert part.read_bytes() == CONTENT[::-1]


def test_nothing_is_resumed_that_nothing_names(server: FileServer, part: Path) -> None:
    server.etag = ""
    begun(server, part)
    fetch(server, part)

    assert server.asked == [(None, None)] and part.read_bytes() == CONTENT


@pytest.mark.parametrize("note", ["", "[]", '{"source": 1}', '{"total": "many"}'])
def test_a_part_without_a_sound_note_is_fetched_anew(
    server: FileServer, part: Path, note: str
) -> None:
    begun(server, part)
    part.with_suffix(".json").write_text(note)
    fetch(server, part)

    assert server.asked == [(None, None)] and part.read_bytes() == CONTENT


def test_a_part_of_another_address_is_not_taken_up(server: FileServer, part: Path) -> None:
    begun(server, part)
    fetch(server, part, sources=[server.url + "?new"])

    assert server.asked == [(None, None)] and part.read_bytes() == CONTENT


def test_of_several_addresses_the_begun_one_goes_on(server: FileServer, part: Path) -> None:
    begun(server, part)
    fetch(server, part, sources=[server.url + "?first", server.url])

    assert server.asked == [("bytes=100000-", '"first"')]


def test_what_is_complete_already_is_only_checked(server: FileServer, part: Path) -> None:
    begun(server, part)
    part.write_bytes(CONTENT)
    download = make(server, part, Checksum("sha256", SHA256))
    list(download.run())

    assert server.asked == [("bytes=300000-", '"first"')] and download.sha256 == SHA256


@pytest.mark.parametrize(
    "lie",
    [
        answer(206, CONTENT[7:], Content_Range="bytes 7-299999/300000"),
        answer(206, CONTENT[100_000:], Content_Range="bytes 100000-299999/300001"),
        answer(206, CONTENT[100_000:], Content_Range="bytes nonsense"),
        answer(416, Content_Range="bytes */99"),
    ],
)
def test_a_rest_that_does_not_fit_is_fetched_anew(
    server: FileServer, part: Path, lie: Callable[..., None]
) -> None:
    begun(server, part)
    server.coming.append(lie)
    fetch(server, part)

    assert part.read_bytes() == CONTENT and server.asked[-1] == (None, None)


# ---------------------------------------------------------------- what cannot be had


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: FileServer, part: Path, status: int) -> None:
    server.coming += [answer(status), answer(status)]
    fetch(server, part)

    assert part.read_bytes() == CONTENT and len(server.asked) == 3


def test_a_server_that_stays_busy_is_given_up(server: FileServer, part: Path) -> None:
    server.coming += [answer(503)] * 9
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1 is busy \(status 503\)\. Try again"):
        fetch(server, part)
    assert len(server.asked) == 1 + len(QUICK.pauses)


def test_a_server_may_ask_for_time(server: FileServer, part: Path) -> None:
    server.coming.append(answer(503, Retry_After=1))
    began = time.monotonic()
    fetch(server, part)

    assert time.monotonic() - began >= 1


def test_an_endless_series_of_cuts_is_given_up(server: FileServer, part: Path) -> None:
    server.coming += [cut(1000)] * 20
    with pytest.raises(DownloadError, match="was cut; what has come is kept"):
        fetch(server, part)
    assert part.read_bytes() == CONTENT[: 1000 * (1 + len(QUICK.pauses))]


@pytest.mark.parametrize("status", [404, 410])
def test_a_file_that_is_not_there(server: FileServer, part: Path, status: int) -> None:
    server.coming.append(answer(status, b"<html>nothing here"))
    with pytest.raises(DownloadError, match=rf"does not have the file \(status {status}\)") as e:
        fetch(server, part)
    assert f"get {server.url} in another way" in str(e.value)
    assert "napari-clipsam models import cells FILE" in str(e.value)
    assert nothing_left(part) and len(server.asked) == 1


@pytest.mark.parametrize(
    ("behaviour", "saying"),
    [
        (answer(403), r"refuses to give the file \(status 403\)"),
        (answer(407), "proxy asks for a name and password"),
        (page(), "a web page, not with the file"),
        (page("application/octet-stream"), "a web page, not with the file"),
        (answer(200), "an empty file"),
        (redirect("http://example.org/login"), r"over http://example\.org, which is not secure"),
        (redirect("file:///etc/passwd"), "over file://"),
        (redirect("ftp://127.0.0.1/sam.pth"), "over ftp://"),
    ],
)
def test_what_is_no_file_is_refused_at_once(
    server: FileServer, part: Path, behaviour: Callable[..., None], saying: str
) -> None:
    server.coming.append(behaviour)
    with pytest.raises(DownloadError, match=rf"{saying}.*models import cells FILE"):
        fetch(server, part)
    assert nothing_left(part) and len(server.asked) == 1


def test_a_page_in_place_of_the_rest_costs_nothing(server: FileServer, part: Path) -> None:
    begun(server, part)
    for kind in ("text/html", "application/octet-stream"):
        server.coming.append(page(kind))
        with pytest.raises(DownloadError, match="a web page"):
            fetch(server, part)
    assert part.read_bytes() == CONTENT[:100_000]

    fetch(server, part)
    assert part.read_bytes() == CONTENT


def test_redirects_in_a_circle(server: FileServer, part: Path) -> None:
    server.coming += [redirect(server.url)] * 30
    with pytest.raises(DownloadError, match="redirects without end"):
        fetch(server, part)


@pytest.mark.parametrize("address", ["http://example.org/sam.pth", "file:///etc/passwd"])
def test_an_address_that_is_not_secure_is_not_asked(
    server: FileServer, part: Path, address: str
) -> None:
    with pytest.raises(DownloadError, match="not secure"):
        fetch(server, part, sources=[address])


def test_other_bytes_are_deleted(server: FileServer, part: Path) -> None:
    with pytest.raises(
        DownloadError, match=r"not the one that its publisher states \(sha256 0{64}"
    ):
        fetch(server, part, Checksum("sha256", "0" * 64))
    assert nothing_left(part) and len(server.asked) == 1


def test_a_shorter_file_is_not_the_file(server: FileServer, part: Path) -> None:
    server.coming.append(answer(200, CONTENT[:-1]))
    with pytest.raises(DownloadError, match="not the one that its publisher states"):
        fetch(server, part, Checksum("sha256", SHA256))
    assert nothing_left(part)


def test_other_bytes_than_the_first_time_are_deleted(server: FileServer, part: Path) -> None:
    with pytest.raises(DownloadError, match="not the one that was first downloaded here"):
        fetch(server, part, Checksum("sha256", "0" * 64, "first download"))
    assert nothing_left(part)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/a.pth", "https://nowhere.invalid/a.pth"])
def test_without_a_network_one_line_comes_at_once(
    server: FileServer, part: Path, address: str
) -> None:
    with pytest.raises(DownloadError, match="cells could not be downloaded") as caught:
        fetch(server, part, sources=[address], patience=Patience(pauses=(60,)))

    assert f"{host_of(address)} cannot be reached. Try again later" in str(caught.value)
    assert "models import cells FILE" in str(caught.value) and "\n" not in str(caught.value)


def test_a_proxy_that_is_not_there_is_named(
    server: FileServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"The proxy on the way to example\.org"):
        fetch(server, part, sources=["https://example.org/sam.pth"])


def test_a_server_without_a_certificate_is_not_trusted(server: FileServer, part: Path) -> None:
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1 cannot prove.*REQUESTS_CA_BUNDLE"):
        fetch(server, part, sources=[server.url.replace("http:", "https:")])


# ---------------------------------------------------------------- stopped


@pytest.mark.parametrize(
    "behaviour", [stall(0), stall(100_000), trickle(100, 0.1), answer(503, Retry_After=20)]
)
def test_it_stops_within_a_second_whatever_the_server_does(
    server: FileServer, part: Path, behaviour: Callable[..., None]
) -> None:
    server.coming.append(behaviour)
    asked = threading.Event()
    patience = Patience(pauses=(20,))
    steps = make(server, part, stop=asked.is_set, patience=patience).run()
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        next(steps)
    asked.set()
    began = time.monotonic()
    with pytest.raises(Stopped, match="The download of cells was stopped at"):
        list(steps)
    assert time.monotonic() - began < 1


def test_what_was_stopped_goes_on(server: FileServer, part: Path) -> None:
    server.coming.append(stall(131_072))
    steps = make(server, part).run()
    while next(steps).done < 131_072:
        pass
    steps.close()
    assert part.read_bytes() == CONTENT[:131_072]

    fetch(server, part)
    assert server.asked[-1] == ("bytes=131072-", '"first"') and part.read_bytes() == CONTENT


def test_nobody_waits_for_longer_than_a_moment(server: FileServer, part: Path) -> None:
    server.coming.append(stall(100))
    steps, longest = make(server, part, patience=Patience()).run(), 0.0
    for _ in range(8):
        began = time.monotonic()
        next(steps)
        longest = max(longest, time.monotonic() - began)
    steps.close()
    assert longest < 0.5


def test_threads_end_when_nobody_reads_any_more(server: FileServer, part: Path) -> None:
    server.coming.append(trickle(100, 0.02))
    steps = make(server, part).run()
    next(steps)
    steps.close()
    end = time.monotonic() + 5
    while any(t.name == "napari-clipsam-download" for t in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.02)


# ---------------------------------------------------------------- the disk


def test_a_disk_without_room_is_said_before_anything_is_written(
    server: FileServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9, 100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        OutputError, match=r"cells needs 300 kB more, and .* has 100 kB left\. Free"
    ):
        fetch(server, part)
    assert nothing_left(part)


def test_a_disk_that_fills_up_keeps_what_has_come(
    server: FileServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A file that takes 65,536 bytes and no more."""

        def __init__(self, file: object) -> None:
            self.file = file

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def write(self, chunk: bytes) -> None:
            if self.file.tell() + len(chunk) > 65_536:
                raise OSError(28, "No space left on device")
            self.file.write(chunk)

    opened = Download._opened
    with monkeypatch.context() as patch:
        patch.setattr(Download, "_opened", lambda *given: Full(opened(*given)))
        with pytest.raises(OutputError, match=r"No space left on device.*Free some space"):
            fetch(server, part)
    assert part.read_bytes() == CONTENT[:65_536]

    fetch(server, part)
    assert part.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made_is_named(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(OutputError, match=r"taken.*cannot be written to.*NAPARI_CLIPSAM_HOME"):
        fetch(server, tmp_path / "taken" / "cells.part")


def test_every_error_is_one_of_ours(server: FileServer, part: Path) -> None:
    """Whatever a server says in its head."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        fields = {
            "Content_Range": rng.choice(["", "bytes", "bytes 0-", "bytes */x", "lines 1-2/3"]),
            "Retry_After": rng.choice(["", "soon", "-1", "0"]),
            "ETag": rng.choice(["", "x", 'W/"y"']),
        }
        status = int(rng.choice([200, 203, 206, 302, 304, 400, 416, 503, 599]))
        server.coming.append(answer(status, b"x" * 10, **fields))
        with suppress(ClipSamError):
            fetch(server, part, Checksum("sha256", "1" * 64), patience=Patience(pauses=()))
        server.coming.clear()
    note = part.with_suffix(".json")
    assert not note.exists() or json.loads(note.read_text())["source"] == server.url
