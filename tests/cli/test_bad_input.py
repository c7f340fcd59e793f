"""Input that cannot work: one line that says what to do, status 2, and no file left behind."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr
from bright import BrightSegmenter, Run, squares
from PIL import Image
from tiny import tiny_sam

from napari_clipsam import _machine
from napari_clipsam.errors import OutOfMemory
from napari_clipsam.models.weights import save_sam

WORD = ("--text", "nuclei")


def everything_in(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


class Refused:
    """Runs a command that has to be refused."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder = run, folder

    def __call__(self, *words: object, saying: str) -> None:
        before = everything_in(self.folder)
        done = self.run(*words)
        assert done.status == 2, (done.out, done.err)
        assert done.out == ""
        assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
        assert "Traceback" not in done.err
        assert saying in done.err
        assert everything_in(self.folder) == before


@pytest.fixture
def refused(run: Run, tmp_path: Path) -> Refused:
    return Refused(run, tmp_path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.tif"


# ---------------------------------------------------------------- words and options


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        (["segment"], "Missing argument 'IMAGE'"),
        (["segment", "a.tif"], "Missing option '-o'"),
        (["segment", "a.tif", "--pint", "1,2"], "No such option: --pint"),
        (["segment", "a.tif", "-o", "b.tif", "--target", "all"], "'all' is not one of"),
        (["segment", "a.tif", "-o", "b.tif", "--seed", "-1"], "--seed"),
        (["sgment"], "No such command 'sgment'"),
        (["models", "steal"], "No such command 'steal'"),
        (["evaluate", "a", "b", "--text", "x"], "Missing option '--prompts'"),
    ],
)
def test_a_command_that_is_not_one(refused: Refused, words: list[str], saying: str) -> None:
    refused(*words, saying=saying)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("options", "saying"),
    [
        ([], "nothing to go by"),
        (["--text", ""], "empty: give a word"),
        (["--text", "  "], "empty: give a word"),
        (["--text", "nuclei", "--text", "nuclei"], "not all different"),
        (["--point", "60,10"], "outside the image of 60 x 80"),
        (["--point", "-1,10"], "outside the image of 60 x 80"),
        (["--point", "10,80"], "y comes first"),
        (["--point", "10"], "should have 2 numbers"),
        (["--point", "a,b"], "not made of numbers"),
        (["--point", "nan,1"], "should have 2 numbers"),
        (["--point", "1,1,-"], "Give one on the object as well"),
        (["--box", "5,5,5,20"], "is empty"),
        (["--box", "5,20,15,10"], "is empty"),
        (["--box", "70,0,90,20"], "misses the image"),
        (["--box", "1,2,3"], "should have 4 numbers"),
        (["--box", "0,0,9,9", "--target", "concept", *WORD], "points at one object"),
        ([*WORD, "--target", "object"], "needs a --point or a --box"),
        ([*WORD, "--axes", "YXY"], "name Y twice"),
        ([*WORD, "--axes", "ZYX"], "name 3 dimensions"),
        ([*WORD, "--axes", "QX"], "unknown letter 'Q'"),
        ([*WORD, "--channels", "1"], "do not fit an image with 1 channel"),
        ([*WORD, "--channels", "red"], "not understood"),
        ([*WORD, "--channels", "0,0,0,0"], "not understood"),
        ([*WORD, "--plane", "Z=1"], "no axis 'Z'"),
        ([*WORD, "--plane", "C=1"], "not understood"),
        ([*WORD, "--plane", "12"], "Write it as Z=12"),
        (["--point", "1,5,5", "--point", "2,5,5"], "one plane is segmented at a time"),
        (["--point", "1,5,5", "--plane", "Z=2"], "one plane is segmented at a time"),
    ],
)
def test_options_that_cannot_work(
    refused: Refused, image: Path, out: Path, options: list[str], saying: str
) -> None:
    refused("segment", image, *options, "-o", out, saying=saying)


