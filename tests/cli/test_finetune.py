"""``finetune``: what is handed to the trainer, what is printed, what is written and what is not."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from bright import Run, squares
from PIL import Image

from napari_clipsam.adapters import files
from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.files import load_adapter, read_header
from napari_clipsam.adapters.inject import build_adapter
from napari_clipsam.errors import OutputError, Stopped
from napari_clipsam.models.registry import load_model
from napari_clipsam.training.events import Estimate, TrainEvent, TrainResult
from napari_clipsam.training.scoring import held_out_scores

IMAGE, LABELS = squares()
WORD = ("--text", "lamps")


class FakeFit:
    """Stands in for the trainer: says what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.reason = "budget"
        self.improved = True
        self.during: Callable[[FakeFit], None] = lambda fit: None

    def __call__(self, model: Any, split: Any, settings: Any, start: Any, **how: Any) -> Any:
        self.asked = {"model": model, "split": split, "settings": settings, "start": start, **how}
        return self._events()

    def _events(self) -> Iterator[TrainEvent]:
        asked = self.asked
        yield TrainEvent("encode", score=0.25, baseline=0.25, best=0.25, seconds_left=80.0)
        asked["checkpoint"].write_bytes(b"a state")
        yield TrainEvent("train", 10, 0.1, 12.0, 100.0, {"mask": 0.4, "loss": 0.5}, best=0.25)
        self.during(self)
        yield TrainEvent("train", 20, 0.5, 30.0, 30.0, {"loss": 0.3}, 0.75, 0.25, 0.75)
        adapter = build_adapter(
            AdapterConfig(n_conditioned=1), asked["model"].sam, asked["model"].clip, seed=1
        )
        if self.improved:
            adapter.with_info(
                words=asked["split"].train[0].words,
                threshold=0.0,
                provenance={"steps": 20},
                scores={"before": {"dice": 0.25}, "after": {"dice": 0.75}},
            )
        result = TrainResult(
            adapter,
            0.25,
            0.75 if self.improved else 0.25,
            self.improved,
            "Dice",
            asked["split"].tested_on,
            self.reason,  # type: ignore[arg-type]
            (TrainEvent("train", 20, 0.5, 30.0, losses={"loss": 0.3}, score=0.75),),
            {"steps": 20},
        )
        yield TrainEvent("done", 20, 1.0, 31.0, result=result)


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> FakeFit:
    """The stand-in, and an estimate that takes no time."""
    fake = FakeFit()
    stand_ins = {
        "budget": SimpleNamespace(estimate=lambda *about: Estimate(95.0, 1_500_000_000, 400)),
        "trainer": SimpleNamespace(fit=fake),
    }
    for name, module in stand_ins.items():
        monkeypatch.setitem(sys.modules, f"napari_clipsam.training.{name}", module)
    return fake


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model fails the test."""

    def refuse(*options: object) -> None:
        raise AssertionError("a model was loaded before the input was checked")

    monkeypatch.setattr("napari_clipsam.cli._finetune.make_segmenter", refuse)


@pytest.fixture
def em(tmp_path: Path) -> tuple[Path, Path]:
    """A stack of 14 slices; 3, 7 and 12 are labelled."""
    labels = np.zeros((14, *LABELS.shape), np.uint16)
    labels[[3, 7, 12]] = LABELS
    paths = tmp_path / "em.tif", tmp_path / "mito.tif"
    images = np.broadcast_to(IMAGE, labels.shape) + np.arange(14, dtype=np.uint8)[:, None, None]
    for path, array in zip(paths, (images, labels), strict=True):
        tifffile.imwrite(path, array, imagej=True, metadata={"axes": "ZYX"})
    return paths


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "lamps.safetensors"


def made(folder: Path) -> set[str]:
    """What a command left beside the stack and the user's own folder."""
    names = {path.name for path in folder.iterdir()}
    return names - {"em.tif", "mito.tif", "home"}


# ---------------------------------------------------------------- what is done


