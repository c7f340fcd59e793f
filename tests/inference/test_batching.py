"""How many planes are encoded at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from napari_clipsam.errors import OutOfMemory
from napari_clipsam.inference import batching
from napari_clipsam.inference.batching import PlaneBatches


class Room:
    """Stands for a Segmenter on a device with room for so many planes."""

    def __init__(self, room: int, device: str = "cuda", kept: int = 100) -> None:
        self.room, self.device, self.kept = room, torch.device(device), kept
        self.encoded: list[int] = []
        self.ahead = self

    def most_planes(self, words: int) -> int:
        return self.kept // max(1, words)

    def encode_planes(self, planes: Sequence[int], words: Sequence[str]) -> None:
        if len(planes) > self.room:
            raise OutOfMemory("The device has too little memory. Use a smaller model.")
        self.encoded += planes


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU on which a plane takes 1 GB of 20 that are free."""
    gigabyte = 1 << 30
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: gigabyte)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2 * gigabyte)
    monkeypatch.setattr(batching, "free_memory", lambda device: 20 * gigabyte)


def test_on_a_cpu_planes_go_one_by_one() -> None:
    room = Room(100, "cpu")
    batches = PlaneBatches(room)  # type: ignore[arg-type]
    batches.encode([1])
    batches.encode([])
    assert batches.size == 1 and room.encoded == [1]


@pytest.mark.usefixtures("gpu")
def test_half_of_the_free_memory_is_filled() -> None:
    room = Room(100)
    batches = PlaneBatches(room)  # type: ignore[arg-type]
    batches.encode([0])
    assert batches.size == 10


@pytest.mark.usefixtures("gpu")
def test_what_does_not_fit_is_halved_from_then_on() -> None:
    room = Room(3)
    batches = PlaneBatches(room)  # type: ignore[arg-type]
    batches.encode([0])
    batches.encode(list(range(1, 11)))
    assert room.encoded == list(range(11)) and batches.size <= 3
    room.room = 0
    with pytest.raises(OutOfMemory):
        batches.encode([11])


@pytest.mark.usefixtures("gpu")
def test_no_more_planes_are_encoded_than_the_caches_hold() -> None:
    batches = PlaneBatches(Room(100, kept=24), ["nuclei", "cells", "glands"])  # type: ignore[arg-type]
    batches.encode([0])
    assert batches.size == 8


@pytest.mark.usefixtures("gpu")
def test_a_plane_that_took_nothing_says_nothing_about_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peak = 1 << 30
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak)
    batches = PlaneBatches(Room(100))  # type: ignore[arg-type]
    batches.encode([0])
    assert batches.size == 1
    peak = 3 << 30
    batches.encode([1])
    assert batches.size == 5
