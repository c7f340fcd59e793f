"""The models that are known by name: where they come from, for which images, on what terms.

A checksum stands here only where the publisher states one: Meta in the file's name, micro-sam in
its registry, Zenodo on the record's page, OpenAI in the address, LAION in the file's name. Sizes
are those of the architecture's weights, so they are right to about one percent.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from napari_clipsam.models.checksum import Checksum

__all__ = ["CLIPS", "SAMS", "ModelEntry", "clip_entry"]

_META = "https://dl.fbaipublicfiles.com/segment_anything"
_MICRO_SAM = "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io"
_PATHO_SAM = "https://owncloud.gwdg.de/index.php/s"
_OPENAI = "https://openaipublic.azureedge.net/clip/models"
_LAION = "https://github.com/mlfoundations/open_clip/releases/download/v0.2-weights"
_HUB = "https://huggingface.co"
_IN_ADDRESS = re.compile(
    rf"{_OPENAI}/(?P<whole>[0-9a-f]{{64}})/"
    r"|https://github\.com/mlfoundations/.*-(?P<start>[0-9a-f]{8})\.\w+$"
)
#: Names that open_clip's files have on the hub, the preferred one first.
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
#: 10^6 bytes of a SAM's weights in float32.
_SAM_MB = {"vit_b": 375, "vit_l": 1250, "vit_h": 2564}


@dataclass(frozen=True)
class ModelEntry:
    """A SAM or a CLIP that is known by name.

    Attributes
    ----------
    name : str
        Of a CLIP ``ARCH:TAG``, as `load_model` takes it.
    architecture : str
        ``starter``, ``vit_b``, ``vit_l``, ``vit_h`` or ``custom``; of a CLIP open_clip's name.
    source : str or None
        Address it is downloaded from.
    checksum : Checksum or None
        What its file has to hash to, where that is known.
    size_mb : float or None
        Size of the file, 10^6 bytes; about, as long as it is not installed.
    domain : str
        Images it was trained on.
    licence : str
    file : Path or None
        Where it is on this machine.
    kind : str
        ``sam`` or ``clip``.
    other_sources : tuple of str
        Addresses of the same weights in other files, tried in turn where one before is not there.
    sha256 : str or None
        Of the file on this machine, where it was installed.
    """

    name: str
    architecture: str
    source: str | None = None
    checksum: Checksum | None = None
    size_mb: float | None = None
    domain: str = "unknown"
    licence: str = "unknown"
    file: Path | None = None
    kind: Literal["sam", "clip"] = "sam"
    other_sources: tuple[str, ...] = ()
    sha256: str | None = None

    @property
    def installed(self) -> bool:
        """Whether the file is there."""
        return self.file is not None and self.file.is_file()

    @property
    def sources(self) -> tuple[str, ...]:
        """All addresses, in the order they are tried; of the hub, at the mirror HF_ENDPOINT."""
        given = (*([self.source] if self.source else []), *self.other_sources)
        mirror = os.environ.get("HF_ENDPOINT", "").rstrip("/")
        if not mirror:
            return given
        return tuple(
            mirror + address.removeprefix(_HUB) if address.startswith(f"{_HUB}/") else address
            for address in given
        )


def _sam(
    name: str, source: str, checksum: Checksum, domain: str, licence: str, architecture: str
) -> ModelEntry:
    return ModelEntry(
        name=name,
        architecture=architecture,
        source=source,
        checksum=checksum,
        size_mb=_SAM_MB[architecture],
        domain=domain,
        licence=licence,
    )


def _meta(name: str, checksum: str) -> ModelEntry:
    source = f"{_META}/sam_{name}_{checksum}.pth"
    stated = Checksum("sha256", checksum)
    return _sam(name, source, stated, "photographs (SA-1B)", "Apache-2.0", name)


def _micro_sam(name: str, source: str, checksum: str, domain: str) -> ModelEntry:
    return _sam(name, source, Checksum("xxh128", checksum), domain, "CC-BY-4.0", name[:5])


_LIGHT = "light microscopy: cells and nuclei (micro-sam)"
_ELECTRON = "electron microscopy: mitochondria, nuclei and other organelles (micro-sam)"
_TISSUE = "histopathology, H&E: nuclei and glands (micro-sam)"

#: The SAMs, the starter first.
SAMS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry("starter", "starter", domain="microscopy", licence="BSD-3-Clause"),
        _meta("vit_b", "01ec64"),
        _meta("vit_l", "0b3195"),
        _meta("vit_h", "4b8939"),
        _micro_sam(
            "vit_b_lm",
            f"{_MICRO_SAM}/diplomatic-bug/1.2/files/vit_b.pt",
            "fe9252a29f3f4ea53c15a06de471e186",
            _LIGHT,
        ),
        _micro_sam(
            "vit_l_lm",
            f"{_MICRO_SAM}/idealistic-rat/1.2/files/vit_l.pt",
            "017f20677997d628426dec80a8018f9d",
            _LIGHT,
        ),
        _micro_sam(
            "vit_b_em_organelles",
            f"{_MICRO_SAM}/noisy-ox/1.2/files/vit_b.pt",
            "f3bf2ed83d691456bae2c3f9a05fb438",
            _ELECTRON,
        ),
        _micro_sam(
            "vit_l_em_organelles",
            f"{_MICRO_SAM}/humorous-crab/1.2/files/vit_l.pt",
            "810b084b6e51acdbf760a993d8619f2d",
            _ELECTRON,
        ),
        _micro_sam(
            "vit_b_histopathology",
            f"{_PATHO_SAM}/sBB4H8CTmIoBZsQ/download",
            "ffd1a2cd84570458b257bd95fdd8f974",
            _TISSUE,
        ),
        _micro_sam(
            "vit_l_histopathology",
            f"{_PATHO_SAM}/IZgnn1cpBq2PHod/download",
            "b591833c89754271023e901281dee3f2",
            _TISSUE,
        ),
        _micro_sam(
            "vit_h_histopathology",
            f"{_PATHO_SAM}/L7AcvVz7DoWJ2RZ/download",
            "bd1856dafc156a43fb3aa705f1a6e92e",
            _TISSUE,
        ),
        _sam(
            "medsam",
            "https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
            Checksum("md5", "3bb6db55bd0c9ca30b61248bca72f8d6"),
            "medical images: CT, MRI, X-ray, ultrasound, pathology (MedSAM)",
            "Apache-2.0",
            "vit_b",
        ),
    )
}


def _clip(
    name: str, sources: tuple[str, ...], checksum: Checksum | None, size_mb: float, images: str
) -> ModelEntry:
    return ModelEntry(
        name=name,
        architecture=name.partition(":")[0],
        source=sources[0],
        checksum=checksum,
        size_mb=size_mb,
        domain=f"photographs with captions ({images})",
        licence="MIT",
        kind="clip",
        other_sources=sources[1:],
    )


def _openai(architecture: str, sha256: str, size_mb: float) -> ModelEntry:
    source = f"{_OPENAI}/{sha256}/{architecture}.pt"
    checksum = Checksum("sha256", sha256)
    return _clip(f"{architecture}:openai", (source,), checksum, size_mb, "OpenAI")


def _laion_400m(architecture: str, checksum: str, size_mb: float) -> ModelEntry:
    file = f"{architecture.lower().replace('-', '_')}-laion400m_e32-{checksum}.pt"
    name, stated = f"{architecture}:laion400m_e32", Checksum("sha256", checksum)
    return _clip(name, (f"{_LAION}/{file}",), stated, size_mb, "LAION-400M")


def _laion_2b(architecture: str, tag: str, repository: str, size_mb: float) -> ModelEntry:
    return _clip(f"{architecture}:{tag}", _on_hub(repository), None, size_mb, "LAION-2B")


def _on_hub(place: str) -> tuple[str, ...]:
    """Addresses of ``OWNER/NAME/FILE`` on the hub; FILE may be empty."""
    owner, name, file = place.split("/", 2)
    return tuple(
        f"{_HUB}/{owner}/{name}/resolve/main/{f}" for f in ([file] if file else _HUB_FILES)
    )


#: Some CLIPs that fit, the starter's first; any other of open_clip goes by `clip_entry`.
CLIPS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry("starter", "starter", domain="microscopy", licence="BSD-3-Clause", kind="clip"),
        _openai(
            "ViT-B-16", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f", 351
        ),
        _laion_400m("ViT-B-16", "55e67d44", 599),
        _laion_2b("ViT-B-16", "laion2b_s34b_b88k", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K/", 599),
        _openai(
            "ViT-L-14", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836", 933
        ),
        _laion_400m("ViT-L-14", "3d133497", 1711),
        _laion_2b("ViT-L-14", "laion2b_s32b_b82k", "laion/CLIP-ViT-L-14-laion2B-s32B-b82K/", 1711),
    )
}


def clip_entry(name: str) -> ModelEntry:
    """A CLIP by ``ARCH:TAG``, out of `CLIPS` or of open_clip's own list.

    Raises
    ------
    WeightsError
        open_clip does not know the architecture or the tag.
    """
    if name in CLIPS:
        return CLIPS[name]
    from napari_clipsam.models.pretrained import check_tag

    architecture, _, tag = name.partition(":")
    source = check_tag(architecture, tag)
    checksum = _stated_in(source.get("url") or "")
    if checksum is not None or not source.get("hf_hub"):
        addresses: tuple[str, ...] = (source["url"],)
    else:
        addresses = _on_hub(source["hf_hub"])
    return ModelEntry(
        name=name,
        architecture=architecture,
        source=addresses[0],
        checksum=checksum,
        domain="see its publisher's page",
        licence="see its publisher's page",
        kind="clip",
        other_sources=addresses[1:],
    )


def _stated_in(url: str) -> Checksum | None:
    """The SHA-256 that an address holds, by the habits of OpenAI and of open_clip's own files."""
    found = _IN_ADDRESS.match(url)
    return Checksum("sha256", found["whole"] or found["start"]) if found else None
