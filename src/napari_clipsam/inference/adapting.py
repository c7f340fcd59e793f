"""Which adapter is meant, and whether it belongs to the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_clipsam.adapters.files import load_adapter
from napari_clipsam.errors import AdapterError

if TYPE_CHECKING:
    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.models.registry import LoadedModel

__all__ = ["chosen_adapter"]


def chosen_adapter(
    adapter: str | Path | Adapter | None, model: LoadedModel
) -> tuple[Adapter | None, str]:
    """The adapter that is meant, loaded, and its name for people.

    Parameters
    ----------
    adapter : "default", None, path or Adapter
        ``default`` is the one that comes with the model, if any.
    model : LoadedModel

    Raises
    ------
    AdapterError
        The file is damaged, or the adapter belongs to another model.
    """
    name = "in memory"
    if adapter == "default":
        adapter, name = model.adapter_path, model.name
    elif isinstance(adapter, str | Path):
        name = Path(adapter).stem
    if adapter is None:
        return None, "none"
    if isinstance(adapter, str | Path):
        adapter = load_adapter(adapter, model.sam, model.language)
    _check_identity(adapter, model)
    return adapter, name


def _check_identity(adapter: Adapter, model: LoadedModel) -> None:
    for what, wanted, given in (
        ("base model", adapter.info.base_identity, model.sam.identity),
        ("CLIP", adapter.info.clip_identity, model.language.identity),
    ):
        if wanted != given:
            raise AdapterError(
                f"The adapter belongs to another {what}: it was made for {wanted}, this one is "
                f"{given}. Choose the {what} it was made for, or train a new adapter."
            )
