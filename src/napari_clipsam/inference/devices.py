"""Which device computes, in which precision, and what happens when it cannot."""

from __future__ import annotations

import contextlib
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from napari_clipsam.errors import ClipSamError, ConfigError, OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = [
    "DEVICES",
    "Precision",
    "autocast",
    "choose_device",
    "free_memory",
    "lacks_operation",
    "memory_guard",
    "require_finite",
    "resolve_precision",
    "synchronize",
    "training_dtype",
]

DEVICES = ("auto", "cpu", "cuda", "mps")
Precision = Literal["auto", "fp32", "fp16", "bf16"]
_GUESSED_MEMORY = 4 << 30
_BF16_CPUS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# The CPU's allocator and the libraries of CUDA have no exception of their own.
_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")


def choose_device(name: str = "auto") -> torch.device:
    """The device of a name; ``auto`` takes CUDA, then MPS, then the CPU.

    Parameters
    ----------
    name : str
        One of `DEVICES`, or one of several CUDA devices by its number, ``cuda:1``.

    Raises
    ------
    ConfigError
        The name is unknown or the device is not there.
    """
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    kind, colon, number = name.partition(":")
    if kind not in there or (colon and not number.isdecimal()):
        raise ConfigError(f"There is no device '{name}'. Choose one of {', '.join(DEVICES)}.")
    if not there[kind]:
        raise ConfigError(f"No {kind} device was found here. Choose auto or cpu.")
    if colon and int(number) >= there[kind]:
        raise ConfigError(
            f"There is no device '{name}': {kind} devices are counted from 0 to "
            f"{there[kind] - 1}. Choose auto or one of these."
        )
    return torch.device(name)


def free_memory(device: torch.device) -> int:
    """Bytes a device has free; a guess where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        # What the system counts as free leaves out files that it only keeps in case.
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return _GUESSED_MEMORY


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of the blocks of SAM's encoder; all else runs in float32.

    ``auto`` is bf16 on CPUs and CUDA devices that are made for it, fp16 on CUDA devices that are
    made for that alone, else fp32; or what the environment's ``NAPARI_CLIPSAM_PRECISION`` says.

    Raises
    ------
    ConfigError
        There is no such precision.
    """
    if precision == "auto":
        precision = os.environ.get("NAPARI_CLIPSAM_PRECISION") or "auto"  # type: ignore[assignment]
    if precision == "auto":
        precision = _fastest(device)
    if precision not in _DTYPES:
        raise ConfigError(f"There is no precision '{precision}'. Choose auto, fp32, fp16 or bf16.")
    return _DTYPES[precision]


def training_dtype(device: torch.device) -> torch.dtype:
    """The dtype of the same blocks in training: as in use, but gradients vanish in fp16."""
    dtype = resolve_precision("auto", device)
    return torch.float32 if dtype == torch.float16 else dtype


def _fastest(device: torch.device) -> Precision:
    """The precision that a device is made for."""
    if device.type == "cuda":
        # What is missing is emulated, slower than fp32: bf16 before 8, fp16 before 7.
        capability = torch.cuda.get_device_capability(device)
        return "bf16" if capability >= (8, 0) else "fp16" if capability >= (7, 0) else "fp32"
    if device.type == "cpu":
        # Private, so it may go; then it is slower and nothing else.
        told = [getattr(torch.cpu, name, None) for name in _BF16_CPUS]
        if any(ask() for ask in told if ask is not None):
            return "bf16"
    return "fp32"


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocast for a reduced precision, nothing for float32."""
    reduced = dtype != torch.float32
    return torch.autocast(device.type, dtype=dtype if reduced else None, enabled=reduced)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done its work, so that a clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def require_finite(tensor: Tensor) -> Tensor:
    """The tensor itself.

    Raises
    ------
    ClipSamError
        It has values that are not finite, of which no mask may be made.
    """
    if not tensor.isfinite().all():
        raise ClipSamError(
            "The model's numbers are not finite, so there is no answer. Use precision='fp32'; if "
            "it was used already, the weights are damaged: copy, download or train them again."
        )
    return tensor


def lacks_operation(error: Exception, device: torch.device) -> bool:
    """Whether an error says that MPS cannot do what the CPU could.

    An operation that is missing is a NotImplementedError; a dtype or layout that is not supported
    surfaces as a RuntimeError or TypeError that names MPS.
    """
    if device.type != "mps":
        return False
    if isinstance(error, NotImplementedError):
        return True
    message = str(error)
    named = isinstance(error, RuntimeError | TypeError) and "mps" in message.lower()
    return named and not any(sign in message for sign in _NO_MEMORY)


@contextlib.contextmanager
def memory_guard(device: torch.device, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Turn running out of memory into an error that says what to do, and let go of what it held.

    Parameters
    ----------
    device : torch.device
    dtype : torch.dtype
        What networks run in, which the advice depends on.

    Raises
    ------
    OutOfMemory
    """
    try:
        yield
    except MemoryError as error:
        # The calls that failed hold large arrays for as long as the error lives.
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemory(_advice("The computer", device, dtype)) from error
    except RuntimeError as error:
        if not (
            isinstance(error, torch.cuda.OutOfMemoryError)
            or any(sign in str(error) for sign in _NO_MEMORY)
        ):
            raise
        traceback.clear_frames(error.__traceback__)
        where = "The computer" if device.type == "cpu" else f"The {device.type} device"
        raise OutOfMemory(_advice(where, device, dtype)) from error


def _advice(where: str, device: torch.device, dtype: torch.dtype) -> str:
    """What ran out of memory, and the settings that need less."""
    ways = ["a smaller model (starter)", "a smaller input size (load_model(..., input_size=512))"]
    ways.append("a smaller cache (cache_bytes)")
    if device.type == "cuda" and dtype == torch.float32:
        ways.insert(0, "precision='bf16'")
    if device.type != "cpu":
        ways.append("device='cpu'")
    return f"{where} ran out of memory. Close other programs, or use {', '.join(ways)}."
