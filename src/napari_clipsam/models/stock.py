"""The networks of `segment_anything`, without the second its predictor takes to be imported.

Importing any part of that package runs all of it, torchvision's models and torch's compiler
included, and none of these is needed for an answer. So only the networks are run here; the package
does the rest by itself once somebody asks it for more.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from typing import Any

__all__ = [
    "ImageEncoderViT",
    "MaskDecoder",
    "PromptEncoder",
    "TwoWayTransformer",
    "get_rel_pos",
]

_PACKAGE = "segment_anything"


def _postpone(name: str) -> None:
    """Make a package known whose own code runs when something is asked of it first."""
    spec = find_spec(name)
    if name in sys.modules or spec is None or spec.loader is None:
        return
    loader, package = spec.loader, module_from_spec(spec)

    def run(asked: str) -> Any:
        if asked.startswith("__"):
            raise AttributeError(asked)
        vars(package).pop("__getattr__", None)
        loader.exec_module(package)
        return getattr(package, asked)

    package.__getattr__ = run  # type: ignore[method-assign]
    sys.modules[name] = package


_postpone(_PACKAGE)

from segment_anything.modeling import (  # noqa: E402
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)
from segment_anything.modeling.image_encoder import get_rel_pos  # noqa: E402