def test_a_stack_is_learnt_from_and_the_saved_file_is_measured(
    run: Run, fit: FakeFit, em: tuple[Path, Path], tiny: list[object], out: Path, tmp_path: Path
) -> None:
    done = run("finetune", *em, *WORD, *tiny, "-o", out)
    assert done.status == 0, done.err
    assert done.err == ""
    assert made(tmp_path) == {"lamps.safetensors", "lamps.png"}
    split = fit.asked["split"]
    assert [e.plane.index["Z"] for e in split.train] == [3, 7]
    model = load_model(str(tiny[1]), str(tiny[3]))
    stored = load_adapter(out, model.sam, model.clip)
    scores = held_out_scores(model, stored, split.held_out, "concept")
    header = read_header(out)
    assert header.info.words == ("lamps",) and header.info.provenance == {"steps": 20}
    assert header.info.scores == {
        "before": {"dice": 0.25},
        "after": scores,
        "tested_on": "slice 12",
    }
    lines = done.out.splitlines()
    assert lines[0] == "'lamps', all of it: learnt from 2 slices, tested on slice 12"
    assert lines[1] == "sam.safetensors, cpu, from the base alone"
    assert lines[2].startswith("Needs about 2 min and 1.5 GB of memory for 400 steps.")
    assert [line.split() for line in lines[3:5]] == [
        ["0", "s", "step", "0", "held", "out", "0.250"],
        ["30", "s", "step", "20", "held", "out", "0.750", "loss", "0.300"],
    ]
    assert lines[5] == f"Dice on slice 12: 0.250 -> {scores['dice']:.3f}"
    assert lines[6].startswith(f"Saved: {out} (") and lines[7].endswith("lamps.png")
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.format == "PNG"


def test_what_is_asked_for_reaches_the_trainer(
    run: Run,
    fit: FakeFit,
    em: tuple[Path, Path],
    tiny: list[object],
    tiny_files: dict[str, Path],
    out: Path,
    tmp_path: Path,
) -> None:
    options = ["--steps", 7, "--target", "both", "--no-semantics", "--seed", 5, "--no-curve"]
    more = ["--from", tiny_files["adapter"], "--hold-out", 0.6, "--text", " Light   bulbs"]
    done = run("finetune", *em, *WORD, *tiny, *options, *more, "-o", out)
    assert done.status == 0, done.err
    settings, split = fit.asked["settings"], fit.asked["split"]
    assert (settings.minutes, settings.steps, settings.seed) == (None, 7, 5)
    assert (settings.goal, settings.semantics) == ("both", False)
    assert fit.asked["start"].info.words == ("nuclei", "cells")
    assert [e.words for e in split.train] == [("lamps", "Light bulbs")]
    assert len(split.held_out) == 2
    assert fit.asked["checkpoint"] == tmp_path / "lamps.training.pt" and not fit.asked["resume"]
    assert "from adapter adapter" in done.out and "'lamps' = 'Light bulbs'" in done.out
    assert made(tmp_path) == {"lamps.safetensors"}
    assert run("finetune", *em, *WORD, *tiny, "--overwrite", "-o", out).status == 0
    assert (fit.asked["settings"].minutes, fit.asked["settings"].steps) == (3.0, None)
    assert fit.asked["start"] is None


