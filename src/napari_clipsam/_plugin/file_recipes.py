"""Labels that are written to disk: what each run was asked for, kept until it is finished.

So a run that was stopped, or that napari's end cut off, can be gone on with.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_clipsam._folders import make_folder
from napari_clipsam.outputs import replacing

if TYPE_CHECKING:
    from napari_clipsam.session.objects import PlaneKey

__all__ = ["FolderRecipe", "Recipe", "RecipeShelf", "StackRecipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run was asked for.

    Attributes
    ----------
    output : str
        The file or folder that is written.
    word : str
    target : {"concept", "instances"}
    model, adapter, clip : str
        As a `Setup` has them.
    """

    output: str
    word: str
    target: Literal["concept", "instances"]
    model: str
    adapter: str
    clip: str

    @property
    def path(self) -> Path:
        """Where the result goes."""
        return Path(self.output)


@dataclass(frozen=True, kw_only=True)
class StackRecipe(Recipe):
    """A word in the slices of an image layer.

    Attributes
    ----------
    image : str
        Name of the layer.
    shape : tuple of int
        Of the image, as planes are named.
    channel : str
        Label of the `ChannelChoice`.
    key : PlaneKey
        A plane of the stack.
    axis : int
        Along which slices are numbered.
    first, last : int
        Slices, both included.
    """

    image: str
    shape: tuple[int, ...]
    channel: str
    key: PlaneKey
    axis: int
    first: int
    last: int

    @property
    def zs(self) -> range:
        """The slices."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True, kw_only=True)
class FolderRecipe(Recipe):
    """A word in many images.

    Attributes
    ----------
    images : tuple of str
        Their files.
    channels : tuple of int or None
        As for `planes.open_image`.
    """

    images: tuple[str, ...]
    channels: tuple[int, ...] | None


_KINDS: dict[str, type[StackRecipe | FolderRecipe]] = {
    "stack": StackRecipe,
    "folder": FolderRecipe,
}


class RecipeShelf:
    """The recipes of runs that are not finished, one small file each.

    Parameters
    ----------
    folder : Path
        Made when the first one is put there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, recipe: Recipe) -> None:
        """Keep a recipe.

        Raises
        ------
        OutputError
            The folder cannot be written to.
        """
        make_folder(self._folder)
        kind = next(kind for kind, made in _KINDS.items() if made is type(recipe))
        with replacing(self._place(recipe), overwrite=True) as part:
            part.write_text(json.dumps({"kind": kind, **asdict(recipe)}), encoding="utf-8")

    def drop(self, recipe: Recipe) -> None:
        """Forget a recipe."""
        self._place(recipe).unlink(missing_ok=True)

    def all(self) -> list[Recipe]:
        """Every recipe, the latest first; files that are damaged are passed over."""
        if not self._folder.is_dir():
            return []
        found = sorted(self._folder.glob("*.json"), key=lambda path: -path.stat().st_mtime)
        return [recipe for path in found if (recipe := _read(path)) is not None]

    def _place(self, recipe: Recipe) -> Path:
        name = hashlib.blake2b(recipe.output.encode(), digest_size=12).hexdigest()
        return self._folder / f"{name}.json"


def _read(path: Path) -> Recipe | None:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        made = _KINDS[values.pop("kind")]
        lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        known = {one.name for one in fields(made)}
        return made(**{name: v for name, v in {**values, **lists}.items() if name in known})
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        return None
