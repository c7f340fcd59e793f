"""Use, Show file and Delete: what they set, open and take away, and what they leave alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from plugin.fakes import make_controller
from plugin.fakes_library import (
    CLIP,
    SPOTS,
    STARTER,
    VIT_B,
    FakeShelf,
    hint,
    make_librarian,
    row,
)

from napari_clipsam._plugin import commands
from napari_clipsam._plugin.chosen import Chosen
from napari_clipsam._plugin.controller import SegmentController
from napari_clipsam._plugin.library import LibraryController
from napari_clipsam._plugin.library_state import Answering
from napari_clipsam.errors import OutputError, WeightsError


@pytest.fixture
def shelf(tmp_path: Path) -> FakeShelf:
    """With everything here, and an adapter whose file is there."""
    shelf = FakeShelf()
    for entry in (VIT_B, CLIP):
        shelf.entries[entry.key] = replace(entry, is_here=True, file=tmp_path / entry.name)
    path = tmp_path / "spots.safetensors"
    path.touch()
    spots = replace(SPOTS, file=path, sets=replace(SPOTS.sets, adapter=str(path)))
    shelf.entries[SPOTS.key] = spots
    return shelf


@pytest.fixture
def chosen() -> Chosen:
    return Chosen()


@pytest.fixture
def librarian(viewer: ViewerModel, shelf: FakeShelf, chosen: Chosen) -> LibraryController:
    return make_librarian(viewer, shelf, chosen)


@pytest.fixture
def segmenting(
    monkeypatch: pytest.MonkeyPatch,
    librarian: LibraryController,
    chosen: Chosen,
    viewer: ViewerModel,
    tmp_path: Path,
) -> SegmentController:
    """The Segment dock of the same viewer, with an image."""
    viewer.add_image(np.zeros((40, 50)), name="cells")
    controller = make_controller(viewer, tmp_path, chosen=chosen)
    monkeypatch.setattr(commands, "open_segment_dock", lambda viewer: None)
    return controller


def use(librarian: LibraryController, key: str) -> Answering:
    librarian.select(key)
    librarian.use()
    return librarian.answering


def test_a_model_answers_with_its_own_adapter(librarian: LibraryController) -> None:
    assert use(librarian, VIT_B.key) == Answering("vit_b", "default", "starter")
    assert hint(librarian) == "vit_b answers in the Segment dock from now on."
    assert row(librarian, VIT_B.key).status == "in use"
    assert "already" in librarian.state.use.tip


def test_an_adapter_brings_the_model_and_the_clip_it_belongs_to(
    librarian: LibraryController, shelf: FakeShelf
) -> None:
    use(librarian, VIT_B.key)
    use(librarian, CLIP.key)
    path = str(shelf.entries[SPOTS.key].file)
    assert use(librarian, SPOTS.key) == Answering("starter", path, "starter")
    assert [row(librarian, key).status for key in (STARTER.key, SPOTS.key, VIT_B.key)] == [
        "in use",
        "in use",
        "yes",
    ]


def test_another_clip_keeps_the_model_and_puts_the_adapter_aside(
    librarian: LibraryController,
) -> None:
    use(librarian, SPOTS.key)
    assert use(librarian, CLIP.key) == Answering("starter", "default", "ViT-B-16:openai")
    assert "put aside" in hint(librarian)


def test_the_starter_comes_back_in_one_piece(librarian: LibraryController) -> None:
    use(librarian, VIT_B.key)
    use(librarian, CLIP.key)
    assert use(librarian, STARTER.key) == Answering("starter", "default", "starter")


def test_the_segment_dock_follows(
    librarian: LibraryController, segmenting: SegmentController, shelf: FakeShelf
) -> None:
    use(librarian, CLIP.key)
    assert (segmenting.setup.model, segmenting.setup.clip) == ("starter", "ViT-B-16:openai")
    use(librarian, SPOTS.key)
    assert segmenting.state.adapter == str(shelf.entries[SPOTS.key].file)
    assert segmenting.setup.clip == "starter"


def test_a_word_is_looked_for_with_the_adapter_that_knows_it(
    librarian: LibraryController, segmenting: SegmentController, shelf: FakeShelf
) -> None:
    use(librarian, f"word:spots@{SPOTS.key}")
    assert segmenting.state.adapter == str(shelf.entries[SPOTS.key].file)
    assert segmenting.state.word == "spots" and segmenting.state.can_keep


def test_a_word_without_an_image_stands_in_the_field(
    librarian: LibraryController, segmenting: SegmentController, viewer: ViewerModel
) -> None:
    viewer.layers.clear()
    use(librarian, f"word:spots@{SPOTS.key}")
    assert segmenting.state.word == "spots"
    assert segmenting.state.hint is None or not segmenting.state.hint.is_error


def test_what_does_not_load_is_taken_back_and_not_said_to_answer(
    librarian: LibraryController, segmenting: SegmentController
) -> None:
    engine: Any = segmenting.engine
    engine.error = WeightsError("The file of this CLIP was changed. Get it again.")
    assert use(librarian, CLIP.key) == Answering("starter", "default", "starter")
    assert segmenting.setup.clip == "starter"
    assert hint(librarian) == "" and row(librarian, STARTER.key).status == "in use"


def test_the_folder_of_a_file_is_opened(viewer: ViewerModel, shelf: FakeShelf) -> None:
    opened: list[Path] = []
    librarian = make_librarian(viewer, shelf, reveal=lambda folder: not opened.append(folder))
    librarian.select(SPOTS.key)
    librarian.show_file()
    assert opened == [shelf.entries[SPOTS.key].file.parent] and hint(librarian) == ""


def test_without_a_file_browser_it_says_where_the_file_is(
    viewer: ViewerModel, shelf: FakeShelf
) -> None:
    librarian = make_librarian(viewer, shelf, reveal=lambda folder: False)
    librarian.select(SPOTS.key)
    librarian.show_file()
    assert str(shelf.entries[SPOTS.key].file.parent) in hint(librarian)


def test_deleting_asks_once(librarian: LibraryController, shelf: FakeShelf) -> None:
    librarian.select(VIT_B.key)
    librarian.delete()
    assert hint(librarian) == (
        "Delete model vit_b (375 MB) from this computer? You can get it again."
    )
    librarian.act("keep")
    librarian.act("delete")
    assert VIT_B.key in shelf.entries, "the question was answered already"
    librarian.delete()
    librarian.act("delete")
    assert VIT_B.key not in shelf.entries and hint(librarian) == "vit_b was deleted."
    assert librarian.state.selected == "" and not librarian.state.delete.enabled


def test_what_cannot_be_got_again_says_so(librarian: LibraryController) -> None:
    librarian.select(SPOTS.key)
    librarian.delete()
    assert hint(librarian).endswith("It cannot be brought back.")


def test_what_answers_in_any_viewer_is_not_deleted(
    viewer: ViewerModel, shelf: FakeShelf, chosen: Chosen
) -> None:
    elsewhere = Chosen(model="vit_b")
    librarian = make_librarian(viewer, shelf, chosen, everywhere=(elsewhere,))
    librarian.select(VIT_B.key)
    assert not librarian.state.delete.enabled and "in use" in librarian.state.delete.tip
    elsewhere.model = "starter"
    librarian.render()
    librarian.delete()
    elsewhere.model = "vit_b"
    librarian.act("delete")
    assert VIT_B.key in shelf.entries, "it came into use while the question stood"
    assert "in use" in hint(librarian)


def test_what_cannot_be_deleted_is_a_line(librarian: LibraryController, shelf: FakeShelf) -> None:
    shelf.errors[SPOTS.name] = OutputError("The file cannot be deleted. Close what uses it.")
    librarian.select(SPOTS.key)
    librarian.delete()
    librarian.act("delete")
    assert hint(librarian) == "The file cannot be deleted. Close what uses it."
    assert librarian.state.hint is not None and librarian.state.hint.is_error


def test_other_docks_hear_of_what_came_and_went(
    librarian: LibraryController, chosen: Chosen
) -> None:
    heard: list[str] = []
    chosen.renewed.connect(lambda: heard.append("renewed"))
    librarian.select(SPOTS.key)
    librarian.delete()
    librarian.act("delete")
    assert heard == ["renewed"]


def test_the_segment_dock_lists_them_anew(
    segmenting: SegmentController, chosen: Chosen, home: Path
) -> None:
    folder = home / "adapters"
    folder.mkdir(parents=True)
    (folder / "new.safetensors").touch()
    chosen.renewed.emit()
    assert "new" in [choice.text for choice in segmenting.state.adapters]
    (choice,) = [c for c in segmenting.state.models if c.value == "vit_b"]
    assert "Library" in choice.why and "models download vit_b" in choice.why
