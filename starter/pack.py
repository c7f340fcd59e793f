"""Repack the training sets into three files: python -m starter.pack --data DATA --out FOLDER."""

from __future__ import annotations

import argparse
import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from starter.data import (
    TRAINING_SETS,
    Row,
    Sample,
    contiguous,
    folder_reader,
    load_split,
    read_index,
)

__all__ = ["load_packed", "main", "pack"]


def _smaller(name: str, raw: bytes) -> bytes:
    """Re-encode a PNG without loss where that saves space; readers go by content, not by name."""
    if not name.endswith(".png"):
        return raw
    image, buffer = Image.open(io.BytesIO(raw)), io.BytesIO()
    if name.startswith("labels/"):
        labels = contiguous(np.array(image))
        narrow = labels.astype(np.uint8) if labels.max() < 256 else labels
        Image.fromarray(narrow).save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "WEBP", lossless=True, quality=100, method=4)
    return min(raw, buffer.getvalue(), key=len)


def _index_bytes(rows: list[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def pack(data: str | Path, out: str | Path, *, test: bool = False) -> dict[str, int]:
    """Write OUT/DATASET.zip for every training set.

    Parameters
    ----------
    data : path
        The data folder.
    out : path
        Made where it is missing; existing archives are replaced.
    test : bool
        Include the test split, for evaluation where the archives go.

    Returns
    -------
    dict of str to int
        Size of each archive in bytes.
    """
    splits = {"train", "val"} | ({"test"} if test else set())
    Path(out).mkdir(parents=True, exist_ok=True)
    sizes = {}
    for dataset in TRAINING_SETS:
        folder = Path(data) / dataset
        rows = [row for row in read_index(folder_reader(folder)) if row["split"] in splits]
        target = Path(out) / f"{dataset}.zip"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("index.csv", _index_bytes(rows))
            for name in sorted({row["file"] for row in rows} | {row["label"] for row in rows}):
                archive.writestr(name, _smaller(name, (folder / name).read_bytes()))
        sizes[dataset] = target.stat().st_size
    return sizes


def load_packed(folder: str | Path, split: str = "train") -> list[Sample]:
    """Return one split of all training sets from a folder made by `pack`."""
    return load_split(folder, TRAINING_SETS, split)


def main(argv: list[str] | None = None) -> None:
    """Pack from the command line and print the sizes."""
    parser = argparse.ArgumentParser(prog="python -m starter.pack", description=__doc__)
    parser.add_argument("--data", required=True, help="the data folder")
    parser.add_argument("--out", required=True, help="where the archives go")
    parser.add_argument("--test", action="store_true", help="include the test split")
    arguments = parser.parse_args(argv)
    sizes = pack(arguments.data, arguments.out, test=arguments.test)
    for name, size in sizes.items():
        print(f"{name}: {size / 1e6:.1f} MB")
    print(f"total: {sum(sizes.values()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
