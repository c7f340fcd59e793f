"""Importing torch late, in a process that draws with OpenGL already."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["avoid_llvm_clash"]

_MAPPED = Path("/proc/self/maps")


def avoid_llvm_clash() -> None:
    """Keep triton out where Mesa's OpenGL driver is loaded; call before torch is imported.

    Both bring an LLVM of their own, and on Linux the second one to be loaded crashes the process.
    torchvision imports triton by the way; nothing here needs it, and torch does without.
    """
    if "triton" in sys.modules or not _MAPPED.is_file():
        return
    if "libLLVM" in _MAPPED.read_text(errors="replace"):
        sys.modules["triton"] = None  # type: ignore[assignment]
