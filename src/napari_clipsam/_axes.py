"""Which axis is which: letters, metadata, shapes, and the words of the command line for them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from .errors import PlaneError

__all__ = [
    "LETTERS",
    "full_index",
    "parse_axes",
    "parse_channels",
    "parse_plane",
    "resolve_axes",
    "resolve_channels",
]

#: T time, C channel, Z slice, Y row, X column, S sample of a pixel (red, green, blue, alpha).
LETTERS = "TCZYXS"


def parse_axes(text: str) -> str:
    """Check the letters of an axis order, one a dimension, such as ``ZYX`` or ``tcyx``.

    Parameters
    ----------
    text : str
        Letters out of T, C, Z, Y, X and S (colour samples), each at most once, with Y and X.

    Returns
    -------
    str
        The letters in upper case.

    Raises
    ------
    PlaneError
        If a letter is unknown or there twice, or Y or X is missing.
    """
    axes = text.strip().upper()
    for letter in axes:
        if letter not in LETTERS:
            raise PlaneError(
                f"The axes {text!r} have the unknown letter {letter!r}. Use T (time), C (channel), "
                "Z (slice), Y, X and S (colour samples), for example --axes ZYX."
            )
        if axes.count(letter) > 1:
            raise PlaneError(
                f"The axes {text!r} name {letter} twice. Give each letter once, one a dimension, "
                "for example --axes TZYX."
            )
    if "Y" not in axes or "X" not in axes:
        raise PlaneError(f"The axes {text!r} lack Y or X. Give both, for example --axes ZYX.")
    if "C" in axes and "S" in axes:
        raise PlaneError(
            f"The axes {text!r} have both C and S. Name the colours S or the channels C, not both."
        )
    return axes


def parse_plane(text: str) -> dict[str, int]:
    """Read the choice of one plane, such as ``Z=12`` or ``Z=12,T=3``.

    Parameters
    ----------
    text : str
        LETTER=NUMBER, comma separated; letters Z and T, numbers from 0 on.

    Returns
    -------
    dict of str to int

    Raises
    ------
    PlaneError
        If the text is anything else.
    """
    index: dict[str, int] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*([TZtz])\s*=\s*([0-9]+)\s*", part)
        if not found:
            raise PlaneError(
                f"The plane {text!r} is not understood at {part.strip()!r}. Write it as Z=12 or "
                "Z=12,T=3, counting from 0; channels are chosen with --channels."
            )
        letter = found[1].upper()
        if letter in index:
            raise PlaneError(f"The plane {text!r} names {letter} twice. Give each letter once.")
        index[letter] = int(found[2])
    return index


def parse_channels(text: str) -> tuple[int, ...]:
    """Read a choice of channels: ``2`` (shown grey) or up to three, ``0,1,2`` (red, green, blue).

    Parameters
    ----------
    text : str
        One to three numbers from 0 on, comma separated.

    Returns
    -------
    tuple of int

    Raises
    ------
    PlaneError
        If the text is anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not 1 <= len(parts) <= 3 or not all(re.fullmatch("[0-9]+", part) for part in parts):
        raise PlaneError(
            f"The channels {text!r} are not understood. Give one number (grey) or up to three "
            "(red, green, blue), counting from 0, for example --channels 2 or --channels 0,1,2."
        )
    return tuple(int(part) for part in parts)


def resolve_axes(
    shape: tuple[int, ...], dtype: np.dtype, explicit: str | None, stored: str | None
) -> str:
    """Name every dimension: as told, else as stored in the file, else by shape where it is plain.

    The rule for arrays and files that say nothing: two dimensions are YX; three are YXS if the last
    has 3 or 4 entries of 8 or 16 bits, ZYX if it has more; anything else has to be told.
    One dimension that a TIFF leaves unnamed counts as Z.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    explicit, stored : str or None
        What the user said; what the file says.

    Returns
    -------
    str
        One letter of `LETTERS` for each dimension.

    Raises
    ------
    PlaneError
        If the letters do not fit the shape, or nothing names them.
    """
    if 0 in shape:
        raise PlaneError(f"The image of shape {shape} has no pixels. Give one that is not empty.")
    if explicit is not None:
        axes = parse_axes(explicit)
        if len(axes) != len(shape):
            raise PlaneError(
                f"The axes {explicit!r} name {len(axes)} dimensions but the image of shape {shape} "
                f"has {len(shape)}. Give one letter for each dimension."
            )
        return axes
    if stored is not None:
        return _stored_axes(shape, stored)
    if len(shape) == 2:
        return "YX"
    if len(shape) == 3 and shape[-1] > 4:
        return "ZYX"
    if len(shape) == 3 and shape[-1] in (3, 4) and dtype in (np.uint8, np.uint16):
        return "YXS"
    raise _unclear(shape)


