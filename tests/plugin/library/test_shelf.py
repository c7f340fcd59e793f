"""The library on disk, with tiny networks: read, filled, and cleared of nothing but its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from serving import FileServer, serving, stall
from tiny import tiny_clip, tiny_sam

from napari_clipsam._plugin.library_shelf import UserShelf
from napari_clipsam._plugin.library_state import Answering, Entry, Naming
from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.files import read_header, save_adapter
from napari_clipsam.adapters.inject import build_adapter
from napari_clipsam.errors import AdapterError, OutputError, Stopped, WeightsError
from napari_clipsam.models import registry
from napari_clipsam.models.clip import Clip
from napari_clipsam.models.registry import ModelEntry, register_model
from napari_clipsam.models.sam import Sam
from napari_clipsam.models.store import part_file
from napari_clipsam.models.weights import save_sam


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> UserShelf:
    monkeypatch.setattr(registry, "_KNOWN", dict(registry._KNOWN))
    return UserShelf()


@pytest.fixture
def sam_file(tmp_path: Path) -> Path:
    path = tmp_path / "my sam.safetensors"
    save_sam(tiny_sam(1), path, half=False)
    return path


@pytest.fixture
def server(sam_file: Path) -> Iterator[FileServer]:
    with serving(sam_file.read_bytes()) as server:
        yield server


def entries(shelf: UserShelf) -> dict[str, Entry]:
    return {entry.key: entry for entry in shelf.look().entries}


def adapter(path: Path, sam: Sam, clip: Clip, **info: object) -> Path:
    """An adapter's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = build_adapter(AdapterConfig(n_conditioned=1, reduction=4), sam, clip, 0)
    made.info = replace(made.info, **{"words": ("blebs",), **info})
    return save_adapter(made, path)


def starters_twin(path: Path, **info: object) -> Path:
    """An adapter that says it belongs to the starter."""
    own = read_header(registry.starter_file("adapter")).info
    names = {"base_identity": own.base_identity, "clip_identity": own.clip_identity}
    return adapter(path, tiny_sam(), tiny_clip(), **{**names, **info})


def test_what_ships_and_what_is_known_is_listed(shelf: UserShelf) -> None:
    found = entries(shelf)
    starter, vit_b = found["sam:starter"], found["sam:vit_b"]
    assert (
        starter.is_here
        and starter.kept
        and starter.sets == Answering("starter", "default", "starter")
    )
    assert not vit_b.is_here and vit_b.can_get and vit_b.size == 375_000_000
    facts = dict(vit_b.facts)
    assert facts["checksum"].startswith("sha256 01ec64")
    assert facts["checksum"].endswith("as its publisher states it")
    assert facts["address"].endswith("sam_vit_b_01ec64.pth")
    assert found["clip:ViT-B-16:openai"].sets == Answering("", "default", "ViT-B-16:openai")
    own = found["adapter:starter"]
    assert own.score == "Dice 0.84" and "nuclei" not in own.made_for
    assert own.made_for.endswith("and 8 more")
    assert found["word:nuclei@adapter:starter"].made_for == "starter"
    assert not shelf.look().is_puzzled


def test_an_adapter_of_the_starter_can_be_used(shelf: UserShelf, home: Path) -> None:
    scores = {"tested_on": "slice 12", "before": {"dice": 0.41}, "after": {"dice": 0.78}}
    path = starters_twin(
        home / "adapters" / "blebs.safetensors",
        scores=scores,
        provenance={"image": "em", "slices": [3, 12], "settings": {"seed": 0}},
    )
    found = entries(shelf)[f"adapter:{path}"]
    assert found.sets == Answering("starter", str(path), "starter") and found.missing == ""
    assert found.score == "Dice 0.41 → 0.78" and "slice 12" in found.score_tip
    facts = dict(found.facts)
    assert facts["belongs to model"].startswith("starter (")
    assert facts["image"] == "em" and facts["slices"] == "3, 12" and "settings" not in facts


