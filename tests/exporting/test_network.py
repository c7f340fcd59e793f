"""The exported network: the Segmenter's masks, from a file that needs this package no more."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from napari_clipsam.exporting.network import ConceptNetwork, PlaneNetwork, file_of, script
from napari_clipsam.geometry import whole_plane
from napari_clipsam.inference.masks import full_logits
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.planes import Plane
from napari_clipsam.prompts import Prompts

SHAPES = [(64, 64), (48, 64), (128, 37), (32, 33), (127, 101)]
KINDS: dict[str, dict[str, object]] = {
    "as shipped": {"threshold": 0.0},
    "without presence": {"object_mode": False},
    "of the paper's code": {
        "init": "paper",
        "pad_before_norm": True,
        "squash": True,
        "normalisation": "token",
        "object_mode": False,
    },
    "without signals": {"semantics": False, "threshold": 0.0},
    "low-rank": {"kind": "lora", "threshold": 0.0},
    "with its own CLIP attention": {"clip_tuning": "attention", "threshold": 0.0},
    "with low-rank CLIP attention": {"clip_tuning": "lora", "threshold": 0.0},
    "with one point": {"n_points": 1, "map_threshold": 0.5, "threshold": 0.0},
}

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


def as_tensor(plane: Plane) -> Tensor:
    return torch.from_numpy(plane.rgb.transpose(2, 0, 1)[None].copy())


def exported(segmenter: Segmenter, word: str = "nuclei") -> object:
    return script(ConceptNetwork(segmenter.model, segmenter.adapter, word))


@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_the_segmenters_probability_for_every_kind_of_adapter(
    kind: str, make_segmenter, make_plane
) -> None:
    segmenter = make_segmenter(**KINDS[kind])
    module = exported(segmenter)
    marked = []
    for shape in SHAPES:
        plane = make_plane(shape, seed=sum(shape))
        segmenter.set_plane(plane)
        found = segmenter.predict(Prompts(text="nuclei"), "concept")
        probability = module(as_tensor(plane))
        assert probability.shape == (1, 1, *shape)
        np.testing.assert_array_equal(probability[0, 0] > 0.5, found.labels() > 0)
        marked.append((found.labels() > 0).mean())
        for one in found.objects:
            logits = full_logits(torch.from_numpy(one.logits)[None], one.frame)
            torch.testing.assert_close(probability[0], logits.sigmoid(), atol=1e-3, rtol=0)
    assert 0.02 < max(marked) < 0.98


def test_the_word_is_built_in(make_segmenter, make_plane) -> None:
    segmenter, plane = make_segmenter(threshold=0.0), make_plane()
    first, second = (exported(segmenter, word)(as_tensor(plane)) for word in ("nuclei", "a hat"))
    assert (first - second).abs().max() > 1e-3


def test_a_taught_word_is_exported_as_taught(make_segmenter, make_plane) -> None:
    segmenter, plane = make_segmenter(threshold=0.0), make_plane()
    plain = exported(segmenter, "hooves")(as_tensor(plane))
    with torch.no_grad():
        segmenter.adapter.teach("Hooves").copy_(torch.linspace(-3, 3, 16))
    segmenter.set_adapter(segmenter.adapter)
    segmenter.set_plane(plane)
    taught = exported(segmenter, "hooves")(as_tensor(plane))
    assert (taught - plain).abs().max() > 1e-3
    found = segmenter.predict(Prompts(text="hooves"), "concept").labels() > 0
    np.testing.assert_array_equal(taught[0, 0] > 0.5, found)


def test_where_the_word_is_absent_nothing_is_probable(make_segmenter, make_plane) -> None:
    segmenter, plane = make_segmenter(threshold=0.5), make_plane()
    segmenter.set_plane(plane)
    presence = segmenter.predict(Prompts(text="nuclei"), "concept").presence
    assert 0 < presence < 1
    for threshold, there in ((presence - 1e-3, True), (presence + 1e-3, False)):
        segmenter.adapter.with_info(threshold=threshold)
        assert bool(exported(segmenter)(as_tensor(plane)).any()) is there


def test_pixels_may_be_whole_or_real_numbers(make_segmenter, make_plane) -> None:
    module, image = exported(make_segmenter(threshold=0.0)), as_tensor(make_plane())
    assert torch.equal(module(image), module(image.float()))


@given(st.integers(1, 120), st.integers(1, 120), st.integers(1, 90), st.integers(0, 99))
def test_it_resizes_as_the_segmenter_does(height: int, width: int, size: int, seed: int) -> None:
    height = min(height, 2 * width - 1)
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame = whole_plane((height, width), size)
    image = torch.from_numpy(rgb.transpose(2, 0, 1)[None].astype(np.float32))
    resized = PlaneNetwork.resize(None, image, *frame.resized)  # type: ignore[arg-type]
    np.testing.assert_array_equal(resized[0].permute(1, 2, 0), frame.image(rgb))


def test_networks_that_were_exported_stay_as_they_were(make_segmenter, make_plane) -> None:
    segmenter, plane = make_segmenter(threshold=0.0), make_plane()
    segmenter.set_plane(plane)
    before = segmenter.predict(Prompts(text="nuclei"), "concept").objects[0].logits
    exported(segmenter)
    segmenter.set_plane(make_plane(seed=1))
    segmenter.set_plane(plane)
    after = segmenter.predict(Prompts(text="nuclei"), "concept").objects[0].logits
    np.testing.assert_array_equal(before, after)
    assert hasattr(segmenter.model.sam, "mask_decoder")


def test_the_file_needs_torch_alone_and_tells_no_paths(
    make_segmenter, make_plane, tmp_path: Path
) -> None:
    segmenter = make_segmenter(threshold=0.0)
    image = as_tensor(make_plane())
    expected = exported(segmenter)(image)
    data = file_of(ConceptNetwork(segmenter.model, segmenter.adapter, "nuclei"))
    (tmp_path / "network.pt").write_bytes(data)
    np.savez(tmp_path / "arrays.npz", image=image, expected=expected)
    code = (
        "import sys, numpy, torch\n"
        "for name in ('napari_clipsam', 'segment_anything', 'open_clip', 'torchvision'):\n"
        "    sys.modules[name] = None\n"
        "arrays = numpy.load('arrays.npz')\n"
        "found = torch.jit.load('network.pt')(torch.from_numpy(arrays['image']))\n"
        "assert abs(found.numpy() - arrays['expected']).max() < 1e-5\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr
    for name in zipfile.ZipFile(io.BytesIO(data)).namelist():
        assert not name.endswith(".debug_pkl")
        assert str(Path(__file__).parents[2]).encode() not in zipfile.ZipFile(
            io.BytesIO(data)
        ).read(name)


def test_nothing_is_bound_to_the_processor_it_was_exported_on(make_segmenter) -> None:
    """Apart from indices, which may lie on the CPU wherever the rest is."""
    graph = exported(make_segmenter(threshold=0.0)).inlined_graph
    for node in graph.findAllNodes("prim::Constant"):
        kind = node.output().type().kind()
        users = {use.user.kind() for use in node.output().uses()}
        if kind == "DeviceObjType":
            assert users <= {"aten::arange", "aten::to"}, users
        assert kind != "TensorType" or node.t("value").ndim == 0


def test_the_words_of_clip_are_left_out(make_segmenter) -> None:
    names = exported(make_segmenter()).state_dict()
    assert any("visual" in name for name in names)
    assert not any("token_embedding" in name or "text_projection" in name for name in names)
