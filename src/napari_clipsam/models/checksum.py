"""Checksums of weights files: what a publisher states, or what was first seen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_clipsam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Checksum", "new_hash", "sha256_of"]

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


def new_hash(kind: str) -> Any:
    """An object with ``update`` and ``hexdigest``, as in hashlib, for a kind of checksum."""
    if kind == "xxh128":
        from xxhash import xxh3_128

        return xxh3_128()
    return hashlib.new(kind, usedforsecurity=kind == "sha256")


def sha256_of(path: str | Path, check: Callable[[], None] | None = None) -> str:
    """SHA-256 of a file, hexadecimal.

    `check` is called now and then; what it raises ends the reading.
    """
    return digests_of(path, ("sha256",), check)["sha256"]


def digests_of(
    path: str | Path, kinds: tuple[str, ...], check: Callable[[], None] | None = None
) -> dict[str, str]:
    """Digests of a file, by kind, in one reading; `check` as for `sha256_of`."""
    hashes = {kind: new_hash(kind) for kind in kinds}
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            if check is not None:
                check()
            for digest in hashes.values():
                digest.update(chunk)
    return {kind: digest.hexdigest() for kind, digest in hashes.items()}
