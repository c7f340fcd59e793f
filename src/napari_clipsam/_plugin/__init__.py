"""What napari sees of this package; Qt itself stays in ``_qt``."""

from __future__ import annotations

__all__: list[str] = []