def test_an_adapter_of_another_model_says_what_is_missing(
    shelf: UserShelf, home: Path, sam_file: Path
) -> None:
    own = read_header(registry.starter_file("adapter")).info
    path = adapter(
        home / "adapters" / "blebs.safetensors",
        tiny_sam(1),
        tiny_clip(),
        clip_identity=own.clip_identity,
        provenance={"model": "mine"},
    )
    key = f"adapter:{path}"
    assert "that is not on this computer" in entries(shelf)[key].missing
    assert "called mine where it was made" in entries(shelf)[key].missing
    assert not shelf.look().is_puzzled, "there is no model to look at"

    shelf.name_model("other", sam_file)
    assert list(entries(shelf))[:2] == ["sam:starter", "sam:other"], "what is here comes first"
    assert shelf.look().is_puzzled
    shelf.identify(lambda: True)
    assert shelf.look().is_puzzled, "it was stopped"
    shelf.identify(lambda: False)
    found = entries(shelf)[key]
    assert found.sets == Answering("other", str(path), "starter") and found.missing == ""
    assert tiny_sam(1).identity in dict(found.facts)["belongs to model"]
    assert dict(entries(shelf)["sam:other"].facts)["identity"] == tiny_sam(1).identity
    assert not shelf.look().is_puzzled


def test_a_known_model_that_is_not_here_is_named(shelf: UserShelf, home: Path) -> None:
    path = starters_twin(
        home / "adapters" / "blebs.safetensors",
        base_identity="f" * 32,
        provenance={"model": "vit_b"},
    )
    missing = entries(shelf)[f"adapter:{path}"].missing
    assert missing == (
        "It belongs to the model vit_b, which is not on this computer. Get that first."
    )
    assert entries(shelf)[f"word:blebs@adapter:{path}"].missing == missing


def test_a_name_alone_does_not_make_a_model_the_right_one(
    shelf: UserShelf, home: Path, sam_file: Path
) -> None:
    shelf.name_model("mine", sam_file)
    path = starters_twin(
        home / "adapters" / "blebs.safetensors",
        base_identity="f" * 32,
        provenance={"model": "mine"},
    )
    assert entries(shelf)[f"adapter:{path}"].missing == "", "nobody has looked yet"
    shelf.identify(lambda: False)
    assert "the one of that name here is another" in entries(shelf)[f"adapter:{path}"].missing


def test_another_clip_is_missing_too(shelf: UserShelf, home: Path) -> None:
    path = starters_twin(home / "adapters" / "blebs.safetensors", clip_identity="e" * 32)
    found = entries(shelf)[f"adapter:{path}"]
    assert found.missing.startswith("It belongs to a CLIP that is not on this computer (eeeeeeee)")
    assert found.sets.model == "starter"


def test_a_damaged_file_is_listed_and_left_alone(shelf: UserShelf, home: Path) -> None:
    path = home / "adapters" / "torn.safetensors"
    starters_twin(path)
    path.write_bytes(path.read_bytes()[:-100])
    found = entries(shelf)[f"adapter:{path}"]
    assert "damaged, cut off" in found.missing and found.kept
    with pytest.raises(OutputError):
        shelf.delete(found)
    assert path.exists()


