"""``napari-clipsam models``."""

from __future__ import annotations

from pathlib import Path

from napari_clipsam.cli._common import megabytes, table
from napari_clipsam.errors import OutputError, WeightsError

__all__ = ["import_model", "list_models", "remove_model"]


def list_models() -> None:
    """Print all models that are known."""
    from napari_clipsam.models.registry import models

    rows = [
        [
            entry.name,
            entry.architecture,
            "yes" if entry.installed else "no",
            "-" if entry.size_mb is None else megabytes(entry.size_mb * 1e6),
            entry.domain,
            entry.licence,
        ]
        for entry in models()
    ]
    print(table(["name", "architecture", "installed", "size", "images", "licence"], rows))
    missing = [entry for entry in models() if not entry.installed and entry.source]
    if missing:
        print("\nTo install one, download its file, then `napari-clipsam models import NAME FILE`:")
        for entry in missing:
            print(f"  {entry.name}  {entry.source}")


def import_model(name: str, file: Path) -> None:
    """Copy a file into the user's folder under a name."""
    from napari_clipsam.models.registry import import_file

    entry = import_file(name, file)
    print(f"{name}: {entry.architecture}, sha256 {entry.sha256}, copied to {entry.file}")
    print(f"Use it with --model {name}.")


def remove_model(name: str) -> None:
    """Delete the copy of an imported model and its record."""
    from napari_clipsam.models.registry import models, models_folder

    folder = models_folder()
    imported = {
        entry.name: entry for entry in models() if (folder / f"{entry.name}.json").is_file()
    }
    entry = imported.get(name)
    if entry is None or entry.file is None:
        known = ", ".join(imported) or "none"
        raise WeightsError(
            f"There is no imported model '{name}'. Imported are: {known}; the starter belongs to "
            "the package."
        )
    try:
        (folder / f"{name}.json").unlink()
        entry.file.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{entry.file} cannot be deleted ({error.strerror}).") from error
    print(f"{name}: {entry.file} deleted.")
