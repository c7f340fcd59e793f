"""Uses the installed package as a stranger does first; run by check_package.py in a clean place.

Nothing of the repository is needed besides this file, and nothing of it is imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import imageio.v3 as iio
import tifffile

import napari_clipsam

NAME = "napari-clipsam"
BIN = Path(sys.executable).parent


def main() -> None:
    """Check everything, from what is quick to what is slow."""
    check_place()
    check_command_line()
    check_plugin()
    check_viewer()


def check_place() -> None:
    """The package comes from the environment, with its weights and notices."""
    place = Path(napari_clipsam.__file__)
    assert BIN.parent in place.parents, f"{place} is not what was installed"
    names = {str(file) for file in files(NAME) or ()}
    for part in ("sam.safetensors", "clip.safetensors", "adapter.safetensors", "NOTICE.md"):
        assert f"napari_clipsam/models/starter/{part}" in names, part
    done(f"{NAME} {napari_clipsam.__version__} in Python {sys.version.split()[0]}")


def check_command_line() -> None:
    """`doctor`, and `segment` on an image that every installation of scikit-image has."""
    from skimage.data import immunohistochemistry

    assert "a click:" in call("doctor")
    done("doctor")
    iio.imwrite("tissue.png", immunohistochemistry()[:256, :256])
    call("segment", "tissue.png", "--text", "nuclei", "--target", "instances", "-o", "found.tif")
    call("segment", "tissue.png", "--point", "120,80", "-o", "one.tif", "--json", "one.json")
    assert tifffile.imread("found.tif").shape == (256, 256)
    assert json.loads(Path("one.json").read_text())["match"] is True
    done("segment by word and by click")


def check_plugin() -> None:
    """napari lists the plugin, and all that its manifest names is there."""
    listed = run(BIN / "napari", "--plugin-info")
    assert NAME in listed, listed
    done("napari --plugin-info lists it")
    run(BIN / "npe2", "validate", NAME, "--imports")
    done("npe2 validate --imports")


def check_viewer() -> None:
    """In a real window every dock opens and every sample loads."""
    import napari
    from npe2 import PluginManager
    from qtpy.QtWidgets import QApplication

    viewer = napari.Viewer()
    plugin = PluginManager.instance().get_manifest(NAME).contributions
    for sample in plugin.sample_data or ():
        layers = viewer.open_sample(NAME, sample.key)
        assert layers and all(layer.data.size for layer in layers), sample.key
        viewer.layers.clear()
        done(f"sample {sample.key}")
    for widget in plugin.widgets or ():
        dock, inner = viewer.window.add_plugin_dock_widget(NAME, widget.display_name)
        QApplication.processEvents()
        assert dock.isVisible() and inner.isVisible(), widget.display_name
        done(f"dock {widget.display_name}")
    viewer.close()
    QApplication.processEvents()


def call(*words: str) -> str:
    """A command of this package that has to succeed; returns what it printed."""
    return run(BIN / NAME, *words)


def run(*command: object) -> str:
    """A command that has to succeed; returns what it printed."""
    finished = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    said = finished.stdout + finished.stderr
    assert finished.returncode == 0, f"{' '.join(map(str, command))}\n{said}"
    return said


def done(what: str) -> None:
    """Tell that something works."""
    print(f"   works: {what}", flush=True)


if __name__ == "__main__":
    main()
