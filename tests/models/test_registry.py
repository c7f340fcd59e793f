"""Models by name: which are known, which are there, and what a wrong name is answered."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import SAM_CONFIG, tiny_clip, tiny_sam

from napari_clipsam.errors import ConfigError, WeightsError
from napari_clipsam.models import clip as clip_module
from napari_clipsam.models import registry
from napari_clipsam.models.registry import (
    ModelEntry,
    import_file,
    load_model,
    models,
    models_folder,
    register_model,
)
from napari_clipsam.models.weights import save_clip, save_sam


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user folder, and a registry that forgets what a test registers."""
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(registry, "_KNOWN", dict(registry._KNOWN))
    return tmp_path / "home"


@pytest.fixture
def starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny networks in the place of the starter's."""
    folder = tmp_path / "starter"
    folder.mkdir()
    save_sam(tiny_sam(1), folder / "sam.safetensors")
    save_clip(tiny_clip(1), folder / "clip.safetensors")
    (folder / "adapter.safetensors").touch()
    monkeypatch.setattr(registry, "starter_file", lambda part: folder / f"{part}.safetensors")
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_sam(tiny_sam(2), tmp_path / "sam.safetensors", half=False)
    return tmp_path / "sam.safetensors"


def entry(name: str) -> ModelEntry:
    return {e.name: e for e in models()}[name]


# ---------------------------------------------------------------- what is known


def test_the_starter_and_metas_models_are_known(home: Path) -> None:
    assert [e.name for e in models()] == ["starter", "vit_b", "vit_l", "vit_h"]
    assert not home.exists(), "looking makes no folder"


@pytest.mark.parametrize(
    ("name", "checksum"), [("vit_b", "01ec64"), ("vit_l", "0b3195"), ("vit_h", "4b8939")]
)
def test_metas_checksums_are_those_their_file_names_state(name: str, checksum: str) -> None:
    found = entry(name)

    assert found.sha256_prefix == checksum and found.sha256 is None
    assert found.source is not None and found.source.endswith(f"/sam_{name}_{checksum}.pth")
    assert (found.architecture, found.licence) == (name, "Apache-2.0")
    assert not found.installed


def test_the_starter_is_installed_where_its_file_is(starter: Path) -> None:
    assert entry("starter").installed
    size = (starter / "sam.safetensors").stat().st_size
    assert entry("starter").size_mb == size / 1e6
    (starter / "sam.safetensors").unlink()
    assert not entry("starter").installed


def test_imported_models_come_last_by_name(file: Path) -> None:
    import_file("zebrafish", file)
    found = import_file("axons", file)

    assert [e.name for e in models()][4:] == ["axons", "zebrafish"]
    assert found.installed and found.architecture == "custom" and len(found.sha256 or "") == 64
    assert found.size_mb == file.stat().st_size / 1e6
    assert found.file == models_folder() / "axons.safetensors"


def test_a_registered_model_is_known(starter: Path, file: Path) -> None:
    register_model(ModelEntry("mine", "custom", file=file))

    assert entry("mine").installed
    assert load_model("mine").sam.identity == tiny_sam(2).identity


@pytest.mark.parametrize("name", ["starter", "vit_b", "axons"])
def test_no_name_is_registered_twice(name: str, file: Path) -> None:
    import_file("axons", file)

    with pytest.raises(ConfigError, match=f"a model '{name}' already"):
        register_model(ModelEntry(name, "custom", file=file))


