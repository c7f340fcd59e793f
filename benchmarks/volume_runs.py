"""Ways to take a stack through a network, each run in a process of its own by `volume.py`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch

from benchmarks.measuring import CLOCKS, peak_memory
from benchmarks.networks import WORD, pixels
from benchmarks.peers import MicroSam
from napari_clipsam import Prompts, Segmenter, open_image
from napari_clipsam.inference.devices import choose_device, synchronize
from napari_clipsam.inference.propagation import PropagationSettings
from napari_clipsam.inference.volume import VolumeTask, segment_volume
from napari_clipsam.inference.volume_objects import ObjectTask, segment_objects
from napari_clipsam.models.registry import load_model
from napari_clipsam.models.weights import load_sam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from napari_clipsam.inference.volume_results import VolumeProgress
    from napari_clipsam.planes import Stack

__all__ = ["WAYS", "Job", "lazy_stack", "run", "write_stack"]

# Of a stack only a few planes are in memory.
_CACHE = 1 << 28
# Nothing ends, so that every slice is answered, as in micro-sam without a threshold.
_ENDLESS = PropagationSettings(0.0, 0.0, 0.0)
# Planes made on the fly repeat after so many.
_DIFFERENT = 16


@dataclass(frozen=True)
class Job:
    """What a process is asked to do; as JSON on its command line.

    Attributes
    ----------
    way : str
        One of `WAYS`.
    folder : str
        Where the networks and the stack are, see `Networks.write` and `write_stack`; where results
        go. Without networks there the starter is used.
    planes, side : int
        Of the stack.
    device, precision, clock : str
    arch : str
        For micro-sam.
    reports : int
        How often memory is told along the way.
    """

    way: str
    folder: str
    planes: int
    side: int
    device: str = "cpu"
    precision: str = "auto"
    clock: str = "wall"
    arch: str = "vit_b"
    reports: int = 0

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder)

    @property
    def stack(self) -> Path:
        """The stack."""
        return self.path / f"stack_{self.planes}_{self.side}.tif"

    @property
    def middle(self) -> tuple[float, float]:
        """Where everybody clicks, y and x."""
        return self.side / 2, self.side / 2


def write_stack(job: Job) -> None:
    """Write the planes of a job, if they are not there."""
    if not job.stack.is_file():
        planes = np.stack([pixels(job.side, seed) for seed in range(job.planes)])
        tifffile.imwrite(job.stack, planes, photometric="minisblack", metadata={"axes": "ZYX"})


def lazy_stack(planes: int, side: int) -> Stack:
    """A stack whose planes are made when they are read; nothing is on disk."""
    import dask.array as da

    def block(block_info: Any = None) -> np.ndarray:
        number = block_info[None]["chunk-location"][0]
        return pixels(side, number % _DIFFERENT)[None]

    chunks = ((1,) * planes, side, side)
    return open_image(da.map_blocks(block, dtype=np.uint8, chunks=chunks), axes="ZYX")


def run(job: Job) -> dict[str, Any]:
    """Seconds of the work itself, without loading, and the most memory the process had.

    Returns
    -------
    dict
        ``seconds``, ``loaded`` and ``peak`` (MB, before the work and at the end), ``memory`` (pairs
        of planes done and MB so far).
    """
    work = WAYS[job.way](job)
    device = choose_device(job.device)
    clock, loaded, memory = CLOCKS[job.clock], peak_memory(device), []
    begun = clock()
    every = max(1, job.planes // job.reports) if job.reports else job.planes + 1
    for done, _ in enumerate(work, start=1):
        if done % every == 0:
            memory.append((done, peak_memory(device)))
    synchronize(device)
    spent = clock() - begun
    return {
        "seconds": spent,
        "loaded": loaded,
        "peak": peak_memory(device),
        "memory": memory,
    }


def _loop(job: Job) -> Iterable[object]:
    """Encode a plane, click into it, keep the mask; and the next one."""
    from segment_anything import SamPredictor
    from segment_anything.modeling import Sam as StockSam

    sam = load_sam(job.path / "sam.safetensors").requires_grad_(False)
    stock = StockSam(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder)
    predictor = SamPredictor(stock.to(choose_device(job.device)).eval())
    point = np.array([job.middle[::-1]])

    def answers() -> Iterable[object]:
        with (
            tifffile.TiffFile(job.stack) as image,
            tifffile.TiffWriter(job.path / f"{job.way}.tif") as out,
            torch.inference_mode(),
        ):
            for page in image.pages:
                predictor.set_image(np.repeat(page.asarray()[..., None], 3, axis=2))
                masks, _, _ = predictor.predict(point, np.ones(1, int), multimask_output=True)
                out.write(masks[0].astype(np.uint8), contiguous=True)
                yield None

    return answers()


def _clicked(job: Job) -> Iterable[object]:
    """The same by this project's engine."""
    click = Prompts(points=[job.middle])
    task = ObjectTask(open_image(job.stack), (dict.fromkeys(range(job.planes), click),))
    return segment_objects(_segmenter(job, None), task, _out(job), overwrite=True)


