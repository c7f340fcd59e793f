"""Checksums as publishers state them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from napari_clipsam.errors import ConfigError
from napari_clipsam.models.checksum import Checksum, digests_of, hashing, sha256_of


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("crc32", "00000000"),
        ("md5", "3bb6db"),
        ("md5", "x" * 32),
        ("sha256", "01ec6"),
        ("sha256", "0" * 65),
        ("sha256", "ABCDEF"),
        ("sha256", ""),
    ],
)
def test_what_cannot_be_a_checksum_is_refused(kind: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{kind}'|'{value}'"):
        Checksum(kind, value)


def test_the_beginning_of_a_sha256_will_do() -> None:
    checksum = Checksum("sha256", "01ec64")

    assert checksum.matches("01ec64" + "0" * 58) and not checksum.matches("01ec65" + "0" * 58)
    assert str(checksum) == "sha256 01ec64..." and str(Checksum("md5", "0" * 32)).endswith(
        " " + "0" * 32
    )


def test_a_file_is_read_once_for_all_kinds(tmp_path: Path) -> None:
    content = b"abc" * 1_000_000
    (tmp_path / "file").write_bytes(content)
    steps = hashing(tmp_path / "file", ("sha256", "md5", "sha1"))
    read = [next(steps) for _ in range(3)]
    with pytest.raises(StopIteration) as end:
        next(steps)
    digests = end.value.value

    assert read == [1 << 20, 2 << 20, len(content)]

    assert digests["sha256"] == hashlib.sha256(content).hexdigest() == sha256_of(tmp_path / "file")
    assert digests["md5"] == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert digests["sha1"] == hashlib.sha1(content, usedforsecurity=False).hexdigest()
    assert digests == digests_of(tmp_path / "file", digests)


def test_xxh128_is_the_one_of_xxh128sum(tmp_path: Path) -> None:
    """Of nothing, as its own documentation lists it."""
    (tmp_path / "empty").touch()

    assert digests_of(tmp_path / "empty", ("xxh128",)) == {
        "xxh128": "99aa06d3014798d86001c324468d497f"
    }
