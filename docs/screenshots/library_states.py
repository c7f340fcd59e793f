"""States of the Library dock that have to be readable; `dock_states.py` makes pictures of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from napari_clipsam._plugin.library_state import Download, LibraryState, Naming, Offer, Row
from napari_clipsam._plugin.state import Hint, Progress

ROWS = (
    Row("sam:starter", "starter", "model", "in use", "20 MB", "BSD-3-Clause", "microscopy", ""),
    Row(
        "sam:vit_b",
        "vit_b",
        "model",
        "no",
        "375 MB",
        "Apache-2.0",
        "photographs (SA-1B)",
        "",
    ),
    Row(
        "sam:vit_b_lm",
        "vit_b_lm",
        "model",
        "coming",
        "375 MB",
        "CC-BY-4.0",
        "light microscopy: cells and nuclei (micro-sam)",
        "",
    ),
    Row(
        "sam:vit_l_em",
        "vit_l_em_organelles",
        "model",
        "begun",
        "1.2 GB",
        "CC-BY-4.0",
        "electron microscopy: mitochondria, nuclei and other organelles (micro-sam)",
        "",
    ),
    Row("clip:starter", "starter", "CLIP", "in use", "7 MB", "BSD-3-Clause", "microscopy", ""),
    Row(
        "clip:openai",
        "ViT-B-16:openai",
        "CLIP",
        "no",
        "351 MB",
        "MIT",
        "photographs with captions (OpenAI)",
        "",
    ),
    Row(
        "adapter:mito",
        "mitochondria (em.tif, 22 Nov)",
        "adapter",
        "yes",
        "2 MB",
        "",
        "mitochondria",
        "Dice 0.41 → 0.78",
    ),
    Row("adapter:blebs", "blebs", "adapter", "unusable", "2 MB", "", "blebs", "IoU 0.60"),
    Row("word:mito", "mitochondria", "word", "yes", "", "", "mitochondria (em.tif, 22 Nov)", ""),
)
MODEL = LibraryState(
    rows=ROWS,
    n_rows=len(ROWS),
    selected="sam:vit_b",
    details="\n".join(
        (
            "vit_b, model (SAM)",
            "made for: photographs (SA-1B)",
            "size: 375 MB",
            "licence: Apache-2.0",
            "architecture: vit_b",
            "checksum: sha256 01ec64..., as its publisher states it",
            "address: https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
            "file: not on this computer",
        )
    ),
    get=Offer(True, "Download vit_b (375 MB)"),
    use=Offer(False, "vit_b is not on this computer. Get it first."),
    show_file=Offer(False, "vit_b has no file on this computer."),
    delete=Offer(False, "vit_b is not on this computer."),
)
ADAPTER = replace(
    MODEL,
    selected="adapter:mito",
    details="\n".join(
        (
            "mitochondria (em.tif, 22 Nov), adapter",
            "made for: mitochondria",
            "score: Dice 0.41 → 0.78: overlap with labels that it never learnt from (slice 12), "
            "before and after it was taught; 1 is perfect",
            "size: 2 MB",
            "belongs to model: starter (8c5e6f677de46110a115252231ea438f)",
            "and CLIP: starter (c10243896ff726bfba3e2fab960a5038)",
            "image: em.tif",
            "slices: 3, 7, 12",
        )
    ),
    get=Offer(False, "It is on this computer already."),
    use=Offer(True, "Let it answer in the Segment dock"),
    show_file=Offer(True, "Open the folder that holds it"),
    delete=Offer(True, "Delete it from this computer; asks first"),
)

STATES: dict[str, LibraryState] = {
    "model": MODEL,
    "adapter": ADAPTER,
    "coming": replace(
        MODEL,
        downloads=(
            Download("sam:vit_b_lm", Progress("vit_b_lm: 120 of 375 MB, 1 min left", 320, 1000)),
            Download("clip:openai", Progress("ViT-B-16:openai: checking it", 1000, 1000)),
        ),
    ),
    "delete": replace(
        ADAPTER,
        hint=Hint(
            "Delete adapter mitochondria (em.tif, 22 Nov) (2 MB) from this computer? It cannot be "
            "brought back.",
            (("delete", "Delete it"), ("keep", "Keep it")),
        ),
    ),
    "naming": replace(MODEL, naming=Naming(Path("sam_cells.pth"), "sam_cells")),
    "refused": replace(
        MODEL,
        hint=Hint(
            "cat.jpg is not a weights file: it is neither safetensors nor what torch.save writes. "
            "Choose a .safetensors, .pth or .pt file, or download it again. Expected is a SAM as "
            "Meta, MedSAM or micro-sam publish it (.pth, .safetensors), or an adapter that "
            "teaching wrote (.safetensors).",
            is_error=True,
        ),
    ),
    "nothing": replace(MODEL, rows=(), wanted="vacuole", selected="", details=""),
}
