"""What stays with a viewer while docks come and go: threads, model and session."""

from __future__ import annotations

import atexit
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, finalize

from qtpy.QtCore import QCoreApplication, QUrl
from qtpy.QtGui import QDesktopServices

from napari_clipsam._folders import user_folder
from napari_clipsam._plugin._qt.runner import QtRunner, QtTrainer
from napari_clipsam._plugin.chosen import Chosen
from napari_clipsam._plugin.commands import unwrapped
from napari_clipsam._plugin.controller import SegmentController
from napari_clipsam._plugin.engine import Engine
from napari_clipsam._plugin.keeper import Keeper
from napari_clipsam._plugin.library import LibraryController
from napari_clipsam._plugin.library_errands import Errands
from napari_clipsam._plugin.library_shelf import UserShelf
from napari_clipsam._plugin.settings import read_settings
from napari_clipsam._plugin.teaching import TeachController

if TYPE_CHECKING:
    from pathlib import Path

    from napari.components import ViewerModel

__all__ = ["begin_work", "controller_of", "forget_all", "librarian_of", "teacher_of"]


@dataclass(frozen=True)
class _Belongings:
    runner: QtRunner
    engine: Engine
    keeper: Keeper
    trainer: QtTrainer
    errands: Errands
    chosen: Chosen

    def close(self) -> None:
        """End the threads and the session."""
        _end(self.errands, self.trainer, self.runner)
        self.keeper.close()


_OF: WeakKeyDictionary[ViewerModel, _Belongings] = WeakKeyDictionary()


@atexit.register
def forget_all() -> None:
    """End the sessions of all viewers, as napari's end does."""
    for own in list(_OF.values()):
        own.close()
    _OF.clear()


def controller_of(viewer: ViewerModel) -> SegmentController:
    """A controller for a Segment dock; the session goes on where the last dock left it."""
    viewer = unwrapped(viewer)
    own = _of(viewer)
    return SegmentController(viewer, own.runner, own.engine, own.keeper, read_settings, own.chosen)


def begin_work(viewer: ViewerModel) -> None:
    """Let the work of a viewer begin: its dock is on the screen."""
    if (own := _OF.get(unwrapped(viewer))) is not None:
        own.runner.begin()


def teacher_of(viewer: ViewerModel) -> TeachController:
    """A controller for a Teach dock."""
    viewer = unwrapped(viewer)
    own = _of(viewer)
    return TeachController(viewer, own.runner, own.engine, own.trainer, own.chosen, read_settings)


def librarian_of(viewer: ViewerModel) -> LibraryController:
    """A controller for a Library dock."""
    viewer = unwrapped(viewer)
    own = _of(viewer)
    return LibraryController(
        viewer,
        own.runner,
        own.errands,
        UserShelf(),
        own.chosen,
        read_settings,
        lambda: [one.chosen for one in _OF.values()],
        reveal,
    )


def reveal(folder: Path) -> bool:
    """Open a folder in the system's file browser; returns whether it could."""
    return QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))


def _of(viewer: ViewerModel) -> _Belongings:
    """What belongs to a viewer, made when a dock first asks for it."""
    if viewer not in _OF:
        runner, trainer, errands = QtRunner(), QtTrainer(), Errands(QtTrainer)
        folder = read_settings().folder or user_folder() / "sessions"
        engine, keeper = Engine(runner.check, runner.tell), Keeper(viewer, folder)
        _OF[viewer] = _Belongings(runner, engine, keeper, trainer, errands, Chosen())
        finalize(viewer, _end, errands, trainer, runner)
        application = QCoreApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(forget_all)
    return _OF[viewer]


def _end(errands: Errands, trainer: QtTrainer, runner: QtRunner) -> None:
    errands.close()
    trainer.close()
    runner.close()
