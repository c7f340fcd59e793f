"""Networks of one run of `speed.py`, who else runs the same weights, and rates."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.floor import matrix_rates, operations
from benchmarks.measuring import Row, Setting, seconds
from benchmarks.networks import Networks, clicks, plane
from benchmarks.peers import NO_MICRO_SAM, MicroSam
from napari_clipsam.inference.devices import resolve_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from segment_anything import SamPredictor

    from napari_clipsam import Prompts, Segmenter
    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.inference.devices import Precision
    from napari_clipsam.models.compiling import Compilation
    from napari_clipsam.planes import Plane

__all__ = ["STOCK", "Bench", "median", "rate_text", "share"]

STOCK = "SamPredictor.set_image"
TERA = 1e12


@dataclass(frozen=True, eq=False)
class Bench:
    """Networks, and who else runs the same weights.

    Attributes
    ----------
    nets : Networks
    predictor : SamPredictor
        `segment_anything`'s own.
    micro_sam : MicroSam or None
    setting : Setting
    fast : str
        The precision that is compared with fp32.
    """

    nets: Networks
    predictor: SamPredictor
    micro_sam: MicroSam | None
    setting: Setting
    fast: Precision = "bf16"

    @property
    def side(self) -> int:
        """Of the planes, so that nobody has to resize."""
        return self.nets.sam.config.input_size

    @property
    def on_gpu(self) -> bool:
        """Whether the aims for GPUs apply."""
        return self.setting.device.type == "cuda"

    @property
    def fast_dtype(self) -> torch.dtype:
        """What `fast` is here."""
        return resolve_precision(self.fast, self.setting.device)

    @cached_property
    def rates(self) -> dict[torch.dtype, float]:
        """Multiply-adds a second of a large matrix product, by dtype."""
        dtypes = dict.fromkeys((torch.float32, torch.bfloat16, self.fast_dtype))
        return matrix_rates(self.setting, tuple(dtypes))

    def segmenter(
        self,
        adapter: Adapter | None,
        precision: Precision,
        compilation: Compilation = "none",
    ) -> Segmenter:
        """A fresh one, without anything cached."""
        return self.nets.segmenter(self.setting.device, adapter, precision, compilation)

    def race(
        self, variants: dict[str, Callable[[], object]], turns: int | None = None
    ) -> dict[str, list[float]]:
        """Let variants take turns."""
        return self.setting.race(variants, turns or self.setting.turns)

    def planes(self, start: int = 0) -> Iterator[Plane]:
        """Planes that nobody has seen."""
        return (plane(self.side, seed) for seed in itertools.count(start))

    def set_image(self, one: Plane) -> None:
        """Encode with the stock predictor."""
        with torch.inference_mode():
            self.predictor.set_image(one.rgb)

    def click(self, prompts: Prompts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Answer a click with the stock predictor."""
        xy, labels = prompts.points[:, ::-1].copy(), np.ones(1, int)
        with torch.inference_mode():
            return self.predictor.predict(xy, labels, multimask_output=True)

    def absent(self, name: str) -> list[Row]:
        """A line for micro-sam where it is not installed."""
        return [] if self.micro_sam else [Row(f"micro-sam: {name}", NO_MICRO_SAM)]

    def check_equal(self) -> None:
        """See that a click without word or adapter is answered as by the stock predictor."""
        one, prompt = plane(self.side, 0), clicks(self.side, 1)[0]
        self.set_image(one)
        _, quality, logits = self.click(prompt)
        segmenter = self.segmenter(None, "fp32")
        segmenter.set_plane(one)
        answer = segmenter.predict(prompt).objects[0].logits
        np.testing.assert_allclose(answer, logits[quality.argmax()], atol=1e-4)


def share(bench: Bench, name: str, spent: float, dtype: torch.dtype) -> Row:
    """How near to the matrix product an encoding comes."""
    rate = operations(bench.nets.sam.config).total / spent
    of = f"{str(dtype).removeprefix('torch.')} matrix product"
    least = 0.4 if bench.on_gpu and dtype == torch.bfloat16 else None
    return Row(f"rate: {name}", rate_text(rate), rate / bench.rates[dtype], of, least=least)


def rate_text(multiply_adds: float) -> str:
    """A rate as text, a multiply-add being two operations."""
    return f"{2 * multiply_adds / TERA:.3g} TFLOP/s"


def median(times: list[float]) -> str:
    """The time in the middle, as text."""
    return seconds(statistics.median(times))
