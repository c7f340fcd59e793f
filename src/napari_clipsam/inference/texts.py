"""Text features on disk, so that a later session need not run CLIP's language tower for them.

What all words share is made of 85 texts: seconds on a CPU, for a CLIP of the common size. Words are
not written down: an entry is named by a hash of its word.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from napari_clipsam._folders import user_folder
from napari_clipsam.errors import OutputError
from napari_clipsam.models.clip import Clip
from napari_clipsam.outputs import replacing

if TYPE_CHECKING:
    from torch import Tensor

    from napari_clipsam.models.weights import ClipFile

__all__ = ["TextFile", "texts_folder"]

# Of one CLIP: half a megabyte of words that are 512 numbers wide.
_MOST = 256
# What all words share; hashes of words are longer.
_SHARED = "shared"


def texts_folder() -> Path:
    """Folder of the user's text features; it may not exist yet."""
    return user_folder() / "texts"


class TextFile:
    """Text features of one CLIP, in one small file.

    Any number of processes may use it: it is replaced as a whole, and what another one added at the
    same moment is only made again. So is what cannot be read; what cannot be written is not kept.

    Parameters
    ----------
    language : Clip or ClipFile
        Weights, tokenizer and synonyms name the file, so that no feature of another is found.
    device : torch.device
        What it runs on; its rounding differs from that of others.
    folder : Path
    """

    def __init__(self, language: Clip | ClipFile, device: torch.device, folder: Path) -> None:
        self._language, self._device, self._folder = language, device, folder

    def get(self, word: str | None) -> Tensor | None:
        """Feature (D,) of a word, or of what all share for None; None where there is none."""
        found = self._read().get(_name(word))
        return None if found is None else found.to(self._device)

    def put(self, word: str | None, feature: Tensor) -> None:
        """Keep a feature; a full file begins anew."""
        if self._path is None:
            return
        kept = self._read()
        if len(kept) >= _MOST:
            kept = {name: value for name, value in kept.items() if name == _SHARED}
        kept[_name(word)] = feature.detach().float().cpu().contiguous()
        with contextlib.suppress(OSError, OutputError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._path, overwrite=True) as part:
                part.write_bytes(save(kept))

    @cached_property
    def _path(self) -> Path | None:
        """None for a CLIP whose tokenizer is its own, of which nothing is known."""
        language = self._language
        if isinstance(language, Clip) and language.own_tokenizer:
            return None
        config = language.config
        about = json.dumps(
            [
                language.identity,
                self._device.type,
                # Its tokenizer, and the texts of what all words share.
                version("open_clip_torch"),
                config.architecture,
                config.bpe_ids,
                config.synonyms,
            ],
            sort_keys=True,
            default=dict,
        )
        return self._folder / f"{_hash(about)}.safetensors"

    def _read(self) -> dict[str, Tensor]:
        if self._path is None:
            return {}
        try:
            found = load_file(self._path)
        except (OSError, SafetensorError, ValueError):
            return {}
        shape = (self._language.dim,)
        return {
            name: value
            for name, value in found.items()
            if value.shape == shape and value.dtype == torch.float32 and value.isfinite().all()
        }


def _name(word: str | None) -> str:
    return _SHARED if word is None else _hash(word)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()
