"""Labels written to disk from the dock: a stack into a file, a folder of images, going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from bright import BrightSegmenter, squares
from napari.components import ViewerModel
from napari.layers import Labels

from napari_clipsam._plugin import stack_jobs
from napari_clipsam._plugin.controller import SegmentController
from napari_clipsam._plugin.engine import Engine, Loaded, Setup
from napari_clipsam._plugin.file_layers import LazyArray, show_image, show_labels
from napari_clipsam._plugin.keeper import Keeper
from napari_clipsam._plugin.runner import SyncRunner
from napari_clipsam._plugin.settings import Settings
from napari_clipsam._readers import open_source
from napari_clipsam.errors import OutputError
from napari_clipsam.inference.requests import Prediction, PredictRequest
from napari_clipsam.inference.volume_files import check_same_make, unfinished_folder
from napari_clipsam.planes import read_labels

DEPTH = 12


class Bright(BrightSegmenter):
    """Calls `on_plane` with how many planes it was asked about."""

    on_plane: Callable[[int], None] = staticmethod(lambda n: None)

    def similarity(self, plane: object, word: str) -> None:
        """It has none."""

    def answer(self, request: PredictRequest, *how: Any, **more: Any) -> Prediction:
        found = super().answer(request, *how, **more)
        self.on_plane(len(self.planes))
        return found


@dataclass
class BrightEngine(Engine):
    """Any setup is loaded at once."""

    def load(self, setup: Setup) -> Iterator[Loaded]:
        if setup != self._setup:
            self._setup, self._segmenter = setup, Bright()  # type: ignore[assignment]
            yield Loaded(setup, "CPU", ("nuclei",))

    def prepare(self, *_: object) -> Iterator[None]:
        yield None


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path / "home"))


def pixels() -> np.ndarray:
    image, _ = squares()
    return np.stack([np.roll(image, z % 3, axis=1) for z in range(DEPTH)])


def make(viewer: ViewerModel, folder: Path) -> SegmentController:
    runner = SyncRunner()
    preferred = Settings(folder=folder / "sessions")
    keeper = Keeper(viewer, folder / "sessions")
    engine = BrightEngine(runner.check)
    return SegmentController(viewer, runner, engine, keeper, lambda: preferred)


@pytest.fixture
def deep(tmp_path: Path) -> SegmentController:
    """A stack with units, and the word nuclei asked for every one."""
    viewer = ViewerModel()
    units, names = ("um", "um", "um"), ("z", "y", "x")
    viewer.add_image(
        pixels(),
        name="embryo",
        scale=(2, 0.5, 0.5),
        units=units,
        axis_labels=names,
        translate=(5, 1, 2),
    )
    return ready(make(viewer, tmp_path))


def ready(controller: SegmentController) -> SegmentController:
    controller.set_target("instances")
    controller.find("nuclei")
    segmenter(controller).planes.clear()
    return controller


def segmenter(controller: SegmentController) -> Bright:
    found = controller.engine._segmenter
    assert isinstance(found, Bright)
    return found


def hint(controller: SegmentController) -> str:
    return "" if controller.state.hint is None else controller.state.hint.text


def actions(controller: SegmentController) -> list[str]:
    assert controller.state.hint is not None
    return [action for action, _ in controller.state.hint.actions]


def stop_at(controller: SegmentController, number: int) -> None:
    """Press Stop while plane `number` is looked at."""

    def on_plane(n: int) -> None:
        if n == number:
            controller.stop()

    segmenter(controller).on_plane = on_plane  # type: ignore[method-assign]


def layer(controller: SegmentController) -> Labels:
    found = controller.viewer.layers["nuclei"]
    assert isinstance(found, Labels)
    return found


# ---------------------------------------------------------------- a stack into a file


def test_a_stack_becomes_a_file_and_a_layer_that_is_read_lazily(
    deep: SegmentController, tmp_path: Path
) -> None:
    path = tmp_path / "nuclei.ome.zarr"
    deep.set_z_range(2, 9)
    deep.segment_into(path)

    written = read_labels(path)
    assert written.shape == (8, 60, 80) and written.spacing_um == {"Z": 2, "Y": 0.5, "X": 0.5}
    assert np.array_equal(written.plane(0) > 0, pixels()[2] > 127)
    assert deep.state.answer.startswith("nuclei: 4 objects") and deep.state.busy is None
    shown = layer(deep)
    assert isinstance(shown.data, LazyArray) and shown.dtype == np.uint32
    assert not shown.editable
    assert np.array_equal(shown.data[3], written.plane(3))
    image = deep.viewer.layers["embryo"]
    assert np.allclose(shown.data_to_world((0, 7, 9)), image.data_to_world((2, 7, 9)))
    assert shown.units == image.units
    assert not deep.keeper.state.draft or deep.viewer.layers.selection.active is not shown


def test_the_file_holds_what_the_dock_shows_of_a_slice(tmp_path: Path) -> None:
    """Channels, brightness and a time that is held are those of the dock; dask is read lazily."""
    rng = np.random.default_rng(0)
    series = rng.integers(0, 4000, (2, 5, 3, 40, 50), dtype=np.uint16)
    viewer = ViewerModel()
    viewer.add_image(
        da.from_array(series, chunks=(1, 1, 1, 40, 50)),
        name="series",
        axis_labels=("t", "z", "c", "y", "x"),
    )
    controller = make(viewer, tmp_path)
    controller.set_channel("channel 1")
    viewer.dims.set_point(0, 1)
    ready(controller)
    controller.segment_into(tmp_path / "found.ome.zarr")

    seen = segmenter(controller).planes
    assert len(seen) == 5
    read = controller.focus.reader()
    for z, plane in enumerate(seen):
        assert plane.fingerprint == read((1, z, 0, None, None)).fingerprint
    shown = controller.viewer.layers["found"]
    assert shown.ndim == 5 and shown.data.shape == (1, 5, 1, 40, 50)
    assert tuple(np.round(shown.data_to_world((0,) * 5)))[:2] == (1, 0)


def test_large_planes_get_coarser_levels(tmp_path: Path) -> None:
    viewer = ViewerModel()
    image = np.zeros((2, 300, 600), np.uint8)
    image[:, 10:50, 20:60] = 200
    viewer.add_image(image, name="embryo")
    controller = ready(make(viewer, tmp_path))
    controller.segment_into(tmp_path / "nuclei.ome.zarr")
    shown = layer(controller)
    assert shown.multiscale and [level.shape for level in shown.data] == [
        (2, 300, 600),
        (2, 150, 300),
        (2, 75, 150),
    ]
    assert shown.data[1][1, 10, 15] == 1
    assert shown.get_value((1, 20, 30), world=True)


def test_a_stack_seen_from_the_side(deep: SegmentController, tmp_path: Path) -> None:
    deep.viewer.dims.order = (1, 0, 2)
    assert deep.state.z_extent == 60
    deep.set_z_range(5, 8)
    deep.segment_into(tmp_path / "side.ome.zarr")
    shown = deep.viewer.layers["side"]
    assert shown.data.shape == (DEPTH, 4, 80)
    assert np.array_equal(shown.data[:, 2] > 0, pixels()[:, 7] > 127)
    assert np.array_equal(np.asarray(shown.data) > 0, pixels()[:, 5:9] > 127)


def test_what_is_stopped_goes_on_and_ends_as_if_it_had_not_been(
    deep: SegmentController, tmp_path: Path
) -> None:
    path = tmp_path / "nuclei.ome.zarr"
    stop_at(deep, 8)
    deep.segment_into(path)
    assert not path.exists() and deep.state.busy is None
    assert hint(deep).startswith("'nuclei' in embryo was stopped at slice ")
    assert actions(deep) == ["go-on", "forget"]
    assert layer(deep).data[2].any(), "what is finished is shown"

    deep.act("go-on")
    assert len(segmenter(deep).planes) <= DEPTH + 2
    whole = tmp_path / "whole.ome.zarr"
    deep.segment_into(whole)
    assert np.array_equal(zarr.open(path)["0"][:], zarr.open(whole)["0"][:])
    assert np.array_equal(np.asarray(layer(deep).data), zarr.open(path)["0"][:])
    assert [one.name for one in deep.viewer.layers].count("nuclei") == 1


def test_a_new_napari_offers_to_go_on_where_the_image_is_open_again(
    deep: SegmentController, tmp_path: Path
) -> None:
    stop_at(deep, 8)
    deep.segment_into(tmp_path / "nuclei.ome.zarr")
    deep.close()
    deep.keeper.close()

    viewer = ViewerModel()
    viewer.add_image(np.zeros((4, 9, 9), np.uint8), name="other")
    later = make(viewer, tmp_path)
    assert "was stopped" not in hint(later)
    viewer.add_image(pixels(), name="embryo", scale=(2, 0.5, 0.5), units=("um", "um", "um"))
    later.set_image("embryo")
    assert hint(later).startswith("'nuclei' in embryo was stopped at slice ")
    later.act("go-on")
    assert len(segmenter(later).planes) < DEPTH
    assert (tmp_path / "nuclei.ome.zarr").is_dir() and layer(later).data[DEPTH - 1].any()
    assert make(viewer, tmp_path).state.hint is None


def test_another_model_is_changed_back_to_go_on(deep: SegmentController, tmp_path: Path) -> None:
    stop_at(deep, 8)
    deep.segment_into(tmp_path / "nuclei.ome.zarr")
    deep.set_adapter("none")
    deep.act("go-on") if deep.state.hint else deep.stack_file.go_on()
    assert deep.state.adapter == "default"
    assert (tmp_path / "nuclei.ome.zarr").is_dir()


def test_what_changed_meanwhile_is_told(deep: SegmentController, tmp_path: Path) -> None:
    path = tmp_path / "nuclei.ome.zarr"
    stop_at(deep, 8)
    deep.segment_into(path)
    segmenter(deep).model.sam.identity = "another light"
    deep.act("go-on")
    assert hint(deep) == (
        "nuclei.ome.zarr was begun with another model. Choose what it was begun with, or forget it "
        "and begin anew."
    )
    deep.act("forget")
    assert not unfinished_folder(path).exists() and "nuclei" not in deep.viewer.layers
    deep.segment_into(path)
    assert path.is_dir()


def test_another_image_of_the_same_name_and_shape_is_told(
    deep: SegmentController, tmp_path: Path
) -> None:
    stop_at(deep, 8)
    deep.segment_into(tmp_path / "nuclei.ome.zarr")
    image = deep.viewer.layers["embryo"]
    image.data = np.flip(image.data, axis=1)
    deep.act("go-on")
    assert hint(deep).startswith("nuclei.ome.zarr was begun with another image.")


def test_other_limits_are_told_as_such(tmp_path: Path) -> None:
    made_of = {"pixels": ["a"], "normalisation": "(1, 2)", "word": "nuclei"}
    path = tmp_path / "nuclei.ome.zarr"
    unfinished_folder(path).mkdir()
    state = {"done": 3, "made_of": made_of}
    (unfinished_folder(path) / "state.json").write_text(json.dumps(state))
    other = {"pixels": ["b"], "normalisation": "(1, 3)", "word": "nuclei"}
    with pytest.raises(OutputError, match=r"begun with another brightness\."):
        check_same_make(path, other)


def test_an_adapter_or_a_folder_that_is_gone_is_told(
    deep: SegmentController, tmp_path: Path
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    stop_at(deep, 8)
    deep.segment_into(place / "nuclei.ome.zarr")
    deep.update(adapters=deep.state.adapters[1:])
    deep.act("go-on")
    assert "The adapter default is gone" in hint(deep)
    place.rename(tmp_path / "elsewhere")
    deep.update(hint=None)
    deep.set_image("embryo")
    assert deep.stack_file.offer()
    assert "is not where it was" in hint(deep) and actions(deep) == ["forget"]
    deep.act("forget")
    assert not deep.stack_file.offer()


def test_another_run_at_the_same_place_is_offered_first(
    deep: SegmentController, tmp_path: Path
) -> None:
    stop_at(deep, 8)
    deep.segment_into(tmp_path / "found.ome.zarr")
    deep.find("cells")
    deep.segment_into(tmp_path / "found.ome.zarr")
    assert hint(deep).startswith("'nuclei' in embryo was stopped")


def test_what_cannot_work_is_refused_before_it_begins(
    deep: SegmentController, tmp_path: Path
) -> None:
    (tmp_path / "there.ome.zarr").mkdir()
    deep.segment_into(tmp_path / "there.ome.zarr")
    assert "exists already. Choose another name." in hint(deep)
    deep.segment_into(tmp_path / "no" / "found.ome.zarr")
    assert "does not exist" in hint(deep)
    deep.set_target("object")
    deep.segment_into(tmp_path / "found.ome.zarr")
    assert actions(deep) == ["target-instances"]
    assert not segmenter(deep).planes and deep.state.busy is None


def test_one_long_job_at_a_time(deep: SegmentController, tmp_path: Path) -> None:
    def on_plane(n: int) -> None:
        if n == 3:
            deep.segment_into(tmp_path / "second.ome.zarr")
            assert "being written" in hint(deep)
            deep.segment_stack()
            assert "being written" in hint(deep)

    segmenter(deep).on_plane = on_plane  # type: ignore[method-assign]
    deep.segment_into(tmp_path / "first.ome.zarr")
    assert (tmp_path / "first.ome.zarr").is_dir() and not (tmp_path / "second.ome.zarr").exists()


def test_a_stack_too_large_for_a_preview_is_offered_a_file(
    deep: SegmentController, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_clipsam._machine import Memory

    monkeypatch.setattr(stack_jobs, "memory", lambda: Memory(10**9, 100_000))
    deep.segment_stack()
    assert "may take 115 kB of memory; 100 kB are free" in hint(deep)
    assert actions(deep) == ["into-file"] and not segmenter(deep).planes
    deep.act("into-file")
    assert deep.state.file_wanted == 1
    deep.set_z_range(0, 5)
    deep.segment_stack()
    assert len(segmenter(deep).planes) == 6


def test_a_killed_napari_loses_its_last_slices_only(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from napari.components import ViewerModel\n"
        "from plugin.test_file_jobs import make, pixels, ready, segmenter\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "viewer = ViewerModel()\n"
        "viewer.add_image(pixels(), name='embryo')\n"
        "controller = ready(make(viewer, folder))\n"
        "def on_plane(n):\n"
        "    if n == 10:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "segmenter(controller).on_plane = on_plane\n"
        "controller.segment_into(folder / 'nuclei.ome.zarr')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, script], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL

    viewer = ViewerModel()
    viewer.add_image(pixels(), name="embryo")
    later = make(viewer, tmp_path)
    if "restore" in actions(later):
        later.act("discard")
    assert hint(later).startswith("'nuclei' in embryo was stopped at slice ")
    later.act("go-on")
    assert 0 < len(segmenter(later).planes) <= 6
    found = zarr.open(tmp_path / "nuclei.ome.zarr")["0"][:]
    assert np.array_equal(found > 0, pixels() > 127)


# ---------------------------------------------------------------- a folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", squares()[0])
    (folder / "b.tif").write_bytes(b"II*\0 and nothing else")
    tifffile.imwrite(folder / "c.tif", pixels(), photometric="minisblack")
    return folder


def test_a_folder_is_done_and_its_results_are_opened(
    deep: SegmentController, images: Path, tmp_path: Path
) -> None:
    deep.segment_folder([images], tmp_path / "found")
    assert "1 image could not be read: b.tif." in hint(deep)
    assert deep.state.hint is not None and "cannot be read" in deep.state.hint.details
    assert deep.state.answer.startswith("nuclei in 2 images")
    deep.act("open-results")
    assert np.array_equal(deep.viewer.layers["a"].data[...] > 0, squares()[1] > 0)
    assert np.array_equal(deep.viewer.layers["c"].data[4] > 0, pixels()[4] > 127)


def test_results_are_opened_over_their_images(
    deep: SegmentController, images: Path, tmp_path: Path
) -> None:
    moved = {"scale": (3, 3), "translate": (7, 9), "metadata": {"clipsam_file": images / "a.tif"}}
    deep.viewer.add_image(squares()[0], name="mine", **moved)
    deep.segment_folder([images], tmp_path / "found")
    former = list(deep.viewer.layers)
    deep.act("open-results")
    layers = deep.viewer.layers
    # Beside an image that is open already there is no second one.
    assert [one.name for one in layers if one not in former] == ["a", "c.tif", "c"]
    assert np.array_equal(layers["a"].scale, (3, 3))
    assert np.array_equal(layers["a"].translate, (7, 9))
    assert isinstance(layers["c.tif"].data, LazyArray)
    assert np.array_equal(layers["c.tif"].data[4], pixels()[4])
    assert [layers[name].visible for name in ("a", "c.tif", "c")] == [True, False, False]
    assert layers.selection.active is layers["a"]


def test_results_are_opened_without_an_image_that_is_gone(
    deep: SegmentController, images: Path, tmp_path: Path
) -> None:
    deep.segment_folder([images], tmp_path / "found")
    (images / "a.tif").unlink()
    deep.act("open-results")
    assert "a.tif does not exist" in hint(deep)
    assert {"a", "c.tif", "c"} <= {one.name for one in deep.viewer.layers}


def test_a_stopped_folder_goes_on(deep: SegmentController, images: Path, tmp_path: Path) -> None:
    stop_at(deep, 9)
    deep.segment_folder([images / "a.tif", images / "c.tif"], tmp_path / "found")
    assert hint(deep) == "'nuclei' in 2 images was stopped after 1 (found)."
    deep.close()
    later = make(deep.viewer, tmp_path)
    assert actions(later) == ["go-on-folder", "forget-folder"]
    later.act("go-on-folder")
    assert len(segmenter(later).planes) < DEPTH
    assert sorted(path.name for path in (tmp_path / "found").glob("[a-z]*")) == [
        "a.tif",
        "c.ome.zarr",
    ]


def test_a_folder_without_images_is_told(deep: SegmentController, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    deep.segment_folder([tmp_path / "empty"], tmp_path / "found")
    assert "has no images" in hint(deep) and deep.state.busy is None


# ---------------------------------------------------------------- layers of files


def test_lazy_arrays_answer_as_arrays_do() -> None:
    data = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    lazy = LazyArray(open_source(data), axes=(2, 0, 3), ndim=4)
    same = data.transpose(1, 0, 2)[:, None]
    assert lazy.shape == same.shape and lazy.size == same.size
    for index in (
        np.s_[...],
        np.s_[1],
        np.s_[1, 0, 1, 2],
        np.s_[:, 0, 1],
        np.s_[0:2, :, 1, 1:3],
        np.s_[..., -1],
        np.s_[::2, 0, ..., 3],
    ):
        assert np.array_equal(lazy[index], same[index]), index


def test_channels_and_colours_of_a_file_are_shown_and_its_labels_lie_over_them(
    tmp_path: Path,
) -> None:
    viewer = ViewerModel()
    voxels = np.arange(3 * 2 * 40 * 50, dtype=np.uint16).reshape(3, 2, 40, 50)
    options = {"axes": "ZCYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
    tifffile.imwrite(tmp_path / "a.ome.tif", voxels.astype(">u2"), ome=True, metadata=options)
    image = show_image(viewer, tmp_path / "a.ome.tif")
    assert np.array_equal(image.data[...], voxels.swapaxes(0, 1)) and image.dtype.isnative
    assert image.axis_labels == ("c", "z", "y", "x") and tuple(image.scale) == (1, 2, 0.5, 0.5)
    ones = np.ones((3, 40, 50), np.uint8)
    tifffile.imwrite(tmp_path / "labels.tif", ones, photometric="minisblack")
    labels = show_labels(viewer, tmp_path / "labels.tif", image)
    assert tuple(labels.scale) == (2, 0.5, 0.5)
    assert show_image(viewer, tmp_path / "a.ome.tif") is image
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((40, 50, 4), np.uint8), photometric="rgb")
    assert show_image(viewer, tmp_path / "b.tif").rgb


def test_a_pyramid_is_shown_level_by_level(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="w")
    full = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    for level in range(2):
        group.create_array(str(level), data=full[:: 1 << level, :: 1 << level])
    scales = [{"path": str(level)} for level in range(2)]
    axes = [{"name": name, "type": "space"} for name in "yx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": scales}]}
    image = show_image(ViewerModel(), tmp_path / "a.ome.zarr")
    assert image.multiscale and [level.shape for level in image.data] == [(64, 64), (32, 32)]
