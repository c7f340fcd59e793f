"""Adapter files: whole or not there, read back, refused where they do not belong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from tiny import tiny_clip, tiny_sam

from napari_clipsam.adapters import files
from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.files import load_adapter, read_header, save_adapter
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.errors import AdapterError, OutputError
from napari_clipsam.models.clip import Clip
from napari_clipsam.models.refiner import ConceptRefiner
from napari_clipsam.models.sam import Sam

KEY = "napari_clipsam_adapter"


@pytest.fixture(scope="module")
def sam() -> Sam:
    return tiny_sam()


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny_clip()


@pytest.fixture
def adapter(sam: Sam, clip: Clip) -> Adapter:
    config = AdapterConfig(n_conditioned=2, clip_tuning="lora", n_points=3, map_threshold=0.7)
    adapter = build_adapter(config, sam, clip, seed=1)
    adapter.teach("T. gondii").data.normal_(generator=torch.Generator().manual_seed(0))
    adapter.teach("nuclei").data.fill_(0.25)
    return adapter.with_info(
        words=("nuclei", "t. gondii"),
        threshold=0.375,
        provenance={"steps": 120, "seed": 1, "planes": ["a.tif", "b.tif"]},
        scores={"dice": 0.91, "per_plane": [0.9, 0.92]},
    )


@pytest.fixture
def path(adapter: Adapter, tmp_path: Path) -> Path:
    return save_adapter(adapter, tmp_path / "a.safetensors")


def rewrite(path: Path, **changes: Any) -> None:
    """Change entries of the header and leave the tensors as they are."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[KEY])
    for name, value in changes.items():
        header[name] = {**header[name], **value} if isinstance(value, dict) else value
    save_file(load_file(path), path, metadata={KEY: json.dumps(header)})


# ---------------------------------------------------------------- what comes back


def test_the_header_says_all_there_is_to_know(path: Path, adapter: Adapter) -> None:
    header = read_header(path)
    assert header.format_version == files.FORMAT_VERSION
    assert header.config == adapter.config
    assert header.info == adapter.info
    assert header.taught == ("t. gondii", "nuclei")
    assert header.unknown == ()
    assert header.n_parameters == sum(p.numel() for p in adapter.parameters())
    assert header.size == path.stat().st_size


def test_reading_the_header_reads_no_tensor(path: Path) -> None:
    """Every number is made NaN behind the header; the header does not notice."""
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    expected = read_header(path)
    raw[start:] = b"\xff" * (len(raw) - start)
    path.write_bytes(raw)
    assert read_header(path) == expected


def test_a_loaded_adapter_is_the_saved_one(
    path: Path, adapter: Adapter, sam: Sam, clip: Clip
) -> None:
    loaded = load_adapter(path, sam, clip)
    assert loaded.config == adapter.config and loaded.info == adapter.info
    assert loaded.taught == adapter.taught
    stored, expected = loaded.state_dict(), adapter.state_dict()
    assert stored.keys() == expected.keys()
    trained = {name for name, _ in adapter.named_parameters()}
    for name, value in stored.items():
        assert value.dtype == expected[name].dtype
        kept = expected[name].half().float() if name in trained else expected[name]
        assert torch.equal(value, kept), name
    assert torch.equal(loaded.delta("T. Gondii"), adapter.delta("t. gondii").half().float())
    assert all(p.requires_grad for p in loaded.parameters())


def test_full_precision_on_request(adapter: Adapter, sam: Sam, clip: Clip, tmp_path: Path) -> None:
    whole = save_adapter(adapter, tmp_path / "whole.safetensors", half=False)
    half = save_adapter(adapter, tmp_path / "half.safetensors")
    loaded = load_adapter(whole, sam, clip).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in adapter.state_dict().items())
    assert read_header(half).size < 0.65 * read_header(whole).size


def test_a_weight_out_of_the_range_of_half_precision_is_kept(
    adapter: Adapter, sam: Sam, clip: Clip, tmp_path: Path
) -> None:
    adapter.delta("nuclei").data.fill_(1e6)
    loaded = load_adapter(save_adapter(adapter, tmp_path / "a.safetensors"), sam, clip)
    assert torch.equal(loaded.delta("nuclei"), adapter.delta("nuclei"))


