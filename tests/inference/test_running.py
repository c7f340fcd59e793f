"""Answers where memory runs out, and where a device lacks an operation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from answers import same
from tiny import tiny_sam

from napari_clipsam.adapters.inject import Adapter
from napari_clipsam.errors import OutOfMemory
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.planes import Plane
from napari_clipsam.prompts import Prompts

MakeAdapter = Callable[..., Adapter]
MakePlane = Callable[..., Plane]
CLICK = Prompts(points=[(20, 30)])


def failing(error: Exception, times: int) -> tuple[Callable[..., object], list[int]]:
    """Something that fails a few times, then is the SAM's own trunk."""
    left = [times]

    def trunk(self: object, *args: object) -> object:
        if left[0]:
            left[0] -= 1
            raise error
        return ORIGINAL_TRUNK(self, *args)

    return trunk, left


ORIGINAL_TRUNK = type(tiny_sam()).trunk


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    ],
    ids=["device", "numpy", "allocator"],
)
def test_after_running_out_of_memory_it_goes_on(
    segmenter: Segmenter,
    make_plane: MakePlane,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    segmenter.set_plane(make_plane())
    wanted = segmenter.predict(CLICK)
    trunk, _ = failing(error, 1)
    monkeypatch.setattr(type(segmenter.model.sam), "trunk", trunk)
    segmenter.set_plane(make_plane(seed=1))
    with pytest.raises(OutOfMemory, match="smaller model"):
        segmenter.predict(CLICK)

    # What was kept is given up, so that there is room again.
    assert segmenter._encoder._trunks.bytes == 0
    segmenter.predict(CLICK)
    segmenter.set_plane(make_plane())
    assert same(segmenter.predict(CLICK), wanted)


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError("The operator 'aten::grid' is not implemented\nfor the MPS device."),
        TypeError("Cannot convert a MPS Tensor to float64 dtype"),
    ],
)
def test_what_mps_lacks_is_done_on_the_cpu(
    segmenter: Segmenter,
    make_adapter: MakeAdapter,
    make_plane: MakePlane,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    segmenter.set_adapter(make_adapter())
    segmenter.set_plane(make_plane())
    wanted = segmenter.predict(Prompts("nuclei"))
    segmenter.set_plane(make_plane(seed=1))
    trunk, left = failing(error, 1)
    monkeypatch.setattr(type(segmenter.model.sam), "trunk", trunk)
    pretend_mps(segmenter, monkeypatch)

    found = segmenter.predict(Prompts("nuclei"))
    assert left == [0] and segmenter.device == torch.device("cpu")
    first_line = str(error).partition("\n")[0]
    assert found.note == (
        f"This device lacks an operation ({first_line}); the CPU is used from now on."
    )
    segmenter.set_plane(make_plane())
    again = segmenter.predict(Prompts("nuclei"))
    assert again.note == "" and same(again, wanted)


def test_other_devices_and_errors_do_not_fall_back(
    segmenter: Segmenter, make_plane: MakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter.set_plane(make_plane())
    trunk, _ = failing(NotImplementedError("aten::grid"), 1)
    monkeypatch.setattr(type(segmenter.model.sam), "trunk", trunk)
    with pytest.raises(NotImplementedError):
        segmenter.predict(CLICK)

    trunk, _ = failing(RuntimeError("shapes differ"), 1)
    monkeypatch.setattr(type(segmenter.model.sam), "trunk", trunk)
    pretend_mps(segmenter, monkeypatch)
    with pytest.raises(RuntimeError, match="shapes differ"):
        segmenter.predict(CLICK)


def pretend_mps(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a Segmenter on the CPU believe that it runs on MPS."""
    device, move = torch.device("mps"), segmenter._encoder.move
    segmenter._encoder.device = device
    for name in ("torch.Tensor.to", "torch.tensor", "torch.arange", "torch.as_tensor"):
        stay_on_cpu(name, monkeypatch)
    monkeypatch.setattr("napari_clipsam.inference.encoding.synchronize", lambda _: None)

    def back(to: torch.device) -> None:
        monkeypatch.undo()
        move(to)

    monkeypatch.setattr(segmenter._encoder, "move", back)


def stay_on_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a function of torch read MPS as CPU."""
    owner = torch.Tensor if name == "torch.Tensor.to" else torch
    function = getattr(owner, name.rpartition(".")[2])

    def on_cpu(*args: object, **kwargs: object) -> object:
        args = tuple(torch.device("cpu") if a == torch.device("mps") else a for a in args)
        if kwargs.get("device") == torch.device("mps"):
            kwargs["device"] = torch.device("cpu")
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name.rpartition(".")[2], on_cpu)
