"""A bioimage.io package: bioimage.io's own library accepts it, and it says where it comes from."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from bioimageio.spec import InvalidDescr, load_description
from PIL import Image

from napari_clipsam import Segmenter, open_image
from napari_clipsam._plugin.samples import synthetic_nuclei
from napari_clipsam.errors import (
    AdapterError,
    ClipSamError,
    ConfigError,
    OutputError,
    PlaneError,
    WordError,
)
from napari_clipsam.exporting import bioimageio
from napari_clipsam.exporting.bioimageio import export_bioimageio
from napari_clipsam.models.refiner import ConceptRefiner
from napari_clipsam.prompts import Prompts

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")

FACTS = {
    "threshold": 0.0,
    "words": ("Nuclei", "cells"),
    "provenance": {"images": ["em.tif"], "steps": 120},
    "scores": {"held out": {"dice": 0.78125}},
}


@pytest.fixture
def package(make_segmenter, make_plane, tmp_path: Path) -> Path:
    return export_bioimageio(
        make_segmenter(**FACTS),
        " Nuclei ",
        make_plane(),
        tmp_path / "nuclei.zip",
        authors=("Ada / Lovelace",),
        licence="CC-BY-4.0",
    )


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_bioimage_io_reads_it_and_misses_nothing(package: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        description = load_description(archive, perform_io_checks=True)
    assert not isinstance(description, InvalidDescr)
    assert description.type == "model" and description.name == "CLIP-Guided SAM for nuclei"
    assert str(description.license) == "CC-BY-4.0"
    assert [author.name for author in description.authors] == ["Ada   Lovelace"]
    assert any("2605.24807" in str(cite.doi) for cite in description.cite)
    assert [axis.id for axis in description.inputs[0].axes] == ["batch", "channel", "y", "x"]


def test_its_example_is_reproduced_by_its_weights(
    package: Path, make_segmenter, make_plane
) -> None:
    files = contents(package)
    given, expected = (
        np.load(io.BytesIO(files[f"test_{part}.npy"])) for part in ("input", "output")
    )
    assert given.dtype == np.uint8 and given.shape == (1, 3, 48, 64)
    network = torch.jit.load(io.BytesIO(files["weights.torchscript.pt"]))
    np.testing.assert_allclose(network(torch.from_numpy(given)), expected, atol=1e-5)
    segmenter: Segmenter = make_segmenter(**FACTS)
    segmenter.set_plane(make_plane())
    mask = segmenter.predict(Prompts(text="nuclei")).labels() > 0
    np.testing.assert_array_equal(expected[0, 0] > 0.5, mask)
    assert 0 < mask.sum() < mask.size


def test_its_card_says_how_it_was_made_and_what_it_scored(package: Path) -> None:
    card = contents(package)["README.md"].decode()
    for said in ("Validation", "em.tif", "steps: 120", "dice: 0.7812", "CC-BY-4.0", "2605.24807"):
        assert said in card
    assert "the adapter was not trained" not in card.lower()


def test_scores_of_redrawn_masks_are_told_apart(make_segmenter, make_plane, tmp_path: Path) -> None:
    segmenter: Segmenter = make_segmenter(**FACTS)
    assert segmenter.adapter is not None
    segmenter.adapter.with_refiner(ConceptRefiner((8, 16)).eval())
    out = tmp_path / "redrawn.zip"
    export_bioimageio(segmenter, "nuclei", make_plane(), out)
    assert "which redraws masks from the pixels" in contents(out)["README.md"].decode()


def test_its_cover_shows_image_and_mask_side_by_side(package: Path) -> None:
    cover = np.asarray(Image.open(io.BytesIO(contents(package)["cover.png"])))
    assert cover.shape == (512, 1024, 3)
    assert (cover[:, :512] != cover[:, 512:]).any(axis=2).mean() > 0.01


def test_a_word_the_adapter_was_not_trained_for_is_named_as_such(
    make_segmenter, make_plane, tmp_path: Path
) -> None:
    out = tmp_path / "hats.zip"
    export_bioimageio(make_segmenter(**FACTS), "hats & {cats}: ü", make_plane(), out)
    files = contents(out)
    assert "The adapter was not trained for this word" in files["README.md"].decode()
    described = yaml.safe_load(files["bioimageio.yaml"])
    assert described["name"] == "CLIP-Guided SAM for hats - -cats-- -"
    assert "license" not in described and described["authors"] == [{"name": "not named"}]
    assert "No licence was stated" in files["README.md"].decode()


def test_the_starters_notices_travel_with_its_weights(tmp_path: Path) -> None:
    image, _ = synthetic_nuclei((128, 128), (0.5, 0.5), n_nuclei=8, seed=1)
    out = tmp_path / "starter.zip"
    export_bioimageio(Segmenter(device="cpu"), "nuclei", open_image(image).plane(), out)
    files = contents(out)
    assert b"Usiigaci" in files["NOTICE.md"] and b"BCCD" in files["NOTICE.md"]
    described = yaml.safe_load(files["bioimageio.yaml"])
    assert described["license"] == "BSD-3-Clause"
    assert [one["source"] for one in described["attachments"]] == ["NOTICE.md"]


@pytest.mark.parametrize(
    ("changes", "error", "saying"),
    [
        ({"path": "model.pt"}, OutputError, "end in .zip"),
        ({"path": "missing/model.zip"}, OutputError, "does not exist"),
        ({"shape": (129, 64)}, PlaneError, "32 to 128 pixels"),
        ({"shape": (64, 31)}, PlaneError, "32 to 128 pixels"),
        ({"threshold": 1.0}, PlaneError, "shows nothing of 'nuclei'"),
        ({"licence": "my own"}, ConfigError, "license"),
        ({"adapter": None}, AdapterError, "no adapter to export"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    changes: dict[str, object],
    error: type[ClipSamError],
    saying: str,
    make_segmenter,
    make_plane,
    tmp_path: Path,
) -> None:
    segmenter = make_segmenter(**{**FACTS, "threshold": changes.get("threshold", 0.0)})
    if "adapter" in changes:
        segmenter.set_adapter(None)
    with pytest.raises(error, match=saying):
        export_bioimageio(
            segmenter,
            "nuclei",
            make_plane(changes.get("shape", (48, 64))),
            tmp_path / str(changes.get("path", "model.zip")),
            licence=changes.get("licence"),
        )
    assert not list(tmp_path.iterdir())


def test_a_word_that_was_never_learnt_is_refused(make_plane, tmp_path: Path) -> None:
    with pytest.raises(WordError, match="has not learnt 'zebras'"):
        export_bioimageio(Segmenter(device="cpu"), "zebras", make_plane(), tmp_path / "z.zip")


def test_an_existing_package_is_replaced_only_when_asked(
    package: Path, make_segmenter, make_plane
) -> None:
    before = package.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        export_bioimageio(make_segmenter(**FACTS), "nuclei", make_plane(), package)
    assert package.read_bytes() == before
    export_bioimageio(make_segmenter(**FACTS), "cells", make_plane(), package, overwrite=True)
    assert package.read_bytes() != before


def test_a_network_that_answers_otherwise_is_not_kept(
    make_segmenter, make_plane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = bioimageio._run
    monkeypatch.setattr(bioimageio, "_run", lambda *given: 1 - run(*given))
    with pytest.raises(ClipSamError, match=r"marks .* pixels otherwise"):
        export_bioimageio(make_segmenter(**FACTS), "nuclei", make_plane(), tmp_path / "n.zip")
    assert not list(tmp_path.iterdir())


def test_without_bioimage_ios_library_it_says_what_to_install(
    make_segmenter, make_plane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bioimageio, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"napari-clipsam\[bioimageio\]"):
        export_bioimageio(make_segmenter(**FACTS), "nuclei", make_plane(), tmp_path / "n.zip")
