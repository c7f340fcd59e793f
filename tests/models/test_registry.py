"""Models by name: which are known, which are there, and what a wrong name is answered."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from tiny import CLIP_ARCHITECTURE, SAM_CONFIG, tiny_clip, tiny_sam

from napari_clipsam.errors import ConfigError, OutputError, WeightsError
from napari_clipsam.models import pretrained, registry
from napari_clipsam.models.checksum import digests_of, sha256_of
from napari_clipsam.models.registry import (
    Checksum,
    ModelEntry,
    clips,
    import_file,
    load_model,
    models,
    models_folder,
    register_model,
    uninstall,
)
from napari_clipsam.models.weights import load_sam, save_clip, save_sam


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


def no_leftovers() -> bool:
    """Whether nothing is left of downloads and copies."""
    return not list((models_folder() / "downloads").glob("*"))


def entry(name: str) -> ModelEntry:
    return {e.name: e for e in models()}[name]


# ---------------------------------------------------------------- what is known


def test_the_starter_and_metas_models_are_known(home: Path) -> None:
    assert [e.name for e in models()][:4] == ["starter", "vit_b", "vit_l", "vit_h"]
    assert [e.name for e in clips()][:2] == ["starter", "ViT-B-16:openai"]
    assert not home.exists(), "looking makes no folder"


def test_the_starter_is_installed_where_its_file_is(starter: Path) -> None:
    assert entry("starter").installed
    size = (starter / "sam.safetensors").stat().st_size
    assert entry("starter").size_mb == size / 1e6
    (starter / "sam.safetensors").unlink()
    assert not entry("starter").installed
    assert clips()[0].file == starter / "clip.safetensors" and clips()[0].installed


def test_imported_models_come_last_by_name(file: Path) -> None:
    import_file("zebrafish", file)
    found = import_file("axons", file)

    assert [e.name for e in models()][-2:] == ["axons", "zebrafish"]
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

    with pytest.raises(WeightsError, match=r"axons\.json is damaged.*install 'axons' again"):
        models()


def test_a_record_cannot_point_out_of_its_folder(file: Path) -> None:
    import_file("axons", file)
    record = models_folder() / "axons.json"
    record.write_text(record.read_text().replace("axons.safetensors", "../../secret.safetensors"))

    assert entry("axons").file == models_folder() / "secret.safetensors"


# ---------------------------------------------------------------- importing


def test_an_import_copies_and_describes_the_file(file: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()

    found = import_file("my-nuclei.v2", file)

    assert found.file == models_folder() / "my-nuclei.v2.safetensors"
    assert found.file.read_bytes() == file.read_bytes()
    assert (found.sha256, found.checksum) == (digest, Checksum("sha256", digest, "import"))
    assert json.loads((models_folder() / "my-nuclei.v2.json").read_text()) == {
        "file": "my-nuclei.v2.safetensors",
        "sha256": digest,
        "bytes": file.stat().st_size,
        "modified": found.file.stat().st_mtime_ns,
        "architecture": "custom",
        "source": "sam.safetensors",
    }
    assert load_sam(found.file).identity == load_sam(file).identity
    assert no_leftovers()


def test_files_are_imported_under_the_ending_of_what_they_hold(file: Path, tmp_path: Path) -> None:
    torch.save({"model": tiny_sam(2).state_dict()}, tmp_path / "odd.safetensors")
    file.rename(tmp_path / "odd.bin")

    assert import_file("a", tmp_path / "odd.bin").file == models_folder() / "a.safetensors"
    assert import_file("b", tmp_path / "odd.safetensors").file == models_folder() / "b.pth"


IMPOSSIBLE = ["", "..", "a/b", "a\\b", ".hidden", "x.pth", "a b", "né", "x" * 65]
IMPOSSIBLE_CLIPS = ["ViT-B-16:", ":openai", "ViT-B-16:a/b", "ViT-B-16:x.pt", "C:x", "a:b:c"]


@pytest.mark.parametrize("name", [*IMPOSSIBLE, *IMPOSSIBLE_CLIPS])
def test_names_that_could_not_be_used_are_refused(name: str, file: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot be a (model|CLIP)'s name"):
        import_file(name, file)
    assert not models_folder().exists()


@pytest.mark.parametrize("name", ["starter", "axons"])
def test_a_name_that_is_taken_is_not_imported(name: str, file: Path) -> None:
    first = import_file("axons", file)

    with pytest.raises(WeightsError, match=rf"a model '{name}' already\. Choose another name"):
        import_file(name, file)
    assert entry("axons") == first


def test_a_file_that_is_no_sam_is_not_imported(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "linear.pth")

    with pytest.raises(WeightsError, match=r"holds no SAM: .*found one tensor, weight"):
        import_file("mine", tmp_path / "linear.pth")
    assert not models_folder().exists()


def test_metas_names_take_metas_files_alone(file: Path) -> None:
    with pytest.raises(WeightsError, match="of the architecture custom, not vit_b"):
        import_file("vit_b", file)
    assert not entry("vit_b").installed and no_leftovers()


@pytest.mark.parametrize("stated", ["00ff00", "0" * 64])
def test_another_file_than_the_publishers_is_not_imported(file: Path, stated: str) -> None:
    register_model(ModelEntry("cells", "custom", "https://example.org", Checksum("sha256", stated)))

    with pytest.raises(WeightsError, match=rf"known as 'cells'.*not {stated}\. Import it under"):
        import_file("cells", file)
    assert not entry("cells").installed and no_leftovers()


@pytest.mark.parametrize("kind", ["sha256", "md5", "xxh128"])
def test_a_known_name_is_filled_by_the_file_it_stands_for(file: Path, kind: str) -> None:
    stated = Checksum(kind, digests_of(file, (kind,))[kind])
    register_model(
        ModelEntry("cells", "custom", "https://example.org/cells.pth", stated, licence="CC0")
    )

    found = import_file("cells", file)

    assert found.installed and found.checksum == stated and found.sha256 == sha256_of(file)
    assert (found.licence, found.source) == ("CC0", "https://example.org/cells.pth")


def test_a_copy_that_cannot_be_written_leaves_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(source: Path, target: Path) -> None:
        target.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full_disk)
    with pytest.raises(OutputError, match=r"No space left on device.*NAPARI_CLIPSAM_HOME"):
        import_file("mine", file)
    assert not list(models_folder().rglob("*.*"))


def test_a_folder_that_cannot_be_made_is_named(file: Path, home: Path) -> None:
    home.touch()
    with pytest.raises(OutputError, match=r"models.* cannot be written to.*NAPARI_CLIPSAM_HOME"):
        import_file("mine", file)


# ---------------------------------------------------------------- CLIPs


TINY = "napari-clipsam-tiny-registry"


@pytest.fixture(scope="module", autouse=True)
def _architecture(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let open_clip know a tiny architecture, without weights of its own."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{TINY}.json").write_text(json.dumps(CLIP_ARCHITECTURE))
    open_clip.add_model_config(folder)


@pytest.fixture
def clip_file(tmp_path: Path) -> Path:
    torch.save(tiny_clip(5).model.state_dict(), tmp_path / "clip.pt")
    return tmp_path / "clip.pt"


def test_a_clip_is_imported_as_architecture_and_tag(
    starter: Path, file: Path, clip_file: Path
) -> None:
    found = import_file(f"{TINY}:mine", clip_file)

    assert found.file == models_folder() / "clips" / f"{TINY}--mine.pth"
    assert (found.kind, found.architecture, found.installed) == ("clip", TINY, True)
    assert clips()[-1] == found and found not in models()
    model = load_model(str(file), clip=f"{TINY}:mine")
    assert (model.clip.identity, model.clip_name) == (tiny_clip(5).identity, f"{TINY}:mine")
    assert uninstall(f"{TINY}:mine") == found.file and not found.file.exists()
    assert clips()[-1].name != found.name


def test_a_file_that_is_no_clip_of_the_architecture_is_not_imported(
    file: Path, clip_file: Path
) -> None:
    with pytest.raises(WeightsError, match="does not hold weights of this CLIP") as error:
        import_file(f"{TINY}:mine", file)
    assert " missing (e.g. ln_final.bias), " in str(error.value) and len(str(error.value)) < 400
    with pytest.raises(WeightsError, match="no architecture 'ViT-Z-99'"):
        import_file("ViT-Z-99:mine", clip_file)
    assert not models_folder().exists()


@pytest.mark.parametrize("name", ["ViT-B-16:openai", "ViT-B-32:laion2b_s34b_b79k"])
def test_a_clip_that_is_not_installed_says_how_to_get_it(starter: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=f"The CLIP '{name}' is not installed") as caught:
        load_model("starter", clip=name)
    assert f"napari-clipsam models download {name}" in str(caught.value)
    assert f"napari-clipsam models import {name} FILE" in str(caught.value)


def test_a_tag_that_open_clip_does_not_know_is_refused_with_those_it_knows(starter: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights 'opanai' for ViT-B-16.*openai, "):
        load_model("starter", clip="ViT-B-16:opanai")


# ---------------------------------------------------------------- deleting


def test_what_was_installed_is_deleted_and_can_be_installed_again(file: Path) -> None:
    copy = import_file("axons", file).file

    assert uninstall("axons") == copy
    assert not list(models_folder().rglob("*.*"))
    import_file("axons", file)


@pytest.mark.parametrize("name", ["starter", "vit_b", "ViT-B-16:openai", "../x"])
def test_only_what_was_installed_can_be_deleted(name: str, file: Path) -> None:
    import_file("axons", file)
    with pytest.raises(WeightsError, match=f"no installed model '{name}'. Installed are: axons;"):
        uninstall(name)


def test_a_model_whose_file_is_gone_can_be_deleted_and_imported(file: Path) -> None:
    copy = import_file("axons", file).file
    copy.unlink()
    with pytest.raises(WeightsError, match="'axons' is not installed"):
        load_model("axons")
    assert import_file("axons", file).installed

    copy.unlink()
    uninstall("axons")
    assert "axons" not in [e.name for e in models()]


# ---------------------------------------------------------------- files that changed since


def test_a_file_that_was_touched_is_still_the_one(starter: Path, file: Path) -> None:
    copy = import_file("axons", file).file
    os.utime(copy, (0, 0))

    assert load_model("axons").sam.identity == tiny_sam(2).identity


@pytest.mark.parametrize("cut", [0, 1])
def test_a_file_that_changed_since_is_not_used(starter: Path, file: Path, cut: int) -> None:
    copy = import_file("axons", file).file
    content = bytearray(copy.read_bytes())
    content[-2] ^= 1
    copy.write_bytes(content[: len(content) - cut])
    os.utime(copy, (0, 0))

    with pytest.raises(WeightsError, match=r"not the file that was installed as 'axons'") as caught:
        load_model("axons")
    assert "napari-clipsam models remove axons" in str(caught.value)


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
    assert (model.adapter_path, model.clip_name) == (None, "clip.safetensors")
    model = load_model("starter", clip="starter")
    assert model.adapter_path is not None and model.clip_name == "starter"


@pytest.mark.parametrize("weights", ["/data/weights.pt", "C:\\weights.pt"])
def test_a_clip_of_open_clip_may_be_a_file(
    weights: str, starter: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_open_clip(*request: str) -> object:
        asked.append(request)
        return tiny_clip(3)

    monkeypatch.setattr(pretrained, "load_open_clip", load_open_clip)

    model = load_model(str(file), clip=f"ViT-B-16:{weights}")

    assert asked == [("ViT-B-16", weights)]
    assert model.clip.identity == tiny_clip(3).identity
    assert model.clip_name == f"ViT-B-16:{Path(weights).name}"


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
    with pytest.raises(WeightsError, match=r"Known are: starter, vit_b, .*, medsam;") as caught:
        load_model("mitochondria")
    assert "Did you mean" not in str(caught.value)


def test_a_model_that_is_not_installed_says_how_to_get_it() -> None:
    with pytest.raises(WeightsError, match="'vit_b' is not installed") as caught:
        load_model("vit_b")
    assert "napari-clipsam models download vit_b" in str(caught.value)
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
