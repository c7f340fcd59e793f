"""``segment``: what is asked for arrives at the model, and what it says is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tifffile
from bright import BrightSegmenter, Run, squares
from numpy.testing import assert_array_equal

from napari_clipsam.planes import open_image

IMAGE, LABELS = squares()
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from napari_clipsam.cli import main; sys.exit(main())",
]


def command(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=800,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


# ---------------------------------------------------------------- as a process


def test_help_is_quick_and_loads_no_network() -> None:
    code = (
        "import sys, time; start = time.process_time()\n"
        "from napari_clipsam.cli import main\n"
        "assert main(['segment', '--help']) == 0\n"
        "assert not {'torch', 'numpy', 'napari', 'rich'} & set(sys.modules)\n"
        "print(time.process_time() - start)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        for _ in range(2)
    ]
    assert min(float(done.stdout.splitlines()[-1]) for done in runs) < 1
    assert "--point [Z,]Y,X[,-]" in runs[0].stdout


def test_a_real_run_with_a_real_network(
    image: Path, tmp_path: Path, tiny: list[object], tiny_files: dict[str, Path]
) -> None:
    out, report = tmp_path / "out.tif", tmp_path / "out.json"
    done = command(
        "segment",
        image,
        "--text",
        "nuclei",
        "-o",
        out,
        "--json",
        report,
        *tiny,
        "--adapter",
        tiny_files["adapter"],
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert str(out) in done.stdout
    mask = tifffile.imread(out)
    assert mask.dtype == np.uint8 and mask.shape == (60, 80)
    found = json.loads(report.read_text())
    made_with = (found["model"], found["adapter"], found["clip"])
    assert made_with == ("sam.safetensors", "adapter", "clip.safetensors")
    assert found["threshold"] == 0.25 and 0 <= found["presence"] <= 1
    assert found["match"] == bool(found["presence"] >= 0.25 and mask.any())
    assert set(found["seconds"]) == {"trunk", "signals", "head", "decode"}
    assert all(seconds > 0 for seconds in found["seconds"].values()) or not found["match"]
    assert found["n_pixels"] == np.count_nonzero(mask)


def test_precision_reaches_the_network(
    run: Run, image: Path, tmp_path: Path, tiny: list[object]
) -> None:
    report, quality = tmp_path / "out.json", {}
    for name in ("auto", "fp32", "bf16"):
        words = ("--point", "20,20", "-o", tmp_path / "out.tif", "--json", report, "--overwrite")
        assert run("segment", image, *words, *tiny, "--precision", name).status == 0
        quality[name] = json.loads(report.read_text())["scores"]

    assert quality["auto"] == quality["fp32"] != quality["bf16"]
    assert quality["bf16"] == pytest.approx(quality["fp32"], abs=0.01)


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").out == f"napari-clipsam {version('napari-clipsam')}\n"


def test_a_real_refusal_is_one_line_and_status_2(tmp_path: Path) -> None:
    done = command("segment", tmp_path / "no.tif", "--text", "nuclei", "-o", tmp_path / "out.tif")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "no.tif does not exist. Check the path." in done.stderr
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- targets


def test_a_word_alone_is_the_concept(
    run: Run, bright: BrightSegmenter, image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.tif"
    assert run("segment", image, "--text", " nuclei ", "-o", out).status == 0
    mask = tifffile.imread(out)
    assert mask.dtype == np.uint8
    assert_array_equal(mask, LABELS > 0)
    ((prompts, target),) = bright.asked
    assert (prompts.text, target) == ("nuclei", "concept")


def test_instances_are_numbered(
    run: Run, bright: BrightSegmenter, image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.tif"
    done = run("segment", image, "--text", "nuclei", "--target", "instances", "-o", out)
    found = tifffile.imread(out)
    assert found.dtype == np.uint16
    assert sorted(np.unique(found)) == [0, 1, 2, 3, 4]
    assert_array_equal(found > 0, LABELS > 0)
    assert "4 objects" in done.out


@pytest.mark.parametrize(("click", "number"), [("10,45", 2), ("9.6,44.4", 2), ("40,12", 3)])
def test_a_click_gives_the_object_under_it_row_first(
    run: Run, bright: BrightSegmenter, image: Path, tmp_path: Path, click: str, number: int
) -> None:
    out = tmp_path / "out.tif"
    assert run("segment", image, "--point", click, "-o", out).status == 0
    assert tifffile.imread(out).dtype == np.uint8
    assert_array_equal(tifffile.imread(out), number == LABELS)


def test_negative_clicks_word_and_boxes_arrive(
    run: Run, bright: BrightSegmenter, image: Path, tmp_path: Path
) -> None:
    options = ["--point", "10,45", "--point", "1,2,-", "--box", "4,39,20,60", "--text", "cells"]
    assert run("segment", image, *options, "-o", tmp_path / "out.tif").status == 0
    ((prompts, target),) = bright.asked
    assert (prompts.text, target) == ("cells", "object")
    assert_array_equal(prompts.points, [(10, 45), (1, 2)])
    assert_array_equal(prompts.labels, [1, 0])
    assert_array_equal(prompts.boxes, [(4, 39, 20, 60)])


def test_several_boxes_are_joined_in_one_mask(
    run: Run, bright: BrightSegmenter, image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.tif"
    run("segment", image, "--box", "0,0,20,20", "--box", "25,55,60,80", "-o", out)
    assert_array_equal(tifffile.imread(out), (LABELS == 1) | (LABELS == 4))


def test_no_match_is_a_result(
    run: Run, bright: BrightSegmenter, image: Path, tmp_path: Path
) -> None:
    out, report = tmp_path / "out.tif", tmp_path / "out.json"
    done = run("segment", image, "--text", "mitochondria", "-o", out, "--json", report)
    assert (done.status, done.err) == (0, "")
    assert "no match (presence 0.10" in done.out
    assert not tifffile.imread(out).any()
    found = json.loads(report.read_text())
    assert found["match"] is False and found["presence"] == 0.1 and found["n_objects"] == 0


def test_the_report_holds_what_was_done(
    run: Run, bright: BrightSegmenter, image: Path, tmp_path: Path
) -> None:
    report = tmp_path / "out.json"
    options = ["--text", "nuclei", "--target", "instances", "--json", report]
    run("segment", image, *options, "-o", tmp_path / "out.tif")
    found = json.loads(report.read_text())
    assert found["seconds"] == {"trunk": 0.1, "signals": 0.2, "head": 0.3, "decode": 0.4}
    expected = {
        "model": "bright",
        "adapter": "lamp",
        "clip": "torch",
        "device": "cpu",
        "text": "nuclei",
        "target": "instances",
        "match": True,
        "presence": 0.9,
        "threshold": 0.5,
        "scores": [0.75] * 4,
        "n_objects": 4,
        "plane": {},
        "shape": [60, 80],
    }
    assert {name: found[name] for name in expected} == expected


# ---------------------------------------------------------------- planes


@pytest.mark.parametrize(
    "options",
    [
        ["--plane", "Z=2", "--point", "10,45"],
        ["--point", "2,10,45"],
        ["--point", "2,10,45", "--plane", "z=2", "--box", "2,0,35,20,60"],
    ],
)
def test_a_plane_is_chosen_by_name_or_by_the_z_of_prompts(
    run: Run, bright: BrightSegmenter, stack: Path, tmp_path: Path, options: list[str]
) -> None:
    out, report = tmp_path / "out.tif", tmp_path / "out.json"
    done = run("segment", stack, *options, "-o", out, "--json", report)
    assert done.status == 0, done.err
    assert bright.planes[0].index == {"Z": 2}
    assert_array_equal(tifffile.imread(out), LABELS == 2)
    assert json.loads(report.read_text())["plane"] == {"Z": 2}


def test_axes_and_channels_are_as_told(run: Run, bright: BrightSegmenter, tmp_path: Path) -> None:
    data = np.zeros((3, 5, 60, 80), np.uint8)
    data[1, 4] = IMAGE
    path, out = tmp_path / "czyx.tif", tmp_path / "out.tif"
    tifffile.imwrite(path, data, photometric="minisblack")
    done = run(
        "segment",
        path,
        "--axes",
        "czyx",
        "--channels",
        "1",
        "--plane",
        "Z=4",
        "--text",
        "nuclei",
        "-o",
        out,
    )
    assert done.status == 0, done.err
    assert_array_equal(bright.planes[0].rgb, np.repeat(IMAGE[..., None], 3, axis=2))
    assert_array_equal(tifffile.imread(out), LABELS > 0)


def test_the_pixel_size_goes_over_to_the_output(
    run: Run, bright: BrightSegmenter, tmp_path: Path
) -> None:
    path, out = tmp_path / "sized.tif", tmp_path / "out.tif"
    tifffile.imwrite(path, IMAGE, imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    run("segment", path, "--text", "nuclei", "-o", out)
    assert open_image(out).spacing_um == pytest.approx({"Y": 0.25, "X": 0.25})


# ---------------------------------------------------------------- several outputs


def test_several_words_give_an_output_each(
    run: Run, bright: BrightSegmenter, image: Path, tmp_path: Path
) -> None:
    done = run(
        "segment",
        image,
        "--text",
        "nuclei",
        "--text",
        "white blood cells",
        "--text",
        "mitochondria",
        "-o",
        tmp_path / "out.tif",
        "--json",
        tmp_path / "r.json",
    )
    assert done.status == 0, done.err
    names = ["nuclei", "white_blood_cells", "mitochondria"]
    filled = [tifffile.imread(tmp_path / f"out_{name}.tif").any() for name in names]
    assert filled == [True, True, False]
    texts = [json.loads((tmp_path / f"r_{name}.json").read_text())["text"] for name in names]
    assert texts == ["nuclei", "white blood cells", "mitochondria"]
    assert len(bright.planes) == 1
    assert not (tmp_path / "out.tif").exists()


def test_a_folder_gives_one_output_for_each_image(
    run: Run, bright: BrightSegmenter, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", IMAGE)
    tifffile.imwrite(folder / "b.ome.tif", IMAGE[:, ::-1])
    (folder / "notes.txt").write_text("not an image")
    done = run("segment", folder, "--text", "nuclei", "-o", out, "--json", tmp_path / "reports")
    assert done.status == 0, done.err
    assert sorted(path.name for path in out.iterdir()) == ["a.tif", "b.tif"]
    assert_array_equal(tifffile.imread(out / "b.tif"), (LABELS > 0)[:, ::-1])
    assert sorted(p.name for p in (tmp_path / "reports").iterdir()) == ["a.json", "b.json"]


def test_words_and_images_multiply(run: Run, bright: BrightSegmenter, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    for name in ("a", "b"):
        tifffile.imwrite(folder / f"{name}.tif", IMAGE)
    run("segment", folder, "--text", "nuclei", "--text", "cells", "-o", out, "--json", out)
    stems = {"a_nuclei", "a_cells", "b_nuclei", "b_cells"}
    assert {path.name for path in out.iterdir()} == {
        f"{s}.{e}" for s in stems for e in ("tif", "json")
    }


def test_an_image_may_go_into_a_folder_that_is_there(
    run: Run, bright: BrightSegmenter, image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert run("segment", image, "--text", "nuclei", "-o", out).status == 0
    assert [path.name for path in out.iterdir()] == ["cells.tif"]


# ---------------------------------------------------------------- files that are there


def test_an_output_is_replaced_only_when_asked(
    run: Run, bright: BrightSegmenter, image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.tif"
    out.write_bytes(b"mine")
    refused = run("segment", image, "--text", "nuclei", "-o", out)
    assert refused.status == 2 and "--overwrite" in refused.err
    assert out.read_bytes() == b"mine"
    assert run("segment", image, "--text", "nuclei", "-o", out, "--overwrite").status == 0
    assert_array_equal(tifffile.imread(out), LABELS > 0)


@pytest.mark.parametrize("clash", ["output", "json"])
def test_an_image_is_never_replaced_by_a_result(
    run: Run, no_model: None, image: Path, tmp_path: Path, clash: str
) -> None:
    before = image.read_bytes()
    paths = {"output": tmp_path / "out.tif", "json": tmp_path / "out.json", clash: image}
    done = run(
        "segment",
        image,
        "--text",
        "nuclei",
        "-o",
        paths["output"],
        "--json",
        paths["json"],
        "--overwrite",
    )
    assert done.status == 2 and "is an image to be segmented" in done.err
    assert image.read_bytes() == before


def test_one_name_for_two_results_is_refused(
    run: Run, no_model: None, image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.tif"
    done = run("segment", image, "--text", "nuclei", "-o", out, "--json", out)
    assert done.status == 2 and "written twice" in done.err
    done = run("segment", image, "--text", "a b", "--text", "a_b", "-o", out)
    assert done.status == 2 and "not all different" in done.err


# ---------------------------------------------------------------- the same again


def test_the_same_seed_gives_the_same_file(
    run: Run, image: Path, tmp_path: Path, tiny: list[object], tiny_files: dict[str, Path]
) -> None:
    files = []
    for name, seed in (("a", 3), ("b", 3)):
        out = tmp_path / f"{name}.tif"
        done = run("segment", image, "--text", "nuclei", "-o", out, "--seed", seed, *tiny)
        assert done.status == 0, done.err
        files.append(out.read_bytes())
    assert files[0] == files[1]


def test_a_word_without_adapter_has_no_presence(
    run: Run, image: Path, tmp_path: Path, tiny: list[object]
) -> None:
    report = tmp_path / "r.json"
    run("segment", image, "--text", "nuclei", "-o", tmp_path / "o.tif", "--json", report, *tiny)
    found = json.loads(report.read_text())
    assert found["adapter"] == "none"
    assert found["presence"] is None and found["threshold"] is None


def test_time_is_reported_for_what_was_computed_only(
    run: Run, image: Path, tmp_path: Path, tiny: list[object], tiny_files: dict[str, Path]
) -> None:
    start = time.perf_counter()
    done = run(
        "segment",
        image,
        "--text",
        "nuclei",
        "--text",
        "cells",
        "-o",
        tmp_path / "o.tif",
        "--json",
        tmp_path / "r.json",
        "--adapter",
        tiny_files["adapter"],
        *tiny,
    )
    passed = time.perf_counter() - start
    assert done.status == 0, done.err
    first, second = (
        json.loads((tmp_path / f"r_{word}.json").read_text())["seconds"]
        for word in ("nuclei", "cells")
    )
    assert first["trunk"] > 0 and second["trunk"] == 0 and second["head"] > 0
    assert sum(first.values()) + sum(second.values()) < passed
