"""Which model and which CLIP an adapter belongs to: identities of weights, and their names."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_clipsam.errors import ClipSamError
from napari_clipsam.outputs import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Identities", "Owners"]

_SHORT = 8  # digits of an identity that tell it from others at a glance


@dataclass(frozen=True)
class Owners:
    """The models of one kind, by what adapters say of them.

    Attributes
    ----------
    what : str
        "model" or "CLIP", for sentences.
    here : mapping of str to str
        Identity of each that is on this computer, "" where it is not known yet, by its name.
    known : frozenset of str
        Names of those that could be got.
    """

    what: str
    here: Mapping[str, str] = field(default_factory=dict)
    known: frozenset[str] = frozenset()

    def find(self, identity: str, claimed: str = "") -> tuple[str, str]:
        """Name of the one with an identity, and why it cannot be used ("" if it can).

        Parameters
        ----------
        identity : str
        claimed : str
            What it was called where the adapter was made.
        """
        by_identity = {found: name for name, found in self.here.items() if found}
        if identity in by_identity:
            return by_identity[identity], ""
        if claimed in self.here and not self.here[claimed]:
            return claimed, ""
        short = identity[:_SHORT]
        if claimed in self.here:
            return "", (
                f"It belongs to a {self.what} that was called {claimed} elsewhere; the one of that "
                f"name here is another (wanted {short}). Import the {self.what} it was made with."
            )
        if claimed in self.known:
            return claimed, (
                f"It belongs to the {self.what} {claimed}, which is not on this computer. Get that "
                "first."
            )
        called = f", called {claimed} where it was made" if claimed else ""
        return "", (
            f"It belongs to a {self.what} that is not on this computer ({short}{called}). Get or "
            "import that first."
        )

    def is_settled(self, identity: str) -> bool:
        """Whether nothing more is learnt of an identity by reading files."""
        return identity in self.here.values() or all(self.here.values())


class Identities:
    """Identities of files, remembered, since it takes seconds to find one.

    Parameters
    ----------
    path : Path
        Where they are remembered; what cannot be read or written there is found anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, file: Path) -> str:
        """The identity of a file's weights, "" while nobody knows it."""
        return self._read().get(_label(file), "")

    def remember(self, file: Path, identity: str) -> None:
        """Write down the identity of a file's weights; files that are gone are forgotten."""
        held = {label: one for label, one in self._read().items() if _is_there(label)}
        held[_label(file)] = identity
        with suppress(ClipSamError), replacing(self._path, overwrite=True) as part:
            part.write_text(json.dumps(held, indent=1, sort_keys=True), encoding="utf-8")

    def _read(self) -> dict[str, str]:
        try:
            held = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return held if isinstance(held, dict) else {}


def _label(file: Path) -> str:
    """A file as it is now: one that was written anew is another."""
    found = file.stat()
    return json.dumps([str(file), found.st_size, found.st_mtime_ns])


def _is_there(label: str) -> bool:
    from pathlib import Path

    try:
        return _label(Path(json.loads(label)[0])) == label
    except (OSError, ValueError, TypeError, IndexError):
        return False