def test_shots_of_a_folder_and_of_a_table(
    run: Run, fit: FakeFit, tiny: list[object], tmp_path: Path
) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    rows = ["file,label,split,concepts,label_type"]
    for k, name in enumerate("abcdef"):
        Image.fromarray(IMAGE + np.uint8(k)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(LABELS.astype(np.uint8)).save(tmp_path / "labels" / f"{name}.png")
        rows.append(f"images/{name}.png,labels/{name}.png,train,lamps;bulbs,instance")
    (tmp_path / "index.csv").write_text("\n".join([*rows, "images/a.png,gone.png,x,other,none"]))
    folders = tmp_path / "images", tmp_path / "labels"
    common = [*WORD, *tiny, "--shots", 3, "--curve", tmp_path / "c.png", "--overwrite"]
    done = run("finetune", *folders, *common, "-o", tmp_path / "a.safetensors")
    assert done.status == 0, done.err
    chosen = [e.plane.name for e in fit.asked["split"].train]
    assert len(chosen) == 2 and (tmp_path / "c.png").is_file()
    table = ["--index", "index.csv", "--split", "train"]
    done = run("finetune", tmp_path, *table, *common, "-o", tmp_path / "a.safetensors")
    assert done.status == 0, done.err
    assert [e.plane.name for e in fit.asked["split"].train] == chosen
    one = [*WORD, *tiny, "--shots", 1, "--no-curve", "-o", tmp_path / "b.safetensors"]
    done = run("finetune", *folders, *one)
    assert "learnt from the rest of it, tested on a quarter of" in done.out
    many = [*WORD, *tiny, "--shots", 9, "--no-curve", "-o", tmp_path / "c.safetensors"]
    assert (
        "9 labelled slices were asked for; there are no more"
        in run("finetune", *folders, *many).out
    )


def test_what_was_left_out_is_said(
    run: Run, fit: FakeFit, em: tuple[Path, Path], tiny: list[object], out: Path
) -> None:
    labels = tifffile.imread(em[1])
    labels[5] = 1
    labels[9, 0, :3] = 1
    tifffile.imwrite(em[1], labels, imagej=True, metadata={"axes": "ZYX"})
    done = run("finetune", *em, *WORD, *tiny, "-o", out)
    assert done.status == 0, done.err
    assert "Left out: slice 5, where the label covers everything.\n" in done.out
    assert "Left out: slice 9, where fewer than 10 pixels are labelled.\n" in done.out


def test_nothing_better_is_said_in_a_line(
    run: Run, fit: FakeFit, em: tuple[Path, Path], tiny: list[object], out: Path
) -> None:
    fit.improved, fit.reason = False, "no better"
    done = run("finetune", *em, *WORD, *tiny, "-o", out)
    assert done.status == 0, done.err
    assert "Dice on slice 12: 0.250, and nothing learnt was better: the file holds" in done.out
    header = read_header(out)
    assert header.info.words == ("lamps",)
    assert header.info.scores["before"] == header.info.scores["after"]


def test_numbers_that_are_not_finite_are_said(
    run: Run, fit: FakeFit, em: tuple[Path, Path], tiny: list[object], out: Path
) -> None:
    fit.reason = "not finite"
    done = run("finetune", *em, *WORD, *tiny, "-o", out)
    assert done.status == 0 and "not finite and was ended; the best before that" in done.out


def test_progress_is_shown_on_a_terminal(
    run: Run,
    fit: FakeFit,
    em: tuple[Path, Path],
    tiny: list[object],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "napari_clipsam.cli._finetune.sys.stderr.isatty", lambda: True, raising=False
    )
    done = run("finetune", *em, *WORD, *tiny, "-o", out)
    shown = [line.strip() for line in done.err.split("\r") if line.strip()]
    assert shown[0].startswith("reading labels 1/14") and shown[13] == "reading labels 14/14"
    assert shown[14] == "reading slices, 0%, about 80 s left, best 0.250"
    assert shown[15] == "step 10, 10%, about 2 min left, best 0.250"


# ---------------------------------------------------------------- stop, resume, fail


def interrupted(times: int) -> Callable[[FakeFit], None]:
    """Ctrl-C while it trains."""

    def during(fit: FakeFit) -> None:
        assert not fit.asked["stop"]()
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
        assert fit.asked["stop"]()
        fit.reason = "stopped"

    return during


def test_a_stop_keeps_the_best_and_can_be_gone_on_from(
    run: Run, fit: FakeFit, em: tuple[Path, Path], tiny: list[object], out: Path, tmp_path: Path
) -> None:
    former = signal.getsignal(signal.SIGINT)
    fit.during = interrupted(1)
    done = run("finetune", *em, *WORD, *tiny, "-o", out)
    assert done.status == 0, done.err
    assert "Stopped." in done.out and "--resume --overwrite goes on" in done.out
    assert made(tmp_path) == {"lamps.safetensors", "lamps.png", "lamps.training.pt"}
    assert signal.getsignal(signal.SIGINT) is former
    done = run("finetune", *em, *WORD, *tiny, "-o", out.with_name("lamps.safetensors"))
    assert done.status == 2
    fit.during, fit.reason = lambda fit: None, "budget"
    done = run("finetune", *em, *WORD, *tiny, "-o", out, "--resume", "--overwrite")
    assert done.status == 0, done.err
    assert fit.asked["resume"] is True
    assert made(tmp_path) == {"lamps.safetensors", "lamps.png"}


def test_a_second_stop_ends_at_once(
    run: Run, fit: FakeFit, em: tuple[Path, Path], tiny: list[object], out: Path, tmp_path: Path
) -> None:
    fit.during = interrupted(2)
    done = run("finetune", *em, *WORD, *tiny, "-o", out)
    assert done.status == 130 and done.err == "error: Stopped.\n"
    assert made(tmp_path) == {"lamps.training.pt"}
    done = run("finetune", *em, *WORD, *tiny, "-o", out)
    assert done.status == 2 and "Go on with --resume, or give --overwrite" in done.err


def test_a_stop_before_anything_was_learnt_leaves_nothing(
    run: Run,
    fit: FakeFit,
    em: tuple[Path, Path],
    tiny: list[object],
    out: Path,
    tmp_path: Path,
) -> None:
    def stopped(fit: FakeFit) -> None:
        fit.asked["checkpoint"].unlink()
        raise Stopped("Training was stopped.")

    fit.during = stopped
    done = run("finetune", *em, *WORD, *tiny, "-o", out)
    assert done.status == 130 and done.err == "error: Stopped.\n"
    assert made(tmp_path) == set()


def test_a_full_disk_while_saving_leaves_the_state_to_go_on_from(
    run: Run,
    fit: FakeFit,
    em: tuple[Path, Path],
    tiny: list[object],
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual, calls = files._write, []

    def full(path: Path, *content: Any) -> bool:
        calls.append(path)
        if len(calls) == fails_at:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return usual(path, *content)

    monkeypatch.setattr(files, "_write", full)
    for fails_at in (1, 2):
        calls.clear()
        done = run("finetune", *em, *WORD, *tiny, "-o", out, *(["--resume"] * (fails_at - 1)))
        assert done.status == 2
        assert done.err.count("\n") == 1 and "No space left" in done.err
        assert made(tmp_path) == {"lamps.training.pt"}


def test_a_full_disk_while_training_is_one_line(
    run: Run, fit: FakeFit, em: tuple[Path, Path], tiny: list[object], out: Path, tmp_path: Path
) -> None:
    def full(fit: FakeFit) -> None:
        raise OutputError("lamps.training.pt could not be written (No space left on device).")

    fit.during = full
    done = run("finetune", *em, *WORD, *tiny, "-o", out)
    assert done.status == 2 and done.err.count("\n") == 1
    assert not out.exists()


# ---------------------------------------------------------------- for real


def test_the_same_seed_gives_the_same_file(
    run: Run, em: tuple[Path, Path], tiny: list[object], out: Path, tmp_path: Path
) -> None:
    options = ["--steps", 4, "--target", "both", "--no-curve"]
    done = run("finetune", *em, *WORD, *tiny, *options, "-o", out)
    assert done.status == 0, done.err
    assert "Dice and IoU on slice 12: " in done.out
    again = tmp_path / "again.safetensors"
    assert run("finetune", *em, *WORD, *tiny, *options, "-o", again).status == 0
    assert out.read_bytes() == again.read_bytes()
    model = load_model(str(tiny[1]), str(tiny[3]))
    assert set(read_header(out).info.scores["after"]) == {"dice", "iou"}
    assert load_adapter(out, model.sam, model.clip).info.words == ("lamps",)
    assert made(tmp_path) == {"lamps.safetensors", "again.safetensors"}


def test_a_real_training_is_stopped_and_gone_on_with(
    run: Run,
    em: tuple[Path, Path],
    tiny: list[object],
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(progress: object, event: TrainEvent) -> None:
        if event.step == 3 and event.stage == "train":
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr("napari_clipsam.cli._finetune._TrainingProgress.show", stop)
        done = run("finetune", *em, *WORD, *tiny, "--steps", 12, "-o", out)
    assert done.status == 0, done.err
    assert made(tmp_path) == {"lamps.safetensors", "lamps.png", "lamps.training.pt"}
    done = run("finetune", *em, "--text", "others", *tiny, "--resume", "--overwrite", "-o", out)
    assert done.status == 2 and "belongs to training on other images, labels, words" in done.err
    more = ["--steps", 9, "--resume", "--overwrite"]
    done = run("finetune", *em, *WORD, *tiny, *more, "-o", out)
    assert done.status == 0, done.err
    assert "step 9 " in done.out and "step 2 " not in done.out
    assert made(tmp_path) == {"lamps.safetensors", "lamps.png"}


# ---------------------------------------------------------------- what cannot work


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("options", "saying"),
    [
        (["--text", ""], "word is empty"),
        (["--text", "a", "--text", " A "], "given twice"),
        ([], "Missing option '--text'"),
        ([*WORD, "--minutes", 0], "minutes is 0.0; it must be above 0"),
        ([*WORD, "--minutes", "inf"], "it must be above 0, and finite"),
        ([*WORD, "--steps", -1], "steps is -1; it must be above 0"),
        ([*WORD, "--minutes", 1, "--steps", 5], "Give one of them"),
        ([*WORD, "--hold-out", 1.5], "between 0 and 1"),
        ([*WORD, "--shots", 0], "--shots"),
        ([*WORD, "--target", "instances"], "'instances' is not one of"),
        ([*WORD, "--split", "train"], "Give --index too"),
        ([*WORD, "--axes", "QX"], "unknown letter 'Q'"),
        ([*WORD, "--curve", "c.jpg"], "Let it end in .png"),
        ([*WORD, "--curve", "c.png", "--no-curve"], "Give one of them"),
        ([*WORD, "--curve", "no/c.png"], "does not exist"),
        ([*WORD, "--resume"], "There is no lamps.training.pt to go on from"),
        ([*WORD, "-o", "lamps.pt"], "Let it end in .safetensors"),
        ([*WORD, "-o", "no/lamps.safetensors"], "does not exist"),
        ([*WORD, "-o", "old.safetensors"], "exists already"),
        ([*WORD, "-o", "em.safetensors"], "give --no-curve or --overwrite"),
        ([*WORD, "-o", "em.safetensors", "--overwrite"], "is one of the images, labels"),
    ],
)
def test_options_that_cannot_work(
    run: Run,
    fit: FakeFit,
    em: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[object],
    saying: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(IMAGE).save("em.png")
    Image.fromarray(LABELS.astype(np.uint8)).save("labels.png")
    Path("old.safetensors").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = run("finetune", "em.png", "labels.png", "-o", "lamps.safetensors", *options)
    assert done.status == 2, (done.out, done.err)
    assert done.out == "" and done.err.count("\n") == 1 and saying in done.err, done.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("labels", "options", "saying"),
    [
        (LABELS * 0, [], "No slice is labelled. Paint"),
        (LABELS[:-1], [], "different sizes"),
        (LABELS * 0 + 1, [], "label covers all of image.png"),
        (np.pad([[1, 1, 1]], ((20, 39), (20, 57))), [], "have only 3 pixels"),
        ((LABELS > 0).astype(int), ["--target", "object"], "one number for all objects"),
        (LABELS, [], "is not installed"),
    ],
)
def test_labels_and_models_that_cannot_work(
    run: Run,
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    labels: np.ndarray,
    options: list[str],
    saying: str,
) -> None:
    if saying == "is not installed":
        monkeypatch.undo()
        monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path / "home"))
        options = ["--model", "vit_b"]
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "labels.png")
    before = set(tmp_path.rglob("*"))
    pair = tmp_path / "image.png", tmp_path / "labels.png"
    done = run("finetune", *pair, *WORD, *options, "-o", out)
    assert done.status == 2 and done.out == ""
    assert done.err.count("\n") == 1 and saying in done.err
    assert set(tmp_path.rglob("*")) == before
