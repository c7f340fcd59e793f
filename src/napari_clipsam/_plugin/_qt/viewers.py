"""What stays with a viewer while docks come and go: worker, model and session."""

from __future__ import annotations

import atexit
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, finalize

from qtpy.QtCore import QCoreApplication

from napari_clipsam._folders import user_folder
from napari_clipsam._plugin._qt.runner import QtRunner
from napari_clipsam._plugin.commands import unwrapped
from napari_clipsam._plugin.controller import SegmentController
from napari_clipsam._plugin.engine import Engine
from napari_clipsam._plugin.keeper import Keeper
from napari_clipsam._plugin.settings import read_settings

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["controller_of", "forget_all"]


@dataclass(frozen=True)
class _Belongings:
    runner: QtRunner
    engine: Engine
    keeper: Keeper


_OF: WeakKeyDictionary[ViewerModel, _Belongings] = WeakKeyDictionary()


@atexit.register
def forget_all() -> None:
    """End the sessions of all viewers, as napari's end does."""
    for own in list(_OF.values()):
        own.runner.close()
        own.keeper.close()
    _OF.clear()


def controller_of(viewer: ViewerModel) -> SegmentController:
    """A controller for a dock of a viewer; the session goes on where the last dock left it."""
    viewer = unwrapped(viewer)
    if viewer not in _OF:
        runner = QtRunner()
        folder = read_settings().folder or user_folder() / "sessions"
        _OF[viewer] = own = _Belongings(
            runner, Engine(runner.check, runner.tell), Keeper(viewer, folder)
        )
        finalize(viewer, runner.close)
        application = QCoreApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(forget_all)
    own = _OF[viewer]
    return SegmentController(viewer, own.runner, own.engine, own.keeper, read_settings)
