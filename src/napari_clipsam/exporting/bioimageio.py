"""An adapted model as a package of bioimage.io, the model zoo other programs read."""

from __future__ import annotations

import io
import warnings
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_clipsam.errors import (
    AdapterError,
    ClipSamError,
    ConfigError,
    OutputError,
    PlaneError,
    WordError,
)
from napari_clipsam.exporting.card import cover, write_card
from napari_clipsam.exporting.description import SMALLEST, describe
from napari_clipsam.exporting.facts import gather
from napari_clipsam.exporting.network import ConceptNetwork, file_of
from napari_clipsam.inference.frames import is_large
from napari_clipsam.inference.masks import full_logits
from napari_clipsam.outputs import check_output, replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.planes import Plane

__all__ = ["check_before", "check_package", "export_bioimageio"]

_WEIGHTS, _TENSORS = "weights.torchscript.pt", ("test_input.npy", "test_output.npy")
#: Share of the example's pixels that another order of sums may decide otherwise.
_ALLOWED = 1e-4


def export_bioimageio(
    segmenter: Segmenter,
    word: str,
    example: Plane,
    path: str | Path,
    authors: tuple[str, ...] = (),
    licence: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write what an adapter knows of one word as a model that other programs run.

    The package holds the network as TorchScript, an example with its answer, a card and a cover. It
    is checked before it is kept: the network as loaded from it has to mark what the Segmenter
    marks, and bioimage.io's own library has to accept it.

    Parameters
    ----------
    segmenter : Segmenter
        On the CPU in float32, with the adapter.
    word : str
    example : Plane
        Shows what the word names; it becomes part of the package.
    path : str or Path
        Ends in ``.zip``.
    authors : tuple of str
        As for `facts.gather`.
    licence : str, optional
        SPDX identifier, e.g. ``CC-BY-4.0``; as for `facts.gather`.
    overwrite : bool
        Whether an existing file may be replaced.

    Returns
    -------
    Path

    Raises
    ------
    ConfigError
        bioimage.io's library is not installed, or it does not accept the package.
    AdapterError
        There is no adapter.
    WordError
        The model has not learnt the word.
    PlaneError
        The example is too small or too large for the network, or nothing is found in it.
    OutputError
        As for `replacing`, or the name does not end in ``.zip``.
    ClipSamError
        The exported network marks something else.
    """
    path = check_before(path, overwrite)
    if segmenter.adapter is None:
        raise AdapterError(
            "There is no adapter to export. Choose one of `napari-clipsam adapters list`, or teach "
            "one first."
        )
    word = " ".join(word.lower().split())
    expected = _answer(segmenter, word, example)
    facts = gather(segmenter, word, authors, licence)
    network = file_of(ConceptNetwork(segmenter.model, segmenter.adapter, word))
    image = np.ascontiguousarray(example.rgb.transpose(2, 0, 1)[None])
    probability = _run(network, image)
    _compare(probability[0, 0] > 0.5, expected)
    files = {
        "README.md": write_card(facts).encode(),
        "cover.png": cover(example.rgb, expected),
        _TENSORS[0]: _npy(image),
        _TENSORS[1]: _npy(probability),
        _WEIGHTS: network,
    }
    if facts.notices is not None:
        files["NOTICE.md"] = facts.notices.encode()
    files["bioimageio.yaml"] = _yaml(describe(facts, files, _TENSORS, _WEIGHTS))
    with replacing(path, overwrite) as part:
        _zip(part, files)
        check_package(part)
    return path


def check_before(path: str | Path, overwrite: bool = False) -> Path:
    """Refuse what needs no model to be refused.

    Raises
    ------
    OutputError, ConfigError
        As for `export_bioimageio`.
    """
    path = Path(path)
    if path.suffix != ".zip":
        raise OutputError(f"{path} is not the name of a package. Let it end in .zip.")
    if find_spec("bioimageio") is None or find_spec("bioimageio.spec") is None:
        raise ConfigError(
            "bioimage.io's library is not installed. Run `pip install bioimageio.spec`, or install "
            "napari-clipsam[bioimageio]."
        )
    return check_output(path, overwrite)


def check_package(path: Path) -> None:
    """Let bioimage.io's own library read a package and compare it with its rules.

    Raises
    ------
    ConfigError
        It does not accept the package.
    """
    from bioimageio.spec import InvalidDescr, load_description

    # Given the path, the library would keep the file open, which then cannot be moved on Windows.
    with zipfile.ZipFile(path) as archive:
        description = load_description(archive, perform_io_checks=True)
    if isinstance(description, InvalidDescr):
        errors = "; ".join(
            f"{'.'.join(map(str, error.loc))}: {error.msg}"
            for detail in description.validation_summary.details
            for error in detail.errors
        )
        raise ConfigError(
            f"bioimage.io's library does not accept the package ({errors}). Choose another word, "
            "author or licence."
        )


def _answer(segmenter: Segmenter, word: str, example: Plane) -> NDArray[np.bool_]:
    """What the Segmenter's decoder marks in the example; refuses one that would show none."""
    unknown = segmenter.unknown_words(word)
    if unknown:
        raise WordError(
            f"The model has not learnt '{', '.join(unknown)}'. Use a known word, or teach it first."
        )
    size = segmenter.model.sam.config.input_size
    if is_large(example.shape, size) or min(example.shape) < SMALLEST:
        raise PlaneError(
            f"The example image has {example.shape[0]} x {example.shape[1]} pixels. Cut out a part "
            f"of {SMALLEST} to {2 * size} pixels a side."
        )
    # The package's network looks once, and redraws nothing.
    found = segmenter.first_look(example, word)
    if not found.match:
        raise PlaneError(
            f"The example image shows nothing of '{word}'. {found.note} Give an image that does, "
            "so that others see what the model is for."
        )
    low, frame = found.objects[0].logits, found.objects[0].frame
    # A plane that is not large is seen whole.
    assert low is not None and frame is not None
    return (full_logits(torch.from_numpy(low)[None], frame)[0] > 0).numpy()


def _run(network: bytes, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the network gives when loaded as others load it."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)
        module: Any = torch.jit.load(io.BytesIO(network), map_location="cpu")
        result: NDArray[np.float32] = module(torch.from_numpy(image)).numpy()
    return result


def _compare(found: NDArray[np.bool_], expected: NDArray[np.bool_]) -> None:
    """Refuse a network that answers otherwise than the Segmenter."""
    different = int((found != expected).sum())
    if different > _ALLOWED * expected.size:
        raise ClipSamError(
            f"The exported network marks {different:,} of {expected.size:,} pixels otherwise, so "
            "it was not kept. Please report this with the adapter's kind and base model."
        )


def _npy(array: NDArray[Any]) -> bytes:
    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    return data.getvalue()


def _yaml(values: dict[str, Any]) -> bytes:
    import yaml

    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    return text.encode()


def _zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            # Without a time of its own, so that the same model gives the same file.
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
