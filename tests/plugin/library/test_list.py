"""What the list shows, and what its buttons say of the selected line."""

from __future__ import annotations

from pathlib import Path

import pytest
from napari.components import ViewerModel
from plugin.fakes_library import (
    CLIP,
    FOREIGN,
    SPOTS,
    STARTER,
    VIT_B,
    FakeShelf,
    make_librarian,
    row,
)

from napari_clipsam._plugin.chosen import Chosen
from napari_clipsam._plugin.library import LibraryController
from napari_clipsam._plugin.state import Hint
from napari_clipsam.errors import WeightsError


def names(librarian: LibraryController) -> list[str]:
    return [f"{row.name}: {row.kind}" for row in librarian.state.rows]


def test_models_adapters_and_words_are_one_list(librarian: LibraryController) -> None:
    assert names(librarian) == [
        "starter: model",
        "vit_b: model",
        "ViT-B-16:openai: CLIP",
        "spots (em, 22 Nov): adapter",
        "blebs: adapter",
        "spots: word",
        "spots: word",
    ]
    shown = row(librarian, VIT_B.key)
    assert (shown.status, shown.size, shown.licence) == ("no", "375 MB", "Apache-2.0")
    assert row(librarian, SPOTS.key).score == "Dice 0.41 → 0.78"
    assert row(librarian, FOREIGN.key).status == "unusable"
    assert [r.made_for for r in librarian.state.rows[-2:]] == ["spots (em, 22 Nov)", "blebs"]


@pytest.mark.parametrize(
    ("kind", "wanted", "found"),
    [
        ("sam", "", ["starter: model", "vit_b: model"]),
        ("clip", "", ["ViT-B-16:openai: CLIP"]),
        ("", "PHOTOGRAPHS apache", ["vit_b: model"]),
        ("word", "em,", ["spots: word"]),
        ("here", "model", ["starter: model"]),
        ("sam", "spots", []),
    ],
)
def test_it_is_narrowed_down(
    librarian: LibraryController, kind: str, wanted: str, found: list[str]
) -> None:
    librarian.set_kind(kind)
    librarian.set_wanted(wanted)
    assert names(librarian) == found
    assert librarian.state.n_rows == 7


def test_what_answers_is_marked(viewer: ViewerModel) -> None:
    chosen = Chosen()
    librarian = make_librarian(viewer, chosen=chosen)
    assert row(librarian, STARTER.key).status == "in use"
    assert row(librarian, SPOTS.key).status == "yes"
    chosen.choose("starter", SPOTS.sets.adapter)
    # the adapter's file is a fake one, so the model's own answers
    assert row(librarian, SPOTS.key).status == "yes"
    chosen.choose("vit_b", "none", CLIP.sets.clip)
    assert [r.key for r in librarian.state.rows if r.status == "in use"] == []


def test_details_say_all_that_is_known(librarian: LibraryController) -> None:
    librarian.select(VIT_B.key)
    assert librarian.state.details.splitlines() == [
        "vit_b, model (SAM)",
        "made for: photographs (SA-1B)",
        "size: 375 MB",
        "licence: Apache-2.0",
        "checksum: sha256 01ec64..., as its publisher states it",
        "address: https://example.org/sam_vit_b_01ec64.pth",
        "file: not on this computer",
    ]
    librarian.select(FOREIGN.key)
    assert "cannot be used: It belongs to the model vit_b" in librarian.state.details
    assert "score: Dice 0.41 → 0.78: overlap with labels" in librarian.state.details
    librarian.select("")
    assert librarian.state.details == ""


def test_nothing_selected_offers_nothing(librarian: LibraryController) -> None:
    state = librarian.state
    for offer in (state.get, state.use, state.show_file, state.delete):
        assert not offer.enabled and offer.tip == "Select a line of the list first."


@pytest.mark.parametrize(
    ("key", "enabled", "why"),
    [
        (STARTER.key, "show_file", {"get": "already", "use": "already", "delete": "package"}),
        (
            VIT_B.key,
            "get",
            {"use": "Get it first", "show_file": "no file", "delete": "not on this computer"},
        ),
        (SPOTS.key, "use show_file delete", {"get": "already"}),
        (FOREIGN.key, "show_file delete", {"get": "already", "use": "belongs to the model vit_b"}),
        (f"word:spots@{SPOTS.key}", "use show_file", {"delete": "Delete that instead"}),
    ],
)
def test_buttons_say_why_they_cannot_be_pressed(
    librarian: LibraryController, key: str, enabled: str, why: dict[str, str]
) -> None:
    librarian.select(key)
    offers = {
        name: getattr(librarian.state, name) for name in ("get", "use", "show_file", "delete")
    }
    assert [name for name, offer in offers.items() if offer.enabled] == enabled.split()
    for name, part in why.items():
        assert part in offers[name].tip
    assert all(offer.tip for offer in offers.values())


def test_a_list_that_cannot_be_read_is_a_line(viewer: ViewerModel) -> None:
    class Broken(FakeShelf):
        def look(self) -> None:
            raise WeightsError("The record x.json is damaged. Delete it.")

    librarian = make_librarian(viewer, Broken())
    assert librarian.state.hint == Hint("The record x.json is damaged. Delete it.", is_error=True)
    assert librarian.state.busy is None


def test_models_are_identified_once_where_an_adapter_asks_for_it(viewer: ViewerModel) -> None:
    shelf = FakeShelf(is_puzzled=True)
    librarian = make_librarian(viewer, shelf)
    assert shelf.asked == [("look",), ("identify",), ("look",)]
    shelf.is_puzzled = True
    librarian.look()
    assert shelf.asked.count(("identify",)) == 1, "it is still unknown, and nothing is new"
    librarian.import_file(Path("blobs.safetensors"))
    assert shelf.asked.count(("identify",)) == 2


def test_a_closed_one_listens_to_nobody(viewer: ViewerModel, shelf: FakeShelf) -> None:
    chosen = Chosen()
    librarian = make_librarian(viewer, shelf, chosen)
    librarian.close()
    librarian.close()
    looked = shelf.asked.count(("look",))
    chosen.choose("vit_b", "none")
    chosen.renewed.emit()
    librarian.look()
    assert shelf.asked.count(("look",)) == looked
