"""The recipe as one command, on tiny networks: order, stops, resuming, what is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from napari_clipsam.models.weights import load_sam
from starter import all as all_stages
from starter import export


@pytest.fixture(autouse=True)
def settings(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that fit the tiny networks."""
    sam = ("--objects", "3", "--window", "4", "--whole-from", "0.5")
    few = ("--objects", "2", "--crops", "2")
    looks = ("--views", "1")
    small: dict[str, tuple[str, ...]] = {"clip": (), "sam": sam, "adapter": ("--crops", "4")}
    small |= {"decoder": (*few, "--window", "4"), "quality": few}
    small |= {"refiner": looks, "concept_refiner": looks}
    monkeypatch.setattr(all_stages, "SETTINGS", {"cpu": small})


def call(out: Path, *more: str) -> bool:
    words = ["--out", str(out), "--device", "cpu", "--steps", "4", "--batch", "2"]
    words += ["--workers", "1", *more]
    return all_stages.main(words)


def test_one_call_trains_exports_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = tmp_path / "package"
    monkeypatch.setattr(export, "SHIPPED", shipped)
    assert call(tmp_path / "run", "--ship")
    assert {path.name for path in shipped.iterdir()} == {
        "sam.safetensors",
        "clip.safetensors",
        "adapter.safetensors",
    }
    steps = {
        name: torch.load(tmp_path / "run" / f"{name}.pt", weights_only=True)["step"]
        for name in all_stages.SHARES
    }
    assert steps == dict.fromkeys(all_stages.SHARES, 4)
    sam = load_sam(shipped / "sam.safetensors")
    assert sam.refiner is not None and sam.concept_refiner is not None
    scores = json.loads((tmp_path / "run" / "validation.json").read_text())
    assert {"dice", "object click", "object box", "presence auroc"} <= set(scores)
    assert '"presence auroc"' in capsys.readouterr().out


def test_a_call_that_is_over_leaves_the_rest_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []
    kept = all_stages.Driver.train

    def train(self: all_stages.Driver, stage: str) -> bool:
        trained.append(stage)
        return stage != "sam" and kept(self, stage)

    with monkeypatch.context() as patch:
        patch.setattr(all_stages.Driver, "train", train)
        assert not call(tmp_path)
    assert trained == ["clip", "sam"]
    assert "the same command goes on" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "done.json").read_text())) == ["clip"]

    monkeypatch.setitem(all_stages._TRAIN, "clip", lambda words: pytest.fail("done already"))
    assert call(tmp_path)
    assert list(json.loads((tmp_path / "done.json").read_text())) == [
        "clip",
        "sam",
        "networks",
        "decoder",
        "better decoder",
        "quality",
        "better quality",
        "adapter",
        "files",
        "refiner",
        "with refiner",
        "concept_refiner",
        "with both",
    ]


def test_no_stage_is_begun_when_the_time_of_the_call_is_over(tmp_path: Path) -> None:
    assert not call(tmp_path, "--stop-after", "0")
    assert not (tmp_path / "clip.pt").exists()


def test_a_stage_is_told_what_is_left_of_the_call_and_its_share_of_the_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setitem(all_stages._TRAIN, "clip", lambda words: told.extend(words))
    assert not call(tmp_path, "--stop-after", "3", "--minutes", "10")
    after = dict(zip(told[::2], told[1::2], strict=True))
    assert 2.5 < float(after["--stop-after"]) <= 3
    assert float(after["--minutes"]) == pytest.approx(10 * all_stages.SHARES["clip"])


def test_the_better_blend_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blends: list[float] = []

    def exported(self: all_stages.Driver, blend: float) -> dict[str, float]:
        blends.append(blend)
        return {"dice": 0.5, "object click": 0.9 if blend == 1 else 0.7, "object box": 0.5}

    monkeypatch.setattr(all_stages.Driver, "_export", exported)
    options = all_stages.argparse.Namespace(out=str(tmp_path))
    assert all_stages.Driver(options, 0.0).export_adapter()
    assert blends == [1.0, 0.75, 1.0]
    assert json.loads((tmp_path / "validation.json").read_text())["object click"] == 0.9