def test_what_was_loaded_and_saved_again_is_the_same_file(
    path: Path, sam: Sam, clip: Clip, tmp_path: Path
) -> None:
    again = save_adapter(load_adapter(path, sam, clip), tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()


def test_a_loaded_adapter_shares_nothing_with_the_base(path: Path, clip: Clip) -> None:
    sam = tiny_sam()
    loaded = load_adapter(path, sam, clip)
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    path.unlink()
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[n]) for n, value in loaded.state_dict().items())


def test_a_refiner_of_its_own_is_in_the_file(
    adapter: Adapter, sam: Sam, clip: Clip, tmp_path: Path
) -> None:
    path = save_adapter(adapter.with_refiner(ConceptRefiner((8, 16))), tmp_path / "r.safetensors")
    loaded = load_adapter(path, sam, clip)
    assert loaded.config == adapter.config and loaded.config.refiner_widths == (8, 16)
    assert loaded.config.redrawn_concepts and loaded.concept_refiner is not None
    assert adapter.concept_refiner is not None
    stored = loaded.concept_refiner.state_dict()
    for name, value in adapter.concept_refiner.state_dict().items():
        assert torch.equal(stored[name], value.half().float()), name


@pytest.mark.parametrize("widths", [[12], [8, "x"], [8, 1 << 40], [0], "16"])
def test_a_refiner_of_impossible_widths_is_refused(
    path: Path, sam: Sam, clip: Clip, widths: Any
) -> None:
    rewrite(path, config={"refiner_widths": widths})
    with pytest.raises(AdapterError, match="refiner_widths"):
        load_adapter(path, sam, clip)


def test_a_trained_decoder_is_in_the_file(
    adapter: Adapter, sam: Sam, clip: Clip, tmp_path: Path
) -> None:
    with torch.no_grad():
        adapter.mask_decoder.iou_token.weight += 1
    loaded = load_adapter(save_adapter(adapter, tmp_path / "a.safetensors"), sam, clip)
    difference = loaded.mask_decoder.iou_token.weight - sam.mask_decoder.iou_token.weight
    torch.testing.assert_close(difference, torch.ones(1, 32), atol=2e-3, rtol=0)


# ---------------------------------------------------------------- writing


