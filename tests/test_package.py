"""The package as a whole: what importing it costs, who may import whom, what napari is told."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from npe2 import PluginManager, PluginManifest
from scipy import ndimage

import napari_clipsam
from napari_clipsam._plugin.samples import nuclei_stack, synthetic_nuclei

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "napari_clipsam"

# A module may import from its own layer and those above it in this list.
LAYERS = (
    {"errors", "config", "prompts", "geometry", "_folders", "_locking", "_machine"},
    {"planes", "_axes", "_intensity", "_readers", "outputs", "_pyramid", "_image_files"},
    {"models"},
    {"semantics"},
    {"adapters"},
    {"inference"},
    {"training"},
    {"exporting"},
    {"session"},
    {"cli", "_plugin"},
)
QT = {"qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6", "magicgui", "superqt", "pyqtgraph", "vispy"}


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---------------------------------------------------------------- importing


def test_import_is_quick_and_brings_in_nothing_heavy() -> None:
    code = (
        "import sys, time, json\n"
        "start = time.perf_counter()\n"
        "import napari_clipsam\n"
        "from napari_clipsam import ClipSamError\n"
        "seconds = time.perf_counter() - start\n"
        "print(json.dumps([seconds, sorted({m.partition('.')[0] for m in sys.modules})]))\n"
    )
    runs = [json.loads(run_python(code)) for _ in range(2)]
    assert min(seconds for seconds, _ in runs) < 0.5
    heavy = QT | {"torch", "napari", "npe2", "numpy", "scipy", "skimage", "pydantic", "open_clip"}
    assert not heavy & set(runs[0][1])


@pytest.mark.parametrize("name", napari_clipsam.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert name in dir(napari_clipsam)
    value = getattr(napari_clipsam, name)
    assert name == "__version__" or value.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        _ = napari_clipsam.Segmentor


def test_version_is_that_of_the_installed_distribution() -> None:
    assert napari_clipsam.__version__ == version("napari-clipsam")


# ---------------------------------------------------------------- who may import whom


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Absolute names of all modules a file imports, at any depth."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


def layer(name: str) -> int:
    part = name.split(".")[1]
    ranks = [rank for rank, members in enumerate(LAYERS) if part in members]
    assert ranks, f"{name}: add `{part}` to LAYERS, where design.md puts it"
    return ranks[0]


MODULES = {
    module_name(path): path
    for path in sorted(SOURCE.rglob("*.py"))
    if path.parent != SOURCE or path.name not in {"__init__.py", "__main__.py"}
}


@pytest.mark.parametrize("name", MODULES)
def test_imports_keep_to_the_layers(name: str) -> None:
    imported = imports(MODULES[name])
    roots = {module.partition(".")[0] for module in imported}
    if not name.startswith("napari_clipsam._plugin._qt"):
        assert not roots & QT, "only _plugin/_qt may import Qt, magicgui or superqt"
    if not name.startswith("napari_clipsam._plugin"):
        assert "napari" not in roots, "only _plugin may import napari"
    own = {module for module in imported if module.startswith("napari_clipsam.")}
    later = {module for module in own if layer(module) > layer(name)}
    assert not later, f"{name} may not import from a later layer"


def test_reading_imports_sees_every_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(globals(), "SOURCE", tmp_path / "napari_clipsam")
    path = tmp_path / "napari_clipsam" / "models" / "sam.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import torch.nn as nn\n"
        "from ..training import losses\n"
        "from . import clip\n"
        "def late():\n"
        "    from napari_clipsam.session.export import save\n"
    )
    found = imports(path)
    assert {"torch.nn", "napari_clipsam.training.losses", "napari_clipsam.models.clip"} <= found
    assert "napari_clipsam.session.export" in found
    assert layer("napari_clipsam.training.losses") > layer("napari_clipsam.models.sam")


def test_a_model_can_be_fitted_without_pydantic_zarr_pooch_and_napari() -> None:
    needed = [
        name
        for name in MODULES
        if name.split(".")[1] in {"semantics", "adapters", "training"}
        or name in {"napari_clipsam.models.sam", "napari_clipsam.models.clip"}
    ]
    assert needed
    run_python(
        "import importlib, sys\n"
        "sys.modules.update(dict.fromkeys(['pydantic', 'zarr', 'pooch', 'napari']))\n"
        f"for name in {needed!r}: importlib.import_module(name)\n"
    )


# ---------------------------------------------------------------- what napari is told


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_distribution("napari-clipsam")


def test_npe2_accepts_the_manifest_and_all_it_names() -> None:
    command = [sys.executable, "-m", "npe2", "validate", "napari-clipsam", "--imports"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Manifest for 'CLIP-Guided SAM' valid" in done.stdout


def test_manifest_says_what_the_plugin_is(manifest: PluginManifest) -> None:
    assert manifest.display_name == "CLIP-Guided SAM"
    assert manifest.categories == ["Segmentation", "Annotation"]
    assert manifest.is_visible


def test_the_link_at_the_root_shows_the_packaged_manifest() -> None:
    assert (ROOT / "napari.yaml").resolve() == SOURCE / "napari.yaml"


@pytest.mark.parametrize(
    ("key", "kinds", "ndim"),
    [
        ("histology", ["image"], 2),
        ("nuclei", ["image"], 2),
        ("nuclei_stack", ["image", "labels"], 3),
    ],
)
def test_sample_data_opens(npe2pm: PluginManager, key: str, kinds: list[str], ndim: int) -> None:
    viewer = ViewerModel()
    with npe2pm.tmp_plugin(package="napari-clipsam"):
        layers = viewer.open_sample("napari-clipsam", key)
    assert [layer._type_string for layer in layers] == kinds
    assert all(layer.ndim == ndim for layer in layers)
    assert list(viewer.layers) == layers


def test_every_sample_of_the_manifest_is_tested(manifest: PluginManifest) -> None:
    marks = test_sample_data_opens.pytestmark
    tested = {key for key, *_ in marks[0].args[1]}
    assert {sample.key for sample in manifest.contributions.sample_data} == tested


def test_the_stack_comes_with_true_labels_at_its_own_scale() -> None:
    (image, image_meta, _), (labels, labels_meta, _) = nuclei_stack()
    assert image.shape == labels.shape
    assert image_meta["scale"] == labels_meta["scale"] == (2.0, 0.5, 0.5)
    assert image_meta["axis_labels"] == labels_meta["axis_labels"] == ("z", "y", "x")
    assert image[labels > 0].mean() > 4 * image[labels == 0].mean()
    assert labels.max() > 50
    for value, window in enumerate(ndimage.find_objects(labels), start=1):
        assert ndimage.label(labels[window] == value)[1] == 1


def test_synthetic_nuclei_depend_on_the_seed_alone() -> None:
    first, again, other = (
        synthetic_nuclei((64, 80), (0.5, 0.5), n_nuclei=6, seed=seed) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


# ---------------------------------------------------------------- what is installed


def test_the_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="napari-clipsam")
    module, _, function = command.value.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
