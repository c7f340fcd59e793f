"""A library in memory, whose downloads come when a test says so, and a controller on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from napari.components import ViewerModel

from napari_clipsam._plugin.chosen import Chosen
from napari_clipsam._plugin.library import LibraryController
from napari_clipsam._plugin.library_entries import word_entries
from napari_clipsam._plugin.library_errands import Errands
from napari_clipsam._plugin.library_shelf import Found
from napari_clipsam._plugin.library_state import Answering, Entry, Naming
from napari_clipsam._plugin.runner import SyncRunner
from napari_clipsam._plugin.settings import Settings
from napari_clipsam._plugin.training_thread import SyncTrainer
from napari_clipsam.errors import ClipSamError, Stopped
from napari_clipsam.models.download import DownloadProgress

MB = 1_000_000
FOLDER = Path("library")

STARTER = Entry(
    key="sam:starter",
    kind="sam",
    name="starter",
    sets=Answering("starter", "default", "starter"),
    size=20 * MB,
    licence="BSD-3-Clause",
    made_for="microscopy",
    file=FOLDER / "sam.safetensors",
    kept="The starter belongs to the package and stays.",
)
VIT_B = Entry(
    key="sam:vit_b",
    kind="sam",
    name="vit_b",
    sets=Answering("vit_b", "default", ""),
    is_here=False,
    can_get=True,
    size=375 * MB,
    licence="Apache-2.0",
    made_for="photographs (SA-1B)",
    facts=(
        ("checksum", "sha256 01ec64..., as its publisher states it"),
        ("address", "https://example.org/sam_vit_b_01ec64.pth"),
    ),
)
CLIP = Entry(
    key="clip:ViT-B-16:openai",
    kind="clip",
    name="ViT-B-16:openai",
    sets=Answering("", "default", "ViT-B-16:openai"),
    is_here=False,
    can_get=True,
    size=351 * MB,
    licence="MIT",
    made_for="photographs with captions (OpenAI)",
)
SPOTS = Entry(
    key="adapter:spots",
    kind="adapter",
    name="spots (em, 22 Nov)",
    sets=Answering("starter", str(FOLDER / "spots.safetensors"), "starter"),
    size=2 * MB,
    made_for="spots, dots",
    score="Dice 0.41 → 0.78",
    score_tip="overlap with labels that it never learnt from (slice 12), before and after",
    file=FOLDER / "spots.safetensors",
)
FOREIGN = replace(
    SPOTS,
    key="adapter:blebs",
    name="blebs",
    sets=Answering("vit_b", str(FOLDER / "blebs.safetensors"), "starter"),
    missing="It belongs to the model vit_b, which is not on this computer. Get that first.",
    file=FOLDER / "blebs.safetensors",
)


@dataclass
class FakeShelf:
    """Holds entries in memory; a download comes in four steps.

    `held` lets a test hold the downloads back before each step; `errors` has what to raise for the
    name of a model, a file or an entry.
    """

    entries: dict[str, Entry] = field(
        default_factory=lambda: {e.key: e for e in (STARTER, VIT_B, CLIP, SPOTS, FOREIGN)}
    )
    errors: dict[str, ClipSamError] = field(default_factory=dict)
    before_step: Callable[[], None] = lambda: None
    held: threading.Event | None = None
    is_puzzled: bool = False
    arrived: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def look(self) -> Found:
        self.asked.append(("look",))
        entries = list(self.entries.values())
        words = [w for e in entries if e.kind == "adapter" for w in word_entries(e, ("spots",))]
        return Found((*entries, *words), self.is_puzzled)

    def identify(self, stop: Callable[[], bool]) -> None:
        self.asked.append(("identify",))
        self.is_puzzled = False

    def get(self, name: str, stop: Callable[[], bool]) -> Iterator[DownloadProgress]:
        self.asked.append(("get", name, self.arrived.get(name, 0)))
        for done in range(self.arrived.get(name, 0), 4):
            yield DownloadProgress(done * 100 * MB, 400 * MB, 60.0 - done * 15)
            self.before_step()
            while self.held is not None and not self.held.wait(0.02) and not stop():
                pass
            if stop():
                raise Stopped("Stopped.")
            if name in self.errors:
                raise self.errors[name]
            self.arrived[name] = done + 1
        yield DownloadProgress(400 * MB, None, None)
        key = next(key for key, entry in self.entries.items() if entry.name == name)
        self.entries[key] = replace(self.entries[key], is_here=True, file=FOLDER / name)

    def take_in(self, path: Path) -> Naming | Path:
        self.asked.append(("take_in", path))
        if path.name in self.errors:
            raise self.errors[path.name]
        if path.suffix == ".pth":
            return Naming(path, path.stem)
        self._add(replace(SPOTS, key=f"adapter:{path}", name=path.stem, file=path))
        return path

    def name_model(self, name: str, path: Path) -> str:
        self.asked.append(("name_model", name, path))
        if name in self.errors:
            raise self.errors[name]
        key = f"sam:{name}"
        self._add(replace(VIT_B, key=key, name=name, is_here=True, can_get=False, file=path))
        return key

    def delete(self, entry: Entry) -> None:
        self.asked.append(("delete", entry.key))
        if entry.name in self.errors:
            raise self.errors[entry.name]
        del self.entries[entry.key]

    def _add(self, entry: Entry) -> None:
        self.entries[entry.key] = entry


def make_librarian(
    viewer: ViewerModel,
    shelf: FakeShelf | None = None,
    chosen: Chosen | None = None,
    errands: Errands | None = None,
    runner: Any = None,
    everywhere: tuple[Chosen, ...] = (),
    reveal: Callable[[Path], bool] = lambda folder: True,
) -> LibraryController:
    chosen = chosen or Chosen()
    return LibraryController(
        viewer,
        runner or SyncRunner(),
        errands or Errands(SyncTrainer),
        shelf or FakeShelf(),
        chosen,
        lambda: Settings(),
        lambda: (chosen, *everywhere),
        reveal,
    )


def row(librarian: LibraryController, key: str) -> Any:
    return next(row for row in librarian.state.rows if row.key == key)


def hint(librarian: LibraryController) -> str:
    return "" if librarian.state.hint is None else librarian.state.hint.text
