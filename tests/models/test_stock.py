"""The networks of `segment_anything` without its predictor, which comes once it is asked for."""

from __future__ import annotations

import subprocess
import sys

QUICK = """
import sys
from napari_clipsam import Plane, Prompts, Segmenter
import numpy as np

segmenter = Segmenter(device="cpu")
segmenter.set_plane(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
assert segmenter.predict(Prompts(points=[(30, 30)])).objects
slow = {"open_clip", "timm", "torchvision", "torch._dynamo"} & set(sys.modules)
assert not slow, slow
segmenter.predict(Prompts("nuclei"))
assert "open_clip" in sys.modules
"""

WHOLE = """
import sys
from napari_clipsam.models.sam import Sam
import segment_anything

assert "torchvision" not in sys.modules
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import ImageEncoderViT
from napari_clipsam.models import stock

assert segment_anything.SamPredictor is SamPredictor
assert ImageEncoderViT is stock.ImageEncoderViT is segment_anything.modeling.ImageEncoderViT
try:
    segment_anything.nothing_of_this_name
except AttributeError:
    pass
else:
    raise AssertionError
"""


def run(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_click_imports_nothing_that_it_does_not_need() -> None:
    run(QUICK)


def test_the_rest_of_the_package_is_there_once_it_is_asked_for() -> None:
    run(WHOLE)