def _stored_axes(shape: tuple[int, ...], stored: str) -> str:
    """Take the letters of a file; a single one we do not know is read as slices."""
    axes = stored.upper()
    unknown = [letter for letter in axes if letter not in LETTERS]
    if len(unknown) == 1 and "Z" not in axes:
        axes = axes.replace(unknown[0], "Z")
    elif unknown:
        raise _unclear(shape, stored)
    if len(axes) != len(shape) or not {"Y", "X"} <= set(axes) or len(set(axes)) != len(axes):
        raise _unclear(shape, stored)
    return axes


def _unclear(shape: tuple[int, ...], stored: str | None = None) -> PlaneError:
    said = "nothing says which axis is which" if stored is None else f"its axes read {stored!r}"
    return PlaneError(
        f"The image has the shape {shape} and {said}. Give --axes, one letter for each dimension "
        "out of T, C, Z, Y, X and S (colour samples), for example --axes ZYX or --axes YXS."
    )


def resolve_channels(
    axes: str, shape: tuple[int, ...], chosen: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Choose the channels that become red, green and blue, or the one that becomes grey.

    Parameters
    ----------
    axes : str
    shape : tuple of int
    chosen : tuple of int, or None
        What the user said. None takes a single channel as grey, two or three as red, green, blue,
        and of colour samples all but alpha.

    Returns
    -------
    tuple of int
        One to three numbers along C, or S, or (0,) where there is neither.

    Raises
    ------
    PlaneError
        If a number is out of range, or there are too many channels to choose for the user.
    """
    letter = next((letter for letter in "CS" if letter in axes), None)
    count = 1 if letter is None else shape[axes.index(letter)]
    if chosen is not None:
        chosen = tuple(int(channel) for channel in chosen)
        if not 1 <= len(chosen) <= 3 or not all(0 <= channel < count for channel in chosen):
            raise PlaneError(
                f"The channels {','.join(map(str, chosen)) or '()'} do not fit an image with "
                f"{count} channel(s). Give one (grey) or up to three (red, green, blue) out of "
                f"0 to {count - 1}."
            )
        return chosen
    if letter == "S" and count in (2, 4):
        return tuple(range(count - 1))
    if count <= 3:
        return tuple(range(count))
    raise PlaneError(
        f"The image has {count} channels, more than the three of a picture. Give --channels, "
        f"for example --channels 0 (grey) or --channels 0,1,2 (red, green, blue), out of 0 to "
        f"{count - 1}. If these are slices, say so with --axes {axes.replace(letter or '', 'Z')}."
    )


def full_index(leading: Mapping[str, int], index: Mapping[str, int] | int | None) -> dict[str, int]:
    """Complete the choice of a plane and check it.

    Parameters
    ----------
    leading : mapping of str to int
        Lengths of the axes that number the planes.
    index : mapping of str to int, int, or None
        The choice. A bare number will do where there is one such axis. Axes of length 1 may be
        left out, and the first plane along an axis that is not there may be named.

    Returns
    -------
    dict of str to int
        A number for each leading axis.

    Raises
    ------
    PlaneError
        If the choice is incomplete, out of range or names another axis.
    """
    if index is None:
        index = {}
    elif not isinstance(index, Mapping):
        if len(leading) != 1:
            raise PlaneError(f"The plane {index} is ambiguous. {_choice(leading)}")
        index = {next(iter(leading)): int(index)}
    foreign = [
        letter
        for letter, number in index.items()
        if letter not in leading and (letter not in ("T", "Z") or number != 0)
    ]
    if foreign:
        raise PlaneError(f"The image has no axis {foreign[0]!r} to choose from. {_choice(leading)}")
    full = {}
    for letter, length in leading.items():
        if letter not in index and length > 1:
            raise PlaneError(f"The image is a stack, not one plane. {_choice(leading)}")
        number = int(index.get(letter, 0))
        if not 0 <= number < length:
            raise PlaneError(f"The plane {letter}={number} does not exist. {_choice(leading)}")
        full[letter] = number
    return full


def _choice(leading: Mapping[str, int]) -> str:
    if not leading:
        return "It is a single plane: leave --plane out."
    example = ",".join(f"{letter}={(length - 1) // 2}" for letter, length in leading.items())
    ranges = " and ".join(f"{letter} from 0 to {length - 1}" for letter, length in leading.items())
    return f"Choose {ranges}, for example --plane {example}."
