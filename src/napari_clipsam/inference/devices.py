"""Which device computes, in which precision, and what happens when it cannot."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Literal

# MPS lacks some operations; torch then runs them on the CPU. Read when torch is first imported.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import torch  # noqa: E402

from napari_clipsam.errors import ConfigError, OutOfMemory  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DEVICES", "Precision", "autocast", "choose_device", "memory_guard", "resolve_precision"]

DEVICES = ("auto", "cpu", "cuda", "mps")
Precision = Literal["auto", "fp32", "fp16", "bf16"]
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str = "auto") -> torch.device:
    """The device of a name; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    ConfigError
        The name is unknown or the device is not there.
    """
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    kind = name.split(":")[0]
    if kind not in there:
        raise ConfigError(f"There is no device '{name}'. Choose one of {', '.join(DEVICES)}.")
    if not there[kind]:
        raise ConfigError(f"No {kind} device was found here. Choose auto or cpu.")
    return torch.device(name)


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype networks run in: ``auto`` is bf16 on CUDA and fp32 elsewhere."""
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    if precision != "fp32" and precision not in _DTYPES:
        raise ConfigError(f"There is no precision '{precision}'. Choose auto, fp32, fp16 or bf16.")
    return _DTYPES.get(precision, torch.float32)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocast for a reduced precision, nothing for float32."""
    reduced = dtype != torch.float32
    return torch.autocast(device.type, dtype=dtype if reduced else None, enabled=reduced)


@contextlib.contextmanager
def memory_guard(device: torch.device, advice: str) -> Iterator[None]:
    """Turn running out of memory into an error that says what to do.

    Raises
    ------
    OutOfMemory
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"The {device.type} device ran out of memory. {advice}") from error
    except MemoryError as error:
        raise OutOfMemory(f"The computer ran out of memory. {advice}") from error
    except RuntimeError as error:
        # The CPU allocator has no exception of its own.
        if "not enough memory" in str(error) or "out of memory" in str(error):
            raise OutOfMemory(f"The {device.type} device ran out of memory. {advice}") from error
        raise
