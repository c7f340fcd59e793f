"""What is asked on labelled planes, and how well it was answered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from napari_clipsam.errors import ConfigError
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from napari_clipsam.inference.requests import Target
    from napari_clipsam.training.labelled import LabelledImage

__all__ = ["Evaluation", "PlaneScore", "Question"]

PromptKind = Literal["text", "point", "box"]


@dataclass(frozen=True)
class Question:
    """What is asked on every plane.

    Parameters
    ----------
    prompts : {"text", "point", "box"}
        A word; one click at each object's innermost pixel; each object's tight box.
    text : str, optional
        The word; it conditions clicks and boxes as well.
    target : {"concept", "instances", "object"}, optional
        Left out: concept for text, object for point and box.

    Raises
    ------
    ConfigError
        Prompts and target do not go together, or the word is missing.
    PromptError
        The word is blank.
    """

    prompts: PromptKind
    text: str | None = None
    target: Target | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", Prompts(text=self.text).text)
        by_text = self.prompts == "text"
        target = self.target or ("concept" if by_text else "object")
        object.__setattr__(self, "target", target)
        if by_text == (target == "object"):
            raise ConfigError(
                f"The prompts '{self.prompts}' do not go with the target '{target}'. Use text with "
                "concept or instances, point and box with object."
            )
        if by_text and self.text is None:
            raise ConfigError("Evaluating by text needs a word. Give --text WORD.")


@dataclass(frozen=True)
class PlaneScore:
    """Scores of one plane; None where one does not apply.

    Attributes
    ----------
    source : LabelledImage
    plane : dict of str to int
        Where in its stack.
    ious : tuple of float
        One for each object, or one for the plane.
    dice, ap50, presence : float or None
    n_objects : int or None
        Objects measured; None for semantic labels.
    match : bool
    seconds : float
    """

    source: LabelledImage
    plane: dict[str, int]
    ious: tuple[float, ...]
    dice: float | None
    ap50: float | None
    n_objects: int | None
    match: bool
    presence: float | None
    seconds: float

    @property
    def iou(self) -> float | None:
        """Mean IoU."""
        return fmean(self.ious) if self.ious else None

    @property
    def score(self) -> float | None:
        """The one number the plane is ranked by."""
        return self.iou if self.ap50 is None else self.ap50

    @property
    def name(self) -> str:
        """Image and plane."""
        where = "".join(f" {letter}={number}" for letter, number in self.plane.items())
        return self.source.name + where

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "image": str(self.source.image),
            "labels": str(self.source.labels),
            "plane": self.plane,
            "modality": self.source.modality or None,
            "style": self.source.style or None,
            "n_objects": self.n_objects,
            "mean_iou": self.iou,
            "dice": self.dice,
            "ap50": self.ap50,
            "match": self.match,
            "presence": self.presence,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Evaluation:
    """Scores of many planes."""

    question: Question
    planes: tuple[PlaneScore, ...] = ()

    @property
    def mean_iou(self) -> float | None:
        """Over all objects, or over planes for a concept."""
        return _mean(value for plane in self.planes for value in plane.ious)

    @property
    def dice(self) -> float | None:
        """Mean over planes."""
        return _mean(plane.dice for plane in self.planes)

    @property
    def ap50(self) -> float | None:
        """Mean over planes."""
        return _mean(plane.ap50 for plane in self.planes)

    @property
    def n_objects(self) -> int | None:
        """Objects measured; None where only semantic labels were."""
        counts = [plane.n_objects for plane in self.planes if plane.n_objects is not None]
        return sum(counts) if counts else None

    @property
    def seconds_per_plane(self) -> float | None:
        """Mean time for all that was asked on a plane."""
        return _mean(plane.seconds for plane in self.planes)

    def groups(self) -> dict[tuple[str, str], Evaluation]:
        """The same by modality and style; empty where nothing says what those are.

        A modality with several styles comes as a whole first, under an empty style.
        """
        found: dict[tuple[str, str], list[PlaneScore]] = {}
        styles: dict[str, set[str]] = {}
        for plane in self.planes:
            modality, style = plane.source.modality, plane.source.style
            styles.setdefault(modality, set()).add(style)
            for key in {(modality, ""), (modality, style)}:
                found.setdefault(key, []).append(plane)
        wholes = {(name, "") for name, kinds in styles.items() if len(kinds) == 1 and any(kinds)}
        return {
            key: Evaluation(self.question, tuple(found[key]))
            for key in sorted(found.keys() - wholes - {("", "")})
        }

    def scores(self) -> dict[str, float]:
        """``mean_iou``, ``dice`` and ``ap50`` as far as they apply."""
        scores = {"mean_iou": self.mean_iou, "dice": self.dice, "ap50": self.ap50}
        return {name: value for name, value in scores.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain values, without those that do not apply."""
        groups = [
            {"modality": modality or None, "style": style or None, **part._counted()}
            for (modality, style), part in self.groups().items()
        ]
        return {
            "prompts": self.question.prompts,
            "target": self.question.target,
            "text": self.question.text,
            **self._counted(),
            "seconds_per_plane": self.seconds_per_plane,
            **({"per_group": groups} if groups else {}),
            "per_plane": [plane.to_json() for plane in self.planes],
        }

    def _counted(self) -> dict[str, Any]:
        return {**self.scores(), "n_planes": len(self.planes), "n_objects": self.n_objects}


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None
