"""Downloads and imports: how far they are, how they end, and that they do not mix up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from napari.components import ViewerModel
from plugin.fakes_library import CLIP, VIT_B, FakeShelf, hint, make_librarian, row

from napari_clipsam._plugin.library import LibraryController
from napari_clipsam._plugin.library_errands import Errands
from napari_clipsam._plugin.training_thread import ThreadTrainer
from napari_clipsam.errors import ClipSamError, WeightsError

PATIENCE = 20.0


class Loop:
    """Stands for the event loop: calls wait until the test runs them."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []
        self.errands = Errands(lambda: ThreadTrainer(self._calls.append))

    def run(self, until: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not until():
            assert time.monotonic() < end
            while self._calls:
                self._calls.pop(0)()
            time.sleep(0.005)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.errands.close()


def get(librarian: LibraryController, key: str) -> None:
    librarian.select(key)
    librarian.get()


def texts(librarian: LibraryController) -> list[str]:
    return [one.progress.text for one in librarian.state.downloads]


def test_a_download_tells_how_far_it_is_and_ends_in_the_list(
    librarian: LibraryController, shelf: FakeShelf
) -> None:
    seen: list[tuple[str, int, int]] = []

    def note(state: object) -> None:
        seen.extend((d.progress.text, d.progress.done, d.progress.total) for d in state.downloads)

    librarian.changed.connect(note)
    get(librarian, VIT_B.key)
    assert list(dict.fromkeys(seen)) == [
        ("vit_b: asking for it", 0, 0),
        ("vit_b: 0 kB of 400 MB, 1 min left", 0, 1000),
        ("vit_b: 100 MB of 400 MB, 45 s left", 250, 1000),
        ("vit_b: 200 MB of 400 MB, 30 s left", 500, 1000),
        ("vit_b: 300 MB of 400 MB, 15 s left", 750, 1000),
        ("vit_b: checking it", 1000, 1000),
    ]
    assert librarian.state.downloads == ()
    assert row(librarian, VIT_B.key).status == "yes"
    assert hint(librarian) == "vit_b is on this computer now, whole and checked."
    assert librarian.state.use.enabled and not librarian.state.get.enabled


def test_several_run_beside_each_other_and_stop_alone(
    viewer: ViewerModel, shelf: FakeShelf, loop: Loop
) -> None:
    shelf.held = threading.Event()
    librarian = make_librarian(viewer, shelf, errands=loop.errands)
    get(librarian, VIT_B.key)
    get(librarian, CLIP.key)
    loop.run(lambda: all("of 400 MB" in text for text in texts(librarian)))
    assert [one.key for one in librarian.state.downloads] == [VIT_B.key, CLIP.key]
    assert row(librarian, CLIP.key).status == "coming"
    assert "on its way" in librarian.state.get.tip
    librarian.get()
    assert len(librarian.state.downloads) == 2, "it is on its way already"

    start = time.monotonic()
    librarian.stop(CLIP.key)
    librarian.stop(CLIP.key)
    assert texts(librarian)[1] == "ViT-B-16:openai: stopping"
    loop.run(lambda: len(librarian.state.downloads) == 1)
    assert time.monotonic() - start < 1
    assert hint(librarian) == "ViT-B-16:openai was stopped. Get goes on from there."
    shelf.held.set()
    loop.run(lambda: not librarian.state.downloads)
    assert row(librarian, VIT_B.key).status == "yes"
    assert row(librarian, CLIP.key).status == "no"


def test_a_stopped_one_goes_on_where_it_was(viewer: ViewerModel, shelf: FakeShelf) -> None:
    librarian = make_librarian(viewer, shelf)

    def stop_half_way() -> None:
        if shelf.arrived.get("vit_b") == 2:
            librarian.stop(VIT_B.key)

    shelf.before_step = stop_half_way
    get(librarian, VIT_B.key)
    assert row(librarian, VIT_B.key).status == "no" and librarian.state.get.enabled
    shelf.before_step = lambda: None
    librarian.get()
    assert [call for call in shelf.asked if call[0] == "get"] == [
        ("get", "vit_b", 0),
        ("get", "vit_b", 2),
    ]
    assert row(librarian, VIT_B.key).status == "yes"


def test_a_download_that_fails_says_why_and_can_be_tried_again(
    librarian: LibraryController, shelf: FakeShelf
) -> None:
    shelf.errors["vit_b"] = ClipSamError("There is no network. Connect, and get it again.")
    get(librarian, VIT_B.key)
    assert hint(librarian) == "There is no network. Connect, and get it again."
    assert librarian.state.downloads == () and librarian.state.get.enabled
    shelf.errors.clear()
    librarian.get()
    assert row(librarian, VIT_B.key).status == "yes" and not librarian.state.hint.is_error


def test_closing_stops_and_the_next_dock_goes_on(
    viewer: ViewerModel, shelf: FakeShelf, loop: Loop
) -> None:
    shelf.held = threading.Event()
    librarian = make_librarian(viewer, shelf, errands=loop.errands)
    get(librarian, VIT_B.key)
    loop.run(lambda: "of 400 MB" in texts(librarian)[0])
    start = time.monotonic()
    librarian.close()
    assert time.monotonic() - start < 0.5, "closing waits for nothing"
    states: list[object] = []
    librarian.changed.connect(states.append)
    again = make_librarian(viewer, shelf, errands=loop.errands)
    shelf.held.set()
    get(again, VIT_B.key)
    loop.run(lambda: row(again, VIT_B.key).status == "yes")
    assert states == [], "nobody hears of a dock that is gone"


def test_an_adapter_is_copied_in_at_once(librarian: LibraryController, shelf: FakeShelf) -> None:
    librarian.import_file(Path("blobs.safetensors"))
    assert librarian.state.naming is None and librarian.state.busy is None
    assert librarian.state.selected == "adapter:blobs.safetensors"
    assert hint(librarian).startswith("blobs was imported")


def test_a_model_is_asked_for_a_name_first(librarian: LibraryController, shelf: FakeShelf) -> None:
    path = Path("my_sam.pth")
    librarian.import_file(path)
    naming = librarian.state.naming
    assert naming is not None and (naming.path, naming.proposed) == (path, "my_sam")
    librarian.import_as(" my-sam ")
    assert shelf.asked[-2:] == [("name_model", "my-sam", path), ("look",)]
    assert librarian.state.naming is None and librarian.state.selected == "sam:my-sam"
    librarian.import_as("again")
    assert shelf.asked[-1] == ("look",), "there is nothing to name any more"


def test_a_name_that_is_taken_can_be_changed(
    librarian: LibraryController, shelf: FakeShelf
) -> None:
    shelf.errors["vit_b"] = WeightsError("There is a model 'vit_b' already. Choose another name.")
    librarian.import_file(Path("my_sam.pth"))
    librarian.import_as("vit_b")
    assert hint(librarian).startswith("There is a model 'vit_b' already")
    naming = librarian.state.naming
    assert naming is not None and naming.proposed == "vit_b", "what was typed stays"
    librarian.drop_import()
    assert librarian.state.naming is None and hint(librarian) == ""


def test_a_file_that_is_neither_is_refused(librarian: LibraryController, shelf: FakeShelf) -> None:
    shelf.errors["cat.jpg"] = WeightsError("cat.jpg is not a weights file. Expected is a SAM.")
    librarian.import_file(Path("cat.jpg"))
    assert hint(librarian) == "cat.jpg is not a weights file. Expected is a SAM."
    assert librarian.state.naming is None and librarian.state.busy is None