def test_an_existing_file_is_only_replaced_when_asked(path: Path, adapter: Adapter) -> None:
    before = path.read_bytes()
    adapter.with_info(threshold=0.5)
    with pytest.raises(OutputError, match="exists already"):
        save_adapter(adapter, path)
    assert path.read_bytes() == before
    save_adapter(adapter, path, overwrite=True)
    assert read_header(path).info.threshold == 0.5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/a.safetensors", r"missing does not exist"),
        ("a.pt", r"Let it end in \.safetensors"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(
    adapter: Adapter, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(OutputError, match=message):
        save_adapter(adapter, tmp_path / name)
    assert not list(tmp_path.iterdir())


def damaging(change: str) -> Any:
    def damaged(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
        tensors = {name: value.clone() for name, value in tensors.items()}
        if change == "a number":
            tensors["target_token.weight"][0, 0] += 1
        elif change == "a tensor":
            del tensors["target_token.weight"]
        elif change == "the header":
            metadata = {KEY: metadata[KEY].replace("nuclei", "muscle")}
        whole = save(tensors, metadata)
        return whole[:-20] if change == "the end" else whole

    return damaged


@pytest.mark.parametrize("change", ["a number", "a tensor", "the header", "the end"])
def test_what_does_not_read_back_is_not_kept(
    path: Path, adapter: Adapter, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(files, "save", damaging(change))
    with pytest.raises(OutputError, match="did not read back"):
        save_adapter(adapter, path, overwrite=True)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_others_may_read_the_file_as_any_other(path: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_training_that_diverged_is_not_saved(path: Path, adapter: Adapter, value: float) -> None:
    before = path.read_bytes()
    adapter.blocks[1].regular.fc1.weight.data[0, 0] = value
    with pytest.raises(AdapterError, match=r"blocks\.1\.regular\.fc1\.weight .* lower learning"):
        save_adapter(adapter, path, overwrite=True)
    assert path.read_bytes() == before


def test_facts_that_json_cannot_hold_are_refused(adapter: Adapter, tmp_path: Path) -> None:
    adapter.with_info(provenance={"folder": tmp_path})
    with pytest.raises(AdapterError, match="provenance or scores"):
        save_adapter(adapter, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- where it does not belong


def test_another_clip_is_refused_with_both_identities(path: Path, sam: Sam, clip: Clip) -> None:
    other = tiny_clip(seed=1)
    with pytest.raises(AdapterError, match="another CLIP") as caught:
        load_adapter(path, sam, other)
    assert clip.identity in str(caught.value) and other.identity in str(caught.value)


def test_another_base_is_refused_with_both_identities(path: Path, sam: Sam, clip: Clip) -> None:
    other = tiny_sam(seed=1)
    with pytest.raises(AdapterError, match="another base model") as caught:
        load_adapter(path, other, clip)
    assert sam.identity in str(caught.value) and other.identity in str(caught.value)


def test_a_newer_format_is_refused(path: Path, sam: Sam, clip: Clip) -> None:
    rewrite(path, format_version=files.FORMAT_VERSION + 1)
    with pytest.raises(AdapterError, match=r"format version 2; .* Update napari-clipsam"):
        load_adapter(path, sam, clip)


def test_settings_of_a_newer_version_are_left_out_and_named(
    path: Path, adapter: Adapter, sam: Sam, clip: Clip
) -> None:
    rewrite(path, config={"gate": 0.1}, info={"author": "someone"})
    assert read_header(path).unknown == ("gate", "author")
    with pytest.warns(UserWarning, match=r"newer version; its settings gate, author are left out"):
        loaded = load_adapter(path, sam, clip)
    assert loaded.config == adapter.config and loaded.info == adapter.info


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"kind": "prefix"}},
        {"config": {"n_conditioned": 4}},
        {"config": {"n_conditioned": "two"}},
        {"config": {"reduction": 8}},
        {"config": {"object_mode": False}},
        {"taught": []},
        {"taught": ["nuclei", " "]},
        {"format_version": "one"},
        {"info": None},
    ],
    ids=str,
)
def test_a_header_that_does_not_fit_is_an_adapter_error(
    path: Path, sam: Sam, clip: Clip, changes: dict[str, Any]
) -> None:
    rewrite(path, **changes)
    with pytest.raises(AdapterError, match=path.name):
        load_adapter(path, sam, clip)


@pytest.mark.parametrize(
    "info",
    [
        {"provenance": ["a"]},
        {"scores": "good"},
        {"words": "nuclei"},
        {"words": [1]},
        {"base_identity": 7},
        {"clip_identity": None},
        {"threshold": "low"},
    ],
    ids=str,
)
def test_facts_of_another_type_are_refused_with_the_header(
    path: Path, info: dict[str, Any]
) -> None:
    rewrite(path, info=info)
    with pytest.raises(AdapterError, match=r"header of .* cannot be read"):
        read_header(path)


# ---------------------------------------------------------------- files that are none


@pytest.mark.parametrize("keep", [0, 4, 8, 200, 0.5, 0.999])
def test_a_file_cut_off_is_refused(path: Path, sam: Sam, clip: Clip, keep: float) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw)) if isinstance(keep, float) else keep])
    for read in (read_header, lambda p: load_adapter(p, sam, clip)):
        with pytest.raises(AdapterError, match=r"damaged, cut off, or not an adapter"):
            read(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=r"not an adapter of napari-clipsam"):
        read_header(path)


def test_a_header_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata={KEY: "{"})
    with pytest.raises(AdapterError, match=r"header of .* cannot be read"):
        read_header(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="There is no adapter"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(AdapterError, match="damaged, cut off, or not an adapter"):
        read_header(tmp_path)
    torch.save({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match="damaged, cut off, or not an adapter"):
        read_header(tmp_path / "a.safetensors")
