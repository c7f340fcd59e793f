"""A word in a folder of images: files, what is skipped, and what cannot be read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from bright import BrightSegmenter, squares

from napari_clipsam.errors import OutputError, PlaneError
from napari_clipsam.inference.folder import FolderProgress, FolderTask, finished, segment_folder
from napari_clipsam.planes import read_labels


@pytest.fixture
def task(tmp_path: Path) -> FolderTask:
    """Two pictures, a stack of three slices and a damaged file."""
    image, _ = squares()
    images = tmp_path / "images"
    images.mkdir()
    tifffile.imwrite(images / "a.tif", image)
    (images / "b.tif").write_bytes(b"II*\0 and nothing else")
    tifffile.imwrite(images / "c.tif", np.stack([image] * 3), photometric="minisblack")
    tifffile.imwrite(images / "d.tif", image.T)
    paths = tuple(images / f"{name}.tif" for name in "abcd")
    return FolderTask(paths, tmp_path / "found", "nuclei", "instances")


def run(task: FolderTask, segmenter: BrightSegmenter | None = None) -> list[FolderProgress]:
    return list(segment_folder(segmenter or BrightSegmenter(), task))


def test_pictures_become_tiffs_and_stacks_ome_zarr(task: FolderTask) -> None:
    steps = run(task)
    found = {path.name: path for path in finished(task).values()}
    assert sorted(found) == ["a.tif", "c.ome.zarr", "d.tif"]
    _, labels = squares()
    assert np.array_equal(read_labels(found["a.tif"]).plane() > 0, labels > 0)
    assert np.array_equal(read_labels(found["d.tif"]).plane() > 0, labels.T > 0)
    stack = read_labels(found["c.ome.zarr"])
    assert stack.axes == "ZYX"
    assert np.array_equal(stack.plane(2), stack.plane(0)) and stack.plane(0).max() == 4
    assert [(one.plane, one.planes) for one in steps if one.image.name == "c.tif"] == [
        (1, 3),
        (2, 3),
        (3, 3),
        (3, 3),
    ]
    assert (steps[-1].done, steps[-1].total) == (4, 4)


def test_a_file_that_cannot_be_read_is_told_and_the_others_are_done(task: FolderTask) -> None:
    failed = [one for one in run(task) if one.error]
    assert [one.image.name for one in failed] == ["b.tif"]
    assert "cannot be read" in failed[0].error


def test_of_planes_of_different_shapes_none_is_left_out_in_silence(task: FolderTask) -> None:
    with tifffile.TiffWriter(task.images[2]) as file:
        for height in (60, 60, 50):
            file.write(np.zeros((height, 80), np.uint8), metadata=None)
    with tifffile.TiffWriter(task.images[3]) as file:  # a picture and its preview
        for height in (60, 20):
            file.write(squares()[0][:height], metadata=None)
    failed = {one.image.name: one.error for one in run(task) if one.error}
    assert "different shapes: 60 x 80 and 50 x 80" in failed["c.tif"]
    assert failed.keys() == {"b.tif", "c.tif"}


def test_what_is_finished_is_skipped(task: FolderTask) -> None:
    first = BrightSegmenter()
    steps = segment_folder(first, task)
    for step in steps:
        if step.image.name == "c.tif" and step.plane == 2:
            break
    steps.close()
    again = BrightSegmenter()
    run(task, again)
    assert len(first.planes) + len(again.planes) <= 5 + 1, "at most the plane at the cut is redone"
    assert len(finished(task)) == 3
    third = BrightSegmenter()
    assert len(run(task, third)) == 4 and not third.planes


def test_results_of_another_word_are_not_mixed(task: FolderTask) -> None:
    run(task)
    with pytest.raises(OutputError, match="another word, model or adapter"):
        run(replace(task, word="cells"))
    assert len(run(task)) == 4


def test_where_nothing_is_finished_another_word_may_follow(task: FolderTask) -> None:
    with closing(segment_folder(BrightSegmenter(), task)) as steps:
        assert next(steps).output is None
    assert not finished(task)
    other = replace(task, word="cells", images=task.images[2:3])
    assert [step.output for step in run(other) if step.output]


def test_foreign_files_are_never_taken_for_results(task: FolderTask) -> None:
    task.output.mkdir()
    tifffile.imwrite(task.output / "a.tif", np.zeros((4, 4), np.uint8))
    with pytest.raises(OutputError, match=r"a\.tif exists already"):
        run(task)
    assert tifffile.imread(task.output / "a.tif").shape == (4, 4)


def test_what_cannot_work_is_refused_before_anything_is_written(
    task: FolderTask, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="holds the images"):
        run(replace(task, output=task.images[0].parent))
    with pytest.raises(OutputError, match="does not exist"):
        run(replace(task, output=tmp_path / "no" / "found"))
    with pytest.raises(PlaneError, match="no images"):
        run(replace(task, images=()))
    with pytest.raises(PlaneError, match="same stem"):
        run(replace(task, images=(task.images[0], tmp_path / "a.png")))
    assert not task.output.exists()


def test_a_killed_run_goes_on(task: FolderTask, tmp_path: Path) -> None:
    tifffile.imwrite(task.images[2], np.stack([squares()[0]] * 12))
    script = tmp_path / "run.py"
    script.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from bright import BrightSegmenter\n"
        "from napari_clipsam.inference.folder import FolderTask, segment_folder\n"
        f"images = tuple(Path(p) for p in {[str(p) for p in task.images]!r})\n"
        f"task = FolderTask(images, Path({str(task.output)!r}), 'nuclei', 'instances')\n"
        "for step in segment_folder(BrightSegmenter(), task):\n"
        "    if step.image.stem == 'c' and step.plane == 10:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, script], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in finished(task).values()] == ["a.tif"]
    segmenter = BrightSegmenter()
    run(task, segmenter)
    assert len(finished(task)) == 3
    assert len(segmenter.planes) <= 1 + 6, "slices that were on disk are not done again"
