"""Checksums of weights files: what a publisher states, or what was first seen."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from napari_clipsam.errors import ConfigError

__all__ = ["Checksum", "digests_of", "hashing", "sha256_of"]

#: Hexadecimal digits of a whole value; a SHA-256 alone may be known by its beginning.
_DIGITS = {"sha256": 64, "sha1": 40, "md5": 32, "xxh128": 32}
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Checksum:
    """What a file has to hash to.

    Attributes
    ----------
    kind : str
        ``sha256``, ``sha1``, ``md5`` or ``xxh128``.
    value : str
        Hexadecimal digits in lower case; of a ``sha256`` the first few will do.
    origin : str
        ``publisher`` who states it, ``first download`` or ``import`` of the file on this machine.

    Raises
    ------
    ConfigError
        The kind is not known, or the value cannot be one of it.
    """

    kind: str
    value: str
    origin: Literal["publisher", "first download", "import"] = "publisher"

    def __post_init__(self) -> None:
        digits = _DIGITS.get(self.kind)
        if digits is None:
            raise ConfigError(
                f"'{self.kind}' is no kind of checksum. Use one of: {', '.join(_DIGITS)}."
            )
        whole = len(self.value) == digits or (
            self.kind == "sha256" and 6 <= len(self.value) <= digits
        )
        if not whole or set(self.value) - set("0123456789abcdef"):
            raise ConfigError(
                f"'{self.value}' cannot be a {self.kind}. Give {digits} hexadecimal digits in "
                "lower case."
            )

    def __str__(self) -> str:
        more = "..." if len(self.value) < _DIGITS[self.kind] else ""
        return f"{self.kind} {self.value}{more}"

    def matches(self, digest: str) -> bool:
        """Whether a whole digest of this kind is the one meant."""
        return digest.startswith(self.value)


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return digests_of(path, ("sha256",))["sha256"]


def digests_of(path: str | Path, kinds: Iterable[str]) -> dict[str, str]:
    """Digests of a file by kind, hexadecimal, in one reading."""
    steps = hashing(path, kinds)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            digests: dict[str, str] = end.value
            return digests


def hashing(path: str | Path, kinds: Iterable[str]) -> Generator[int, None, dict[str, str]]:
    """As `digests_of`, in steps: the bytes read so far are yielded many times a second."""
    hashes = {kind: _new_hash(kind) for kind in kinds}
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            for digest in hashes.values():
                digest.update(chunk)
            yield file.tell()
    return {kind: digest.hexdigest() for kind, digest in hashes.items()}


def _new_hash(kind: str) -> Any:
    """An object with ``update`` and ``hexdigest``, as in hashlib, for a kind of checksum."""
    if kind == "xxh128":
        from xxhash import xxh3_128

        return xxh3_128()
    return hashlib.new(kind, usedforsecurity=kind == "sha256")