@pytest.mark.parametrize(
    ("options", "saying"),
    [
        (["--device", "gpu"], "There is no device 'gpu'"),
        (["--precision", "int8"], "'int8' is not one of"),
        (["--model", "vit_x"], "There is no model 'vit_x'. Did you mean"),
        (["--model", "vit_b"], "models import vit_b FILE"),
        (["--model", "nowhere.pth"], "There is no file nowhere.pth"),
        (["--adapter", "mine"], "There is no adapter 'mine'. Known are: none, starter"),
    ],
)
def test_models_that_are_not_there(
    refused: Refused,
    image: Path,
    out: Path,
    tiny_files: dict[str, Path],
    options: list[str],
    saying: str,
) -> None:
    refused(
        "segment", image, *WORD, "-o", out, "--clip", tiny_files["clip"], *options, saying=saying
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a CUDA device")
def test_a_device_that_is_not_there(refused: Refused, image: Path, out: Path) -> None:
    refused("segment", image, *WORD, "-o", out, "--device", "cuda", saying="Choose auto or cpu")


# ---------------------------------------------------------------- images


@pytest.mark.usefixtures("no_model")
def test_files_that_are_no_images(refused: Refused, tmp_path: Path, out: Path) -> None:
    garbage, empty, folder = tmp_path / "a.png", tmp_path / "b.tif", tmp_path / "folder"
    garbage.write_bytes(b"this is not a picture" * 20)
    empty.write_bytes(b"")
    folder.mkdir()
    refused("segment", tmp_path / "c.tif", *WORD, "-o", out, saying="c.tif does not exist")
    refused("segment", garbage, *WORD, "-o", out, saying="not an image of a known kind")
    refused("segment", empty, *WORD, "-o", out, saying="b.tif")
    refused("segment", folder, *WORD, "-o", tmp_path / "made", saying="has no images")


@pytest.mark.usefixtures("bright")
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_file_that_ends_too_early(
    refused: Refused, tmp_path: Path, out: Path, suffix: str
) -> None:
    path = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    if suffix == "png":
        Image.fromarray(noise).save(path)
    else:
        tifffile.imwrite(path, noise, compression="zlib")
    path.write_bytes(path.read_bytes()[:-900])
    refused("segment", path, *WORD, "-o", out, saying="cut.")


@pytest.mark.usefixtures("no_model")
def test_a_stack_needs_a_plane(refused: Refused, stack: Path, out: Path) -> None:
    refused("segment", stack, *WORD, "-o", out, saying="Z from 0 to 4, for example --plane Z=2")
    refused("segment", stack, *WORD, "--plane", "Z=5", "-o", out, saying="Z=5 does not exist")
    refused("segment", stack, *WORD, "--plane", "T=1", "-o", out, saying="no axis 'T'")
    refused("segment", stack, "--point", "7,1,1", "-o", out, saying="Z=7 does not exist")


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("shape", [(7,), (2, 3, 4, 8, 8), (8, 8, 5, 6)])
def test_dimensions_that_nothing_explains(
    refused: Refused, tmp_path: Path, out: Path, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "array.zarr"
    zarr.save(path, np.zeros(shape, np.uint8))
    refused("segment", path, *WORD, "-o", out, saying="--axes")


@pytest.mark.usefixtures("no_model")
def test_one_bad_image_stops_a_folder_before_it_starts(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", squares()[0])
    tifffile.imwrite(folder / "b.tif", squares()[0], compression="zlib")
    damaged = bytearray((folder / "b.tif").read_bytes())
    with tifffile.TiffFile(folder / "b.tif") as tif:
        start = tif.pages[0].dataoffsets[0]
    damaged[start : start + 20] = b"\xff" * 20
    (folder / "b.tif").write_bytes(damaged)
    refused("segment", folder, *WORD, "-o", tmp_path / "out", saying="b.tif is damaged or cut off")


def test_two_images_of_one_stem(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.tif", "a.tiff"):
        tifffile.imwrite(folder / name, squares()[0])
    refused("segment", folder, *WORD, "-o", tmp_path / "out", saying="have the same stem")


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (np.zeros((20, 30), np.uint8), WORD),
        (np.full((20, 30), np.nan, np.float32), WORD),
        (np.full((20, 30), 900, np.uint16), ("--point", "10,10")),
        (np.full((1, 1), 200, np.uint8), WORD),
        (np.zeros((20, 30, 3), np.uint8), (*WORD, "--target", "instances")),
    ],
)
def test_an_image_of_one_value_has_nothing_in_it(
    run: Run,
    tmp_path: Path,
    out: Path,
    tiny: list[object],
    pixels: np.ndarray,
    options: tuple[str, ...],
) -> None:
    path = tmp_path / "blank.tif"
    tifffile.imwrite(path, pixels)
    done = run("segment", path, *options, "-o", out, "--json", tmp_path / "r.json", *tiny)
    assert (done.status, done.err) == (0, "")
    assert tifffile.imread(out).shape == pixels.shape[:2] and not tifffile.imread(out).any()
    report = (tmp_path / "r.json").read_text()
    assert '"match": false' in report and "one single value" in report


@pytest.mark.usefixtures("no_model")
def test_a_plane_that_memory_cannot_hold_is_not_read(
    refused: Refused, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "huge.zarr"
    zarr.create_array(path, shape=(30_000, 30_000), chunks=(1000, 1000), dtype="uint16")
    monkeypatch.setattr(_machine, "memory", lambda: _machine.Memory(4_000_000_000, 4_000_000_000))
    refused("segment", path, "--point", "15000,15000", "-o", out, saying="7.2 GB of memory")


@pytest.mark.usefixtures("bright")
def test_a_wide_plane_is_segmented(run: Run, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "wide.zarr"
    array = zarr.create_array(path, shape=(3, 30_000), chunks=(3, 1000), dtype="uint8")
    array[1, 20_000:20_010] = 200
    assert run("segment", path, "--point", "1,20005", "-o", out).status == 0
    assert np.argwhere(tifffile.imread(out)).tolist() == [[1, x] for x in range(20_000, 20_010)]


# ---------------------------------------------------------------- outputs


@pytest.mark.usefixtures("no_model")
def test_outputs_that_cannot_be_written(refused: Refused, image: Path, tmp_path: Path) -> None:
    there, good = tmp_path / "there.tif", tmp_path / "good.tif"
    there.write_bytes(b"mine")
    for options, saying in (
        (["-o", there], "exists already. Choose another name, or give --overwrite"),
        (["-o", tmp_path / "no" / "out.tif"], "no does not exist. Make it"),
        (["-o", tmp_path / "out.png"], "not the name of a TIFF"),
        (["-o", there / "out.tif"], "does not exist. Make it"),
        (["-o", good, "--json", there], "exists already"),
        (["-o", good, "--json", tmp_path / "no" / "r.json"], "no does not exist. Make it"),
    ):
        refused("segment", image, *WORD, *options, saying=saying)


@pytest.mark.usefixtures("no_model")
def test_output_folders_that_cannot_be_used(refused: Refused, tmp_path: Path) -> None:
    folder, file, out = tmp_path / "in", tmp_path / "file", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    tifffile.imwrite(folder / "a.tif", squares()[0])
    (out / "a.tif").write_bytes(b"mine")
    file.write_bytes(b"mine")
    for options, saying in (
        (["-o", tmp_path / "no" / "such"], "no does not exist"),
        (["-o", file], "is a file, but a folder is needed"),
        (["-o", out], "a.tif exists already"),
        (["-o", folder, "--overwrite"], "is an image to be segmented"),
        (["-o", tmp_path / "new", "--json", file], "is a file, but a folder is needed"),
    ):
        refused("segment", folder, *WORD, *options, saying=saying)


@pytest.mark.usefixtures("no_model")
def test_a_folder_that_may_not_be_written_to(
    refused: Refused, image: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    refused("segment", image, *WORD, "-o", out, saying="may not be written to")
    refused("segment", image.parent, *WORD, "-o", out.parent / "new", saying="may not be written")


@pytest.mark.usefixtures("bright")
def test_what_was_written_is_taken_back_when_the_next_output_fails(
    refused: Refused, image: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, done = os.replace, []

    def full(source: Path, target: Path) -> None:
        if done:
            raise OSError(28, "No space left on device")
        replace(source, target)
        done.append(target)

    monkeypatch.setattr(os, "replace", full)
    refused("segment", image, *WORD, "--text", "cells", "-o", out, saying="No space left")
    assert len(done) == 1


# ---------------------------------------------------------------- weights


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_with_code_in_it_is_not_run(
    refused: Refused, image: Path, out: Path, tmp_path: Path, tiny: list[object]
) -> None:
    bomb, old, mark = tmp_path / "bomb.pth", tmp_path / "old.pth", tmp_path / "mark"
    torch.save({"model": Trap(mark)}, bomb)
    old.write_bytes(pickle.dumps({"model": Trap(mark)}))
    for path in (bomb, old):
        refused("segment", image, *WORD, "-o", out, *tiny, "--model", path, saying=path.name)
        refused("models", "import", "nice", path, saying=path.name)
        refused("segment", image, *WORD, "-o", out, *tiny, "--adapter", path, saying=path.name)
        refused("adapters", "convert", path, "-o", tmp_path / "a.safetensors", saying=path.name)
        refused("adapters", "show", path, saying=path.name)
    assert not mark.exists()


def test_weights_that_are_cut_off_or_of_another_make(
    refused: Refused,
    image: Path,
    out: Path,
    tmp_path: Path,
    tiny: list[object],
    tiny_files: dict[str, Path],
) -> None:
    cut, foreign, text = tmp_path / "cut.safetensors", tmp_path / "other.pth", tmp_path / "t.pth"
    cut.write_bytes(tiny_files["sam"].read_bytes()[:-1000])
    torch.save({"layer.weight": torch.zeros(3, 3)}, foreign)
    text.write_text("<html>404</html>")
    for path, saying in ((cut, "damaged or cut off"), (foreign, "other.pth"), (text, "not a weig")):
        refused("segment", image, *WORD, "-o", out, *tiny, "--model", path, saying=saying)
        refused("models", "import", "name", path, saying=saying)
    cut.write_bytes(tiny_files["adapter"].read_bytes()[:-100])
    refused("segment", image, *WORD, "-o", out, *tiny, "--adapter", cut, saying="damaged, cut off")
    refused(
        "segment",
        image,
        *WORD,
        "-o",
        out,
        *tiny,
        "--adapter",
        tiny_files["sam"],
        saying="not an adapter",
    )


def test_an_adapter_of_another_base(
    refused: Refused, image: Path, out: Path, tmp_path: Path, tiny_files: dict[str, Path]
) -> None:
    other = tmp_path / "other.safetensors"
    save_sam(tiny_sam(seed=1), other)
    refused(
        "segment",
        image,
        *WORD,
        "-o",
        out,
        "--model",
        other,
        "--clip",
        tiny_files["clip"],
        "--adapter",
        tiny_files["adapter"],
        saying="belongs to another base model",
    )


# ---------------------------------------------------------------- anything else


def test_what_nobody_foresaw_ends_in_one_line_and_a_file_with_the_details(
    run: Run, bright: BrightSegmenter, image: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("a bug\nof two lines")

    monkeypatch.setattr(bright, "predict", fail)
    done = run("segment", image, *WORD, "-o", out)
    assert done.status == 1
    assert done.err.count("\n") == 1 and "a bug of two lines" in done.err
    log = Path(done.err.split("The details are in ")[1].strip().rstrip("."))
    assert "ZeroDivisionError" in log.read_text() and "Traceback" in log.read_text()
    assert not out.exists()


def test_running_out_of_memory_is_no_fault_of_the_input(
    run: Run, bright: BrightSegmenter, image: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OutOfMemory("The cpu device ran out of memory. Choose a smaller model.")

    monkeypatch.setattr(bright, "predict", fail)
    done = run("segment", image, *WORD, "-o", out)
    assert done.status == 1 and "smaller model. The details are in" in done.err
    assert not out.exists()


def test_an_interrupt_is_not_an_error_report(
    run: Run, bright: BrightSegmenter, image: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bright, "predict", stop)
    done = run("segment", image, *WORD, "-o", out)
    assert (done.status, done.err) == (130, "error: Stopped.\n")
    assert not out.exists()
