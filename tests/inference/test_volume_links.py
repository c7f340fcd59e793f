"""Objects through planes that come one by one, in several runs, or in blocks linked elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_clipsam.inference.stacks import LinkSettings
from napari_clipsam.inference.volume import VolumeTask
from napari_clipsam.inference.volume_files import VolumeFile
from napari_clipsam.inference.volume_links import LabelLinker
from napari_clipsam.planes import open_image, read_labels

DEPTH = 12


def coming_and_going(seed: int) -> NDArray[np.uint16]:
    """Blobs that drift, come and go, numbered anew in each plane."""
    rng = np.random.default_rng(seed)
    places = rng.integers(0, 16, (6, 2))
    planes = np.zeros((DEPTH, 20, 20), np.uint16)
    for plane in planes:
        places = (places + rng.integers(-2, 3, places.shape)).clip(0, 16)
        shown = rng.permutation(6)[: rng.integers(0, 7)]
        for number, (y, x) in enumerate(places[shown], start=1):
            plane[y : y + 4, x : x + 4] = number
    return planes


def task_of(planes: NDArray[np.uint16], gap: int, movie: bool = False) -> VolumeTask:
    """Its planes are slices, or the slices of two time points."""
    shape = (2, DEPTH // 2, 20, 20) if movie else planes.shape
    stack = open_image(planes.reshape(shape), axes="TZYX"[-len(shape) :])
    return VolumeTask(stack, ("blobs",), "instances", LinkSettings(max_gap=gap))


def one_by_one(task: VolumeTask, planes: Sequence[NDArray]) -> tuple[list[NDArray], list[int]]:
    """Ids, and the objects so far."""
    linker, found, counts = LabelLinker(task), [], []
    for index, plane in zip(task.indices, planes, strict=True):
        found.append(linker.link(index, plane))
        counts.append(linker.count)
    return found, counts


def in_blocks(
    task: VolumeTask, planes: Sequence[NDArray], borders: Sequence[int]
) -> Iterator[tuple[NDArray, bool]]:
    """The planes as workers give them: each block is linked by itself."""
    for first, last in pairwise(borders):
        linker = LabelLinker(task)
        for number in range(first, last):
            yield linker.link(task.indices[number], planes[number]), number > first


cuts = st.lists(st.integers(1, DEPTH - 1), max_size=6, unique=True).map(
    lambda inner: [0, *sorted(inner), DEPTH]
)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 16), cuts, st.integers(0, 3), st.booleans())
def test_blocks_linked_elsewhere_are_joined_as_if_linked_in_one_run(
    seed: int, borders: list[int], gap: int, movie: bool
) -> None:
    planes = coming_and_going(seed)
    task = task_of(planes, gap, movie)
    expected, counts = one_by_one(task, planes)
    linker = LabelLinker(task)
    blocks = in_blocks(task, planes, borders)
    for number, (plane, goes_on) in enumerate(blocks):
        joined = linker.link(task.indices[number], plane, goes_on)
        np.testing.assert_array_equal(joined, expected[number])
        assert linker.count == counts[number]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1 << 16), st.integers(0, DEPTH), cuts, st.integers(0, 2))
def test_linking_may_be_cut_anywhere(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cut: int, borders: list[int], gap: int
) -> None:
    """One run that stops, and another that goes on with blocks, wherever their borders are."""
    planes = coming_and_going(seed)
    task = task_of(planes, gap)
    expected, _ = one_by_one(task, planes)
    path = tmp_path_factory.mktemp("volume") / "a.zarr"
    file = VolumeFile(path, task.layout, {}, overwrite=False)
    linker = LabelLinker(task, file)
    for number in range(cut):
        file.write(linker.link(task.indices[number], planes[number]), linker.count)
    file.close()
    file = VolumeFile(path, task.layout, {}, overwrite=False)
    linker = LabelLinker(task, file)
    for number, (plane, goes_on) in enumerate(in_blocks(task, planes, borders)):
        if number >= cut:
            linked = linker.link(task.indices[number], plane, goes_on)
            file.write(linked, linker.count)
    file.finish()
    stack = read_labels(path)
    for index, plane in zip(stack.planes(), expected, strict=True):
        np.testing.assert_array_equal(stack.plane(index), plane)


def test_ids_do_not_depend_on_how_planes_are_numbered() -> None:
    planes = coming_and_going(1)
    turned = [np.where(plane > 0, 7 - plane, 0).astype(np.uint16) for plane in planes]
    task = task_of(planes, gap=1)
    for one, other in zip(one_by_one(task, planes)[0], one_by_one(task, turned)[0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_example_has_objects_that_go_on_pause_and_end() -> None:
    counts = [
        one_by_one(task_of(coming_and_going(1), gap), coming_and_going(1))[1] for gap in (0, 3)
    ]
    assert 6 <= counts[1][-1] < counts[0][-1] < coming_and_going(1).max(axis=(1, 2)).sum()