def test_a_model_comes_over_the_network_stops_and_goes_on(
    shelf: UserShelf, server: FileServer, sam_file: Path
) -> None:
    register_model(ModelEntry("served", "custom", source=server.url))
    size = sam_file.stat().st_size
    server.coming.append(stall(size // 2))
    with pytest.raises(Stopped):
        list(shelf.get("served", lambda: part_file("served").exists()))
    begun = entries(shelf)["sam:served"]
    assert not begun.is_here and 0 < begun.begun < size
    server.coming.clear()
    list(shelf.get("served", lambda: False))
    found = entries(shelf)["sam:served"]
    assert found.is_here and found.begun == 0 and not found.kept
    assert server.asked[-1][0] == f"bytes={begun.begun}-"
    assert "when it was first downloaded" in dict(found.facts)["checksum"]
    shelf.delete(found)
    assert not entries(shelf)["sam:served"].is_here and not found.file.exists()


def test_what_has_come_of_a_download_can_be_deleted(shelf: UserShelf) -> None:
    part = part_file("vit_b")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    begun = entries(shelf)["sam:vit_b"]
    assert begun.begun == 1000
    shelf.delete(begun)
    assert list(part.parent.iterdir()) == [] and entries(shelf)["sam:vit_b"].begun == 0


def test_a_model_is_taken_in_under_a_name(shelf: UserShelf, sam_file: Path) -> None:
    assert shelf.take_in(sam_file) == Naming(sam_file, "my-sam")
    assert shelf.name_model("my-sam", sam_file) == "sam:my-sam"
    assert entries(shelf)["sam:my-sam"].is_here and sam_file.exists()
    assert shelf.take_in(sam_file) == Naming(sam_file, "my-sam-2")
    with pytest.raises(WeightsError, match="already"):
        shelf.name_model("my-sam", sam_file)


def test_a_file_of_a_known_model_gets_its_name(shelf: UserShelf, tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save({"a": torch.zeros(1)}, path)
    assert shelf.take_in(path) == Naming(path, "vit_b")
    with pytest.raises(WeightsError, match="SAM"):
        shelf.name_model("vit_b", path)


def test_an_adapter_is_copied_once(shelf: UserShelf, tmp_path: Path, home: Path) -> None:
    source = starters_twin(tmp_path / "elsewhere" / "blebs.safetensors")
    copy = shelf.take_in(source)
    assert copy == home / "adapters" / "blebs.safetensors"
    assert copy.read_bytes() == source.read_bytes()
    with pytest.raises(AdapterError, match="already, as blebs"):
        shelf.take_in(source)
    other = starters_twin(tmp_path / "other" / "blebs.safetensors", words=("vacuoles",))
    assert shelf.take_in(other) == home / "adapters" / "blebs 2.safetensors"


@pytest.mark.parametrize("what", ["picture", "cut adapter", "cut sam", "cut archive", "empty"])
def test_a_foreign_or_cut_file_is_refused_with_what_was_expected(
    shelf: UserShelf, tmp_path: Path, home: Path, sam_file: Path, what: str
) -> None:
    path = tmp_path / "given.pth"
    if what == "picture":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    elif what == "cut adapter":
        path.write_bytes(starters_twin(tmp_path / "a.safetensors").read_bytes()[:-100])
    elif what == "cut sam":
        path.write_bytes(sam_file.read_bytes()[:-100])
    elif what == "cut archive":
        torch.save({"a": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:-500])
    else:
        path.touch()
    with pytest.raises(WeightsError, match="Expected is a SAM as Meta, MedSAM or micro-sam"):
        shelf.take_in(path)
    assert not (home / "adapters").exists()


def test_an_adapter_of_a_newer_version_is_refused_as_such(shelf: UserShelf, tmp_path: Path) -> None:
    path = tmp_path / "new.safetensors"
    header = '{"format_version": 99}'
    save_file({"a": torch.zeros(1)}, path, {"napari_clipsam_adapter": header})
    with pytest.raises(AdapterError, match="Update napari-clipsam"):
        shelf.take_in(path)


def test_deleting_an_adapter_leaves_what_lies_beside_it(shelf: UserShelf, home: Path) -> None:
    folder = home / "adapters"
    path = starters_twin(folder / "blebs.safetensors")
    others = [folder / name for name in ("blebs.training.pt", "blebs.teaching.json", "notes.txt")]
    for other in others:
        other.write_text("{}")
    shelf.delete(entries(shelf)[f"adapter:{path}"])
    assert not path.exists() and all(other.exists() for other in others)


def test_a_file_that_is_not_the_plugins_copy_is_not_deleted(
    shelf: UserShelf, sam_file: Path, tmp_path: Path
) -> None:
    register_model(ModelEntry("lent", "custom", file=sam_file))
    lent = entries(shelf)["sam:lent"]
    assert "not the plugin's own copy" in lent.kept
    with pytest.raises(OutputError):
        shelf.delete(lent)
    elsewhere = starters_twin(tmp_path / "mine.safetensors")
    with pytest.raises(OutputError, match="not in the library"):
        shelf.delete(replace(lent, kind="adapter", file=elsewhere, kept=""))
    with pytest.raises(OutputError, match="package"):
        shelf.delete(entries(shelf)["sam:starter"])
    assert sam_file.exists() and elsewhere.exists()
