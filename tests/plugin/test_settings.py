"""Preferences: what napari keeps is what the plugin uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from napari.settings import get_plugin_settings
from npe2 import PluginManifest
from pydantic import ValidationError

from napari_clipsam._plugin.engine import Setup
from napari_clipsam._plugin.settings import PLUGIN, Settings, read_settings
from napari_clipsam.inference.devices import DEVICES

if TYPE_CHECKING:
    from npe2 import PluginManager


@pytest.fixture
def stored(plugin_settings: None, npe2pm: PluginManager) -> Any:
    npe2pm.register(PluginManifest.from_distribution(PLUGIN))
    return get_plugin_settings(PLUGIN)


def test_the_manifest_has_the_same_defaults(stored: Any) -> None:
    assert read_settings() == Settings()
    assert Settings().setup("starter", "default") == Setup()


def test_without_the_manifest_the_defaults_hold(plugin_settings: None) -> None:
    assert read_settings() == Settings()


def test_what_the_user_chooses_is_used_at_once(stored: Any) -> None:
    stored.inference.device = "cpu"
    stored.inference.precision = "fp32"
    stored.inference.normalisation = "shown"
    stored.inference.model = " vit_b "
    stored.storage.cache_mb = 512
    stored.storage.folder = "~/sessions"
    found = read_settings()
    assert found == Settings(
        "vit_b", "cpu", "fp32", 512, Path.home() / "sessions", normalisation="shown"
    )
    assert found.setup("starter", "none") == Setup("starter", "none", "cpu", "fp32", 512 << 20)


def test_values_that_cannot_work_are_refused(stored: Any) -> None:
    with pytest.raises(ValidationError):
        stored.inference.device = "quantum"
    with pytest.raises(ValidationError):
        stored.storage.cache_mb = 1
    assert read_settings() == Settings()


def test_every_device_can_be_chosen(stored: Any) -> None:
    for device in DEVICES:
        stored.inference.device = device
        assert read_settings().device == device
