"""micro-sam on the same weights, where it is installed."""

from __future__ import annotations

import importlib.metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["NO_MICRO_SAM", "MicroSam"]

NO_MICRO_SAM = "micro-sam is not installed here"
_BATCH = 32


class MicroSam:
    """micro-sam's own functions over a checkpoint of random weights.

    Parameters
    ----------
    checkpoint : Path
        As `segment_anything` stores them.
    arch : str
    device : torch.device
    """

    def __init__(self, checkpoint: Path, arch: str, device: torch.device) -> None:
        from micro_sam import inference, multi_dimensional_segmentation, util

        self._util, self._inference = util, inference
        self._volumes = multi_dimensional_segmentation
        self._predictor: Any = util.get_sam_model(
            model_type=arch, checkpoint_path=str(checkpoint), device=str(device)
        )

    @staticmethod
    def is_there() -> bool:
        """Whether it can be imported here."""
        return find_spec("micro_sam") is not None

    @staticmethod
    def version() -> str:
        """Name and version for people."""
        return f"micro-sam {importlib.metadata.version('micro-sam')}"

    @torch.no_grad()
    def embed(
        self, image: NDArray[np.uint8], batch: int = 1, save_path: Path | None = None
    ) -> dict[str, Any]:
        """Embeddings of a plane (Y, X) or a stack (Z, Y, X)."""
        return self._util.precompute_image_embeddings(
            self._predictor,
            image,
            save_path=None if save_path is None else str(save_path),
            lazy_loading=save_path is not None,
            ndim=image.ndim,
            verbose=False,
            batch_size=batch,
        )

    @torch.no_grad()
    def boxes(self, embeddings: dict[str, Any], boxes: NDArray[np.float64]) -> list[Any]:
        """One mask for each box of y0, x0, y1, x1."""
        self._util.set_precomputed(self._predictor, embeddings)
        return self._inference.batched_inference(
            self._predictor,
            None,
            _BATCH,
            boxes=boxes[:, [1, 0, 3, 2]],
            return_instance_segmentation=False,
        )

    @torch.no_grad()
    def follow(self, embeddings: dict[str, Any], seed: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An object that is marked in one slice of `seed`, carried to the ends of the stack."""
        marked = np.flatnonzero(seed.any(axis=(1, 2)))
        found, _ = self._volumes.segment_mask_in_volume(
            *(seed, self._predictor, embeddings, marked),
            stop_lower=False,
            stop_upper=False,
            iou_threshold=0.0,
            projection="mask",
        )
        return found
