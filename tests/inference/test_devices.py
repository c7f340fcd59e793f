"""Which device computes, and what an error of it turns into."""

from __future__ import annotations

import os
import weakref

import numpy as np
import pytest
import torch

import napari_clipsam.inference  # noqa: F401
from napari_clipsam.errors import ClipSamError, ConfigError, OutOfMemory
from napari_clipsam.inference.devices import (
    autocast,
    choose_device,
    lacks_operation,
    memory_guard,
    require_finite,
    resolve_precision,
    training_dtype,
)

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


def pretend(monkeypatch: pytest.MonkeyPatch, cuda: int = 0, mps: bool = False) -> None:
    """Pretend that so many devices are there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


# ---------------------------------------------------------------- choice


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(0, False, "cpu"), (0, True, "mps"), (2, False, "cuda"), (2, True, "cuda")],
)
def test_auto_takes_the_fastest_there_is(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, chosen: str
) -> None:
    pretend(monkeypatch, cuda, mps)

    assert choose_device() == torch.device(chosen)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1", "mps"])
def test_a_device_that_is_there_can_be_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch, cuda=2, mps=True)

    assert choose_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("gpu", "no device 'gpu'. Choose one of auto, cpu, cuda, mps"),
        ("", "no device ''"),
        ("cuda:x", "no device 'cuda:x'"),
        ("cuda:-1", "no device 'cuda:-1'"),
        ("cuda:2", "no device 'cuda:2': cuda devices are counted from 0 to 1"),
        ("mps", "No mps device was found here. Choose auto or cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, match: str
) -> None:
    pretend(monkeypatch, cuda=2)

    with pytest.raises(ConfigError, match=match):
        choose_device(name)


@pytest.mark.parametrize(
    ("device", "capability", "dtype"),
    [
        (MPS, (0, 0), torch.float32),
        (CUDA, (6, 1), torch.float32),
        (CUDA, (7, 5), torch.float16),
        (CUDA, (8, 0), torch.bfloat16),
    ],
)
def test_precision_follows_the_device(
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    capability: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    monkeypatch.delenv("NAPARI_CLIPSAM_PRECISION")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)

    assert resolve_precision("auto", device) == dtype
    assert resolve_precision("fp16", device) == torch.float16
    assert resolve_precision("fp32", device) == torch.float32


@pytest.mark.parametrize("instructions", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_a_processor_made_for_bf16_uses_it_alike_in_training(
    monkeypatch: pytest.MonkeyPatch, instructions: str
) -> None:
    monkeypatch.delenv("NAPARI_CLIPSAM_PRECISION")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert resolve_precision("auto", CPU) == training_dtype(CPU) == torch.float32

    monkeypatch.setattr(torch.cpu, instructions, lambda: True)
    assert resolve_precision("auto", CPU) == training_dtype(CPU) == torch.bfloat16
    assert resolve_precision("fp32", CPU) == torch.float32


def test_a_torch_that_does_not_tell_means_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAPARI_CLIPSAM_PRECISION")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)

    assert resolve_precision("auto", CPU) == torch.float32


def test_training_has_no_gradients_in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_CLIPSAM_PRECISION", "fp16")

    assert resolve_precision("auto", CUDA) == torch.float16
    assert training_dtype(CUDA) == torch.float32


def test_the_environment_says_what_auto_means_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NAPARI_CLIPSAM_PRECISION", "bf16")

    assert resolve_precision("auto", CPU) == torch.bfloat16
    assert resolve_precision("fp32", CPU) == torch.float32


def test_an_unknown_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no precision 'int8'"):
        resolve_precision("int8", CPU)
    monkeypatch.setenv("NAPARI_CLIPSAM_PRECISION", "half")
    with pytest.raises(ConfigError, match="no precision 'half'"):
        resolve_precision("auto", CPU)


def test_autocast_reduces_precision_only_where_asked_for() -> None:
    a = torch.ones(2, 2)
    with autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (a @ a).dtype == torch.float32


# ---------------------------------------------------------------- memory

NO_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to ..."),
    RuntimeError("MPS backend out of memory (MPS allocated: 18.13 GB)"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda e: str(e)[:20])
@pytest.mark.parametrize("device", [CPU, CUDA, MPS])
def test_running_out_of_memory_says_what_needs_less(error: Exception, device: torch.device) -> None:
    with pytest.raises(OutOfMemory, match="ran out of memory") as caught, memory_guard(device):
        raise error

    assert caught.value.__cause__ is error
    advice = str(caught.value)
    assert all(way in advice for way in ("smaller model", "input_size=", "cache_bytes"))
    assert ("device='cpu'" in advice) == (device != CPU)
    assert ("precision='bf16'" in advice) == (device == CUDA)


def test_half_precision_is_not_advised_twice() -> None:
    with pytest.raises(OutOfMemory) as caught, memory_guard(CUDA, torch.bfloat16):
        raise MemoryError

    assert "bf16" not in str(caught.value)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(1 << 58), lambda: np.empty(1 << 58)])
def test_what_the_allocators_really_raise_is_understood(allocate: object) -> None:
    with pytest.raises(OutOfMemory, match="The computer ran out of memory"), memory_guard(CPU):
        allocate()


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("no"), KeyError(1)])
def test_other_errors_pass_through(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory_guard(CPU):
        raise error

    assert caught.value is error


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory")])
def test_the_error_does_not_hold_what_filled_the_memory(error: Exception) -> None:
    references = []

    def fill() -> None:
        large = torch.ones(10)
        references.append(weakref.ref(large))
        raise error

    with pytest.raises(OutOfMemory) as caught, memory_guard(CPU):
        fill()

    assert caught.value is not None
    assert references[0]() is None


# ---------------------------------------------------------------- what a device lacks


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (NotImplementedError("The operator 'aten::x' is not currently implemented"), True),
        (TypeError("Cannot convert a MPS Tensor to float64 dtype"), True),
        (RuntimeError("MPS: Unsupported Border padding mode"), True),
        (RuntimeError("MPS backend out of memory"), False),
        (RuntimeError("shapes differ"), False),
        (ValueError("mps"), False),
    ],
)
def test_only_mps_lacks_operations(error: Exception, lacks: bool) -> None:
    assert lacks_operation(error, MPS) is lacks
    assert lacks_operation(error, CPU) is False
    assert lacks_operation(error, CUDA) is False


def test_torch_is_told_to_fall_back_by_itself() -> None:
    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    good = torch.ones(3, 3)
    assert require_finite(good) is good
    bad = good.clone()
    bad[1, 2] = value

    with pytest.raises(ClipSamError, match="not finite, so there is no answer"):
        require_finite(bad)