def _followed(job: Job) -> Iterable[object]:
    """One click, followed through the stack by this project."""
    click = {job.planes // 2: Prompts(points=[job.middle])}
    task = ObjectTask(open_image(job.stack), (click,), None, True, _ENDLESS)
    return segment_objects(_segmenter(job, None), task, _out(job), overwrite=True)


def _word(job: Job) -> Iterable[VolumeProgress]:
    """A word in every plane by this project's engine."""
    task = VolumeTask(open_image(job.stack), (WORD,))
    return segment_volume(_segmenter(job), task, {WORD: _out(job)}, overwrite=True)


def _on_the_fly(job: Job) -> Iterable[VolumeProgress]:
    """A word in planes that are made when they are read, every object of it."""
    task = VolumeTask(lazy_stack(job.planes, job.side), (WORD,), "instances")
    return segment_volume(_segmenter(job), task, {WORD: _out(job)}, overwrite=True)


def _micro_sam(job: Job) -> Iterable[object]:
    """micro-sam: embeddings of the stack, kept on disk, and one object followed through it."""
    device = choose_device(job.device)
    peer = MicroSam(job.path / "sam.pth", job.arch, device)
    stack = tifffile.imread(job.stack)
    y, x = (int(value) for value in job.middle)
    seed = np.zeros(stack.shape, np.uint8)
    seed[job.planes // 2, y - job.side // 8 : y + job.side // 8, x - job.side // 8 : x] = 1

    def answers() -> Iterable[object]:
        batch = 8 if device.type == "cuda" else 1
        kept = job.path / f"embeddings_{time.time_ns()}.zarr"
        yield peer.follow(peer.embed(stack, batch, kept), seed)

    return answers()


WAYS: dict[str, Callable[[Job], Iterable[object]]] = {
    "loop": _loop,
    "clicks": _clicked,
    "follow": _followed,
    "word": _word,
    "on the fly": _on_the_fly,
    "micro-sam": _micro_sam,
}


def _segmenter(job: Job, adapter: Any = "default") -> Segmenter:
    """Over the networks of the job's folder, or the starter."""
    sam = job.path / "sam.safetensors"
    model = load_model(
        *((str(sam), str(job.path / "clip.safetensors")) if sam.is_file() else ("starter",))
    )
    if adapter is not None and sam.is_file():
        adapter = job.path / "adapter.safetensors"
    return Segmenter(model, adapter, job.device, job.precision, cache_bytes=_CACHE)  # type: ignore[arg-type]


def _out(job: Job) -> Path:
    return job.path / f"{job.way.replace(' ', '_')}_{job.planes}_{job.side}.zarr"


def from_json(text: str) -> Job:
    """A job as it stands on a command line."""
    return Job(**json.loads(text))
