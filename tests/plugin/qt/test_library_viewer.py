"""The Library in a real viewer: models over a real connection, files from a real disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plugin.qt.conftest import Heart, User
from plugin.qt.conftest import click as press
from qtpy.QtCore import Qt
from qtpy.QtGui import QDesktopServices
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog
from serving import FileServer, serving, stall, trickle
from tiny import tiny_sam

from napari_clipsam._plugin import commands
from napari_clipsam._plugin._qt.library import LibraryDock
from napari_clipsam._plugin.samples import synthetic_nuclei
from napari_clipsam.adapters.files import save_adapter
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.models import registry
from napari_clipsam.models.registry import ModelEntry, register_model
from napari_clipsam.models.store import part_file
from napari_clipsam.models.weights import save_sam

MakeUser = Callable[..., User]
NAME = "served"


@pytest.fixture
def sam_file(tmp_path: Path) -> Path:
    path = tmp_path / "given" / "cells.safetensors"
    path.parent.mkdir()
    save_sam(tiny_sam(1), path, half=False)
    return path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, sam_file: Path) -> Iterator[FileServer]:
    """Hands out a tiny SAM that is known by name."""
    monkeypatch.setattr(registry, "_KNOWN", dict(registry._KNOWN))
    with serving(sam_file.read_bytes()) as server:
        register_model(ModelEntry(NAME, "custom", source=server.url, licence="CC0"))
        yield server


@pytest.fixture
def nuclei() -> np.ndarray:
    return synthetic_nuclei((1, 128, 128), (2.0, 0.5, 0.5), n_nuclei=10, seed=5)[0][0]


def open_library(user: User) -> LibraryDock:
    commands.open_library_dock(user.viewer)
    librarian = commands._LIBRARY[user.viewer]
    frame, dock = user.viewer.window.add_plugin_dock_widget(
        "napari-clipsam", "Library", tabify=True
    )
    assert isinstance(dock, LibraryDock) and dock._controls is librarian
    user.wait(lambda: bool(dock._controls.state.rows))
    frame.raise_()
    user.viewer.window._qt_window.activateWindow()
    return dock


def pick(user: User, dock: LibraryDock, key: str) -> None:
    """Click a line of the list, and see that its details are there."""
    table = dock.list.table
    keys = [row.key for row in table._rows.rows]
    index = table.model().index(keys.index(key), 0)
    table.scrollTo(index)
    user.bot.mouseClick(
        table.viewport(), Qt.MouseButton.LeftButton, pos=table.visualRect(index).center()
    )
    assert dock._controls.state.selected == key
    assert dock.details.toPlainText().startswith(dock._controls.entries[key].name)


def status(dock: LibraryDock, key: str) -> str:
    return next((row.status for row in dock._controls.state.rows if row.key == key), "")


def test_a_model_is_got_stopped_gone_on_with_used_and_deleted(
    make_user: MakeUser, server: FileServer, nuclei: np.ndarray
) -> None:
    user = make_user(nuclei)
    dock = open_library(user)
    state: Any = lambda: dock._controls.state  # noqa: E731
    size, key = len(server.content), f"sam:{NAME}"
    pick(user, dock, key)
    assert not dock.buttons.use.isEnabled() and "Get it first" in dock.buttons.use.toolTip()

    server.coming.append(stall(size // 2))
    with Heart() as heart:
        press(user.bot, dock.buttons.get)
        user.wait(lambda: part_file(NAME).exists() and bool(dock.arrivals.rows))
        rows = dock.arrivals.rows
        user.wait(lambda: key in rows and rows[key].isVisible() and "kB" in rows[key].label.text())
        start = time.monotonic()
        press(user.bot, rows[key].stop_button)
        user.wait(lambda: not state().downloads)
        stopped_after = time.monotonic() - start
        user.wait(lambda: status(dock, key) == "begun")
    assert heart.busiest < 1
    if os.getloadavg()[0] <= (os.cpu_count() or 1):
        assert heart.worst < 1 and stopped_after < 1
    assert "Get goes on" in dock.hint.label.text()

    begun = part_file(NAME).stat().st_size
    server.coming.append(trickle(8, 0.05))
    press(user.bot, dock.buttons.get)
    user.wait(lambda: status(dock, key) == "yes")
    assert server.asked[-1][0] == f"bytes={begun}-", "it did not begin anew"
    user.wait(lambda: not dock.arrivals.rows)
    user.wait(lambda: NAME in [c.value for c in user.controller.state.models if c.enabled])

    press(user.bot, dock.buttons.use)
    user.wait(lambda: bool(user.controller.state.device))
    assert user.controller.state.model == NAME and status(dock, key) == "in use"
    assert user.dock.search.model.currentText().startswith(NAME)
    assert not dock.buttons.delete.isEnabled() and "in use" in dock.buttons.delete.toolTip()

    pick(user, dock, "sam:starter")
    press(user.bot, dock.buttons.use)
    user.wait(lambda: user.controller.state.model == "starter")
    pick(user, dock, key)
    file = dock._controls.entries[key].file
    user.wait(dock.buttons.delete.isEnabled)
    dock.list.table.setFocus()
    QTest.keyClick(dock.list.table, Qt.Key.Key_Delete)
    assert file.exists(), "it only asks"
    press(user.bot, dock.hint.buttons[0])
    user.wait(lambda: status(dock, key) == "no")
    assert not file.exists()
    user.wait(lambda: NAME in [c.value for c in user.controller.state.models if not c.enabled])


def test_a_closed_dock_stops_and_the_next_one_goes_on(
    make_user: MakeUser, server: FileServer, nuclei: np.ndarray
) -> None:
    user = make_user(nuclei)
    dock = open_library(user)
    key, size = f"sam:{NAME}", len(server.content)
    pick(user, dock, key)
    server.coming.append(stall(size // 2))
    press(user.bot, dock.buttons.get)
    user.wait(lambda: part_file(NAME).exists() and part_file(NAME).stat().st_size > size // 3)
    start = time.monotonic()
    user.viewer.window.remove_dock_widget(dock)
    assert time.monotonic() - start < 1, "closing does not wait for the network"
    begun = part_file(NAME).stat().st_size
    dock = open_library(user)
    pick(user, dock, key)
    press(user.bot, dock.buttons.get)
    user.wait(lambda: status(dock, key) == "yes")
    assert server.asked[-1][0] == f"bytes={begun}-"


def test_a_cut_file_is_refused_and_a_whole_one_named_and_kept(
    make_user: MakeUser,
    sam_file: Path,
    nuclei: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user = make_user(nuclei)
    dock = open_library(user)
    cut = sam_file.with_name("cut.safetensors")
    cut.write_bytes(sam_file.read_bytes()[:-1000])
    chosen = [cut, sam_file]
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *args: (str(chosen.pop(0)), ""))
    press(user.bot, dock.buttons.take_in)
    user.wait(dock.hint.isVisible)
    said = dock.hint.label.text()
    assert "damaged or cut off" in said and "Expected is a SAM" in said
    user.wait(dock.buttons.take_in.isEnabled)

    press(user.bot, dock.buttons.take_in)
    user.wait(dock.naming.isVisible)
    assert dock.naming.name.text() == "cells" and dock.naming.name.hasFocus()
    QTest.keyClicks(dock.naming.name, "my cells")
    QTest.keyClick(dock.naming.name, Qt.Key.Key_Return)
    user.wait(lambda: "cannot be a model's name" in dock.hint.label.text())
    user.wait(dock.naming.name.hasFocus)
    QTest.keyClicks(dock.naming.name, "my-cells")
    QTest.keyClick(dock.naming.name, Qt.Key.Key_Return)
    user.wait(lambda: status(dock, "sam:my-cells") == "yes")
    assert dock.list.table.selected_key() == "sam:my-cells" and not dock.naming.isVisible()
    assert sam_file.exists()


def test_a_word_of_an_adapter_is_found_and_its_file_shown(
    make_user: MakeUser,
    nuclei: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    adapter = Segmenter().adapter
    assert adapter is not None
    folder = tmp_path / "home" / "adapters"
    folder.mkdir(parents=True)
    save_adapter(adapter.with_info(words=("bright nuclei", "nuclei")), folder / "mine.safetensors")
    user = make_user(nuclei)
    dock = open_library(user)
    path = folder / "mine.safetensors"
    opened: list[str] = []
    monkeypatch.setattr(
        QDesktopServices, "openUrl", lambda url: not opened.append(url.toLocalFile())
    )
    pick(user, dock, f"adapter:{path}")
    press(user.bot, dock.buttons.show_file)
    assert [Path(one) for one in opened] == [folder]

    QTest.keyClicks(dock.list.wanted, "word mine bright")
    (row,) = dock._controls.state.rows
    assert (row.name, row.made_for) == ("bright nuclei", "mine")
    pick(user, dock, row.key)
    QTest.keyClick(dock.list.table, Qt.Key.Key_Return)
    user.wait(lambda: user.controller.state.can_keep or user.controller.state.hint is not None)
    assert user.controller.state.adapter == str(path)
    assert user.controller.state.word == "bright nuclei"
    assert user.dock.search.word.edit.text() == "bright nuclei"
    assert "bright nuclei" in user.controller.state.known_words
    assert not user.dock.visibleRegion().isEmpty(), "the Segment dock is in front"