def test_a_name_like_a_files_is_not_registered(file: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be a model's name"):
        register_model(ModelEntry("mine.pth", "custom", file=file))


@pytest.mark.parametrize("content", ["", "[]", '{"file": "axons.safetensors"}', "\x00"])
def test_a_damaged_record_says_what_to_do(content: str, file: Path) -> None:
    import_file("axons", file)
    (models_folder() / "axons.json").write_text(content)

    with pytest.raises(WeightsError, match=r"axons\.json is damaged.*import 'axons' again"):
        models()


def test_a_record_cannot_point_out_of_its_folder(file: Path) -> None:
    import_file("axons", file)
    record = models_folder() / "axons.json"
    record.write_text(record.read_text().replace("axons.safetensors", "../../secret.safetensors"))

    assert entry("axons").file == models_folder() / "secret.safetensors"


# ---------------------------------------------------------------- importing


@pytest.mark.parametrize("name", ["starter", "axons"])
def test_a_name_that_is_taken_is_not_imported(name: str, file: Path) -> None:
    import_file("axons", file)

    with pytest.raises(WeightsError, match=f"a model '{name}' already"):
        import_file(name, file)


def test_metas_names_take_metas_files_alone(file: Path) -> None:
    with pytest.raises(WeightsError, match=r"not the file known as 'vit_b'.*not 01ec64"):
        import_file("vit_b", file)
    assert not entry("vit_b").installed


def test_a_known_name_is_filled_by_the_file_it_stands_for(file: Path) -> None:
    wanted = import_file("probe", file).sha256
    assert wanted is not None
    register_model(
        ModelEntry(
            "cells",
            "custom",
            source="https://example.org/cells.pth",
            sha256_prefix=wanted[:6],
            licence="CC0",
        )
    )

    found = import_file("cells", file)

    assert found.installed and found.sha256 == wanted
    assert (found.licence, found.source) == ("CC0", "https://example.org/cells.pth")


# ---------------------------------------------------------------- loading


def test_the_starter_comes_whole_and_with_its_adapter(starter: Path) -> None:
    model = load_model()

    assert model.name == "starter"
    assert model.sam.config == SAM_CONFIG
    assert model.clip.config == tiny_clip(1).config
    assert model.adapter_path == starter / "adapter.safetensors"


@pytest.mark.parametrize("part", ["sam", "clip", "adapter"])
def test_a_starter_with_a_part_missing_says_what_to_do(part: str, starter: Path) -> None:
    (starter / f"{part}.safetensors").unlink()

    with pytest.raises(WeightsError, match=rf"{part}\.safetensors is missing\. Install"):
        load_model()


def test_a_file_is_a_model_with_the_starters_clip(starter: Path, file: Path) -> None:
    model = load_model(str(file))

    assert model.name == "sam.safetensors" and model.adapter_path is None
    assert model.sam.identity == tiny_sam(2).identity
    assert model.clip.identity == load_model().clip.identity


def test_an_imported_model_is_loaded_by_name_though_a_file_is_called_so(
    starter: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_file("axons", file)
    (tmp_path / "axons").touch()
    monkeypatch.chdir(tmp_path)

    model = load_model("axons", input_size=96)

    assert model.name == "axons" and model.sam.config.input_size == 96


def test_the_starter_with_another_clip_has_no_adapter(starter: Path, tmp_path: Path) -> None:
    save_clip(tiny_clip(7), tmp_path / "clip.safetensors", half=False)

    model = load_model("starter", clip=str(tmp_path / "clip.safetensors"))

    assert model.clip.identity == tiny_clip(7).identity
    assert model.adapter_path is None
    assert load_model("starter", clip="starter").adapter_path is not None


@pytest.mark.parametrize("weights", ["openai", "/data/weights.pt", "C:\\weights.pt"])
def test_a_clip_of_open_clip_is_asked_for_by_architecture(
    weights: str, starter: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_open_clip(*request: str) -> object:
        asked.append(request)
        return tiny_clip(3)

    monkeypatch.setattr(clip_module, "load_open_clip", load_open_clip)

    model = load_model(str(file), clip=f"ViT-B-16:{weights}")

    assert asked == [("ViT-B-16", weights)]
    assert model.clip.identity == tiny_clip(3).identity


@pytest.mark.parametrize("choice", ["ViT-B-16", "", ":openai"])
def test_a_choice_of_clip_that_is_none_is_refused(choice: str, starter: Path, file: Path) -> None:
    with pytest.raises(WeightsError, match=rf"'{choice}' is no CLIP\. Give starter, ARCH:TAG"):
        load_model(str(file), clip=choice)


def test_a_drive_is_no_architecture(starter: Path, file: Path) -> None:
    with pytest.raises(WeightsError, match=r"There is no file C:\\clip\.safetensors"):
        load_model(str(file), clip="C:\\clip.safetensors")


@pytest.mark.parametrize(
    ("name", "hint"), [("vitb", "vit_b"), ("Starter", "starter"), ("vit-h", "vit_h")]
)
def test_a_misspelt_name_is_answered_with_the_near_one(name: str, hint: str) -> None:
    with pytest.raises(WeightsError, match=f"no model '{name}'.*Did you mean {hint}.*vit_l") as e:
        load_model(name)
    assert e.value.exit_code == 2


def test_a_name_like_no_other_is_answered_with_the_known_ones() -> None:
    with pytest.raises(WeightsError, match="Known are: starter, vit_b, vit_l, vit_h;") as caught:
        load_model("mitochondria")
    assert "Did you mean" not in str(caught.value)


def test_a_model_that_is_not_installed_says_how_to_get_it() -> None:
    with pytest.raises(WeightsError, match="'vit_b' is not installed") as caught:
        load_model("vit_b")
    assert "sam_vit_b_01ec64.pth" in str(caught.value)
    assert "napari-clipsam models import vit_b FILE" in str(caught.value)


def test_a_missing_file_is_not_taken_for_a_name(starter: Path) -> None:
    with pytest.raises(WeightsError, match=r"There is no file no/such\.pth"):
        load_model("no/such.pth")


def test_the_networks_of_a_model_work_together(starter: Path) -> None:
    model = load_model()
    x = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        embedding = model.sam.head(model.sam.trunk(x, 2), 2)
        dense = model.clip.dense(x)

    assert embedding.shape == (1, 32, 8, 8)
    assert dense.shape == (1, 1 + 64, model.clip.dim)
