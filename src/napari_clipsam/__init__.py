"""CLIP-Guided SAM for microscopy: segment by word, click and example.

The public names are loaded when first used, so that importing the package costs next to nothing
and brings in neither torch nor Qt.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_clipsam.errors import ClipSamError
    from napari_clipsam.inference.requests import Prediction, PredictRequest
    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.planes import Plane, open_image
    from napari_clipsam.prompts import Prompts

    __version__: str

__all__ = [
    "ClipSamError",
    "Plane",
    "PredictRequest",
    "Prediction",
    "Prompts",
    "Segmenter",
    "__version__",
    "open_image",
]

_HOMES = {
    "ClipSamError": "errors",
    "Plane": "planes",
    "PredictRequest": "inference.requests",
    "Prediction": "inference.requests",
    "Prompts": "prompts",
    "Segmenter": "inference.segmenter",
    "open_image": "planes",
}


def __getattr__(name: str) -> object:
    value: object
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name == "__version__":
        value = import_module("importlib.metadata").version("napari-clipsam")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
