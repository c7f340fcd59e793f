"""The description of a bioimage.io model package, as plain values of its YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from napari_clipsam.exporting.facts import Facts

__all__ = ["FORMAT_VERSION", "SMALLEST", "describe"]

#: Not the newest: readers take all later ones of 0.5, and older readers take this one, too.
FORMAT_VERSION = "0.5.4"
#: Pixels a side of the smallest image.
SMALLEST = 32
_PAPER = {
    "text": "CLIP-Guided SAM: Parameter-Efficient Semantic Conditioning for Promptable "
    "Segmentation. arXiv:2605.24807 (2026)",
    "doi": "10.48550/arXiv.2605.24807",
}
_SAM = {
    "text": "Kirillov et al.: Segment Anything. arXiv:2304.02643 (2023)",
    "doi": "10.48550/arXiv.2304.02643",
}
_CLIP = {
    "text": "Radford et al.: Learning Transferable Visual Models From Natural Language "
    "Supervision. arXiv:2103.00020 (2021)",
    "doi": "10.48550/arXiv.2103.00020",
}
_TAGS = ("2d", "segmentation", "semantic-segmentation", "segment-anything", "clip", "napari")
# The similarity map is cut at a threshold inside the network, so rounding that differs between
# machines may move an outline by a pixel.
_TOLERANCE = {
    "relative_tolerance": 0.01,
    "absolute_tolerance": 0.005,
    "mismatched_elements_per_million": 1000,
}


def describe(
    facts: Facts, files: Mapping[str, bytes], tensors: tuple[str, str], weights: str
) -> dict[str, Any]:
    """Values of ``bioimageio.yaml``.

    Parameters
    ----------
    facts : Facts
    files : mapping of str to bytes
        All other files of the package.
    tensors : (str, str)
        Names of the test input and the test output among them.
    weights : str
        Name of the TorchScript file among them.
    """
    described: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "type": "model",
        "name": _plain(facts.title),
        "description": f"Marks all {facts.word} in a 2D image: a probability for each pixel. "
        "CLIP-Guided SAM with the word built in.",
        "authors": [{"name": name.replace("/", " ")} for name in facts.authors],
        "cite": [_PAPER, _SAM, _CLIP],
        "tags": [*_TAGS, facts.word],
        "documentation": "README.md",
        "covers": ["cover.png"],
        "inputs": [_tensor("image", _input_axes(), "uint8", tensors[0], files)],
        "outputs": [_tensor("probability", _output_axes(), "float32", tensors[1], files)],
        "weights": {
            "torchscript": {
                **_file(weights, files),
                "pytorch_version": torch.__version__.partition("+")[0],
            }
        },
        "config": {
            "bioimageio": {"reproducibility_tolerance": [_TOLERANCE]},
            "napari_clipsam": {"word": facts.word, **facts.made_of},
        },
    }
    if facts.licence is not None:
        described["license"] = facts.licence
    if facts.notices is not None:
        described["attachments"] = [_file("NOTICE.md", files)]
    return described


def _plain(title: str) -> str:
    """A title in the characters that names may have."""
    return re.sub(r"[^A-Za-z0-9 _+()-]", "-", title)[:128]


def _file(name: str, files: Mapping[str, bytes]) -> dict[str, str]:
    return {"source": name, "sha256": sha256(files[name]).hexdigest()}


def _tensor(
    name: str, axes: list[dict[str, Any]], kind: str, test: str, files: Mapping[str, bytes]
) -> dict[str, Any]:
    return {
        "id": name,
        "axes": axes,
        "test_tensor": _file(test, files),
        "data": {"type": kind, "range": [0, 255] if kind == "uint8" else [0.0, 1.0]},
    }


def _input_axes() -> list[dict[str, Any]]:
    return [
        {"type": "batch", "size": 1},
        {"type": "channel", "channel_names": ["red", "green", "blue"]},
        *({"type": "space", "id": side, "size": {"min": SMALLEST, "step": 1}} for side in "yx"),
    ]


def _output_axes() -> list[dict[str, Any]]:
    return [
        {"type": "batch", "size": 1},
        {"type": "channel", "channel_names": ["probability"]},
        *(
            {"type": "space", "id": side, "size": {"tensor_id": "image", "axis_id": side}}
            for side in "yx"
        ),
    ]
