"""Sample data of the plugin, and the synthetic nuclei behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    LayerData = tuple[np.ndarray, dict[str, Any], str]

__all__ = ["histology", "nuclei", "nuclei_stack", "synthetic_nuclei"]

_PHOTONS = 80.0  # at the brightest pixel: the noise of an ordinary, slightly dim recording
_OFFSET = 100.0  # a camera's dark level, in grey values
_GAIN = 40.0  # grey values a photon


def histology() -> list[LayerData]:
    """Tissue stained by immunohistochemistry, scikit-image's own example.

    Returns
    -------
    list of tuple
        One RGB image layer, (512, 512, 3) uint8.
    """
    from skimage.data import immunohistochemistry

    return [(immunohistochemistry(), {"name": "histology", "rgb": True}, "image")]


def nuclei() -> list[LayerData]:
    """Fluorescent nuclei in one plane, synthetic.

    Returns
    -------
    list of tuple
        One image layer, (512, 512) uint16, with its pixel size in micrometres.
    """
    spacing = (0.5, 0.5)
    image, _ = synthetic_nuclei((512, 512), spacing, n_nuclei=110, seed=7)
    return [(image, _metadata("nuclei", spacing), "image")]


def nuclei_stack() -> list[LayerData]:
    """Fluorescent nuclei in an anisotropic z-stack, synthetic, with their true labels.

    Returns
    -------
    list of tuple
        An image layer, (40, 256, 256) uint16, and a labels layer of the same shape and pixel
        size, in which 0 is background.
    """
    spacing = (2.0, 0.5, 0.5)
    image, labels = synthetic_nuclei((40, 256, 256), spacing, n_nuclei=90, seed=11)
    return [
        (image, _metadata("nuclei stack", spacing), "image"),
        (labels, _metadata("nuclei stack labels", spacing), "labels"),
    ]


def synthetic_nuclei(
    shape: tuple[int, ...],
    spacing_um: tuple[float, ...],
    n_nuclei: int,
    seed: int,
    radius_um: float = 6.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw dented ellipsoids of uneven brightness and record them with a microscope's faults.

    Parameters
    ----------
    shape : tuple of int
        (H, W) or (Z, H, W) in pixels.
    spacing_um : tuple of float
        Pixel size along each axis, in micrometres.
    n_nuclei : int
        How many are placed; fewer where no room is left.
    seed : int
        The same seed gives the same pixels.
    radius_um : float
        Mean radius, in micrometres.

    Returns
    -------
    image : (*shape) uint16
        Blurred (more along z), with out-of-focus haze, uneven light and shot noise.
    labels : (*shape) uint16
        The true nuclei, 1..n, each in one piece; 0 is background.
    """
    import numpy as np
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    pixel = np.asarray(spacing_um)
    dents = 0.14 * _smooth_field(shape, 0.5 * radius_um / pixel, rng)
    chromatin = 1 + 0.15 * _smooth_field(shape, 0.15 * radius_um / pixel, rng)

    labels = np.zeros(shape, np.uint16)
    brightness = [0.0]
    for nucleus in _place(np.asarray(shape) * pixel, n_nuclei, radius_um, rng):
        window, distance = nucleus.distance(shape, pixel)
        inside = (distance + dents[window] < 1) & (labels[window] == 0)
        parts, n_parts = ndimage.label(inside)
        if n_parts == 0:
            continue
        largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
        labels[window][parts == largest] = len(brightness)
        brightness.append(rng.uniform(0.45, 1.0))

    signal = (np.asarray(brightness, np.float32)[labels] * chromatin).astype(np.float32)
    psf_um = np.array([1.2, 0.35, 0.35])[-len(shape) :]
    focused = ndimage.gaussian_filter(signal, psf_um / pixel)
    haze = ndimage.gaussian_filter(signal, radius_um / pixel)
    light = np.linspace(1.0, 0.75, shape[-1], dtype=np.float32)
    photons = rng.poisson(_PHOTONS * light * (0.85 * focused + 0.15 * haze + 0.02))
    image = _OFFSET + _GAIN * photons + rng.normal(0, 0.5 * _GAIN, shape)
    return image.clip(0, 65535).astype(np.uint16), labels


@dataclass(frozen=True)
class _Nucleus:
    """An ellipsoid, turned in the plane of its last two axes; lengths in micrometres."""

    centre: np.ndarray
    radii: np.ndarray
    angle: float

    def distance(
        self, shape: tuple[int, ...], pixel: np.ndarray
    ) -> tuple[tuple[slice, ...], np.ndarray]:
        """Window around the nucleus and, in it, the distance to the centre in radii."""
        import numpy as np

        reach = 1.6 * self.radii.max()
        low = np.maximum(np.floor((self.centre - reach) / pixel), 0).astype(int)
        high = np.minimum(np.ceil((self.centre + reach) / pixel) + 1, shape).astype(int)
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        offsets = [
            np.arange(a, b) * size - middle
            for a, b, size, middle in zip(low, high, pixel, self.centre, strict=True)
        ]
        *above, y, x = np.meshgrid(*offsets, indexing="ij")
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned = [*above, cos * y + sin * x, cos * x - sin * y]
        squares = [(axis / radius) ** 2 for axis, radius in zip(turned, self.radii, strict=True)]
        return window, np.sqrt(sum(squares))


def _place(
    extent_um: np.ndarray, n_nuclei: int, radius_um: float, rng: np.random.Generator
) -> list[_Nucleus]:
    """Nuclei at random places that may touch but hardly overlap."""
    import numpy as np

    placed: list[_Nucleus] = []
    for _ in range(40 * n_nuclei):
        if len(placed) == n_nuclei:
            break
        centre = rng.uniform(0, 1, len(extent_um)) * extent_um
        radii = radius_um * rng.uniform(0.75, 1.25, len(extent_um))
        nucleus = _Nucleus(centre, radii, rng.uniform(0, np.pi))
        gaps = [np.linalg.norm(centre - p.centre) - p.radii.mean() for p in placed]
        if min(gaps, default=np.inf) > radii.mean():
            placed.append(nucleus)
    return placed


def _smooth_field(
    shape: tuple[int, ...], sigma: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Noise of zero mean and unit deviation that varies over about `sigma` pixels."""
    import numpy as np
    from scipy import ndimage

    field = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, truncate=3)
    return (field - field.mean()) / field.std()


def _metadata(name: str, spacing_um: tuple[float, ...]) -> dict[str, Any]:
    axes = ("z", "y", "x")[-len(spacing_um) :]
    return {
        "name": name,
        "scale": spacing_um,
        "units": ("um",) * len(spacing_um),
        "axis_labels": axes,
    }
