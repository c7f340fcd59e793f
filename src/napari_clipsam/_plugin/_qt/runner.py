"""The threads of a viewer, whose answers arrive on Qt's main thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QCoreApplication, QObject, Qt, QTimer, Signal  # type: ignore[attr-defined]

from napari_clipsam._plugin.runner import ThreadRunner
from napari_clipsam._plugin.training_thread import ThreadTrainer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["QtRunner", "QtTrainer"]

# Work begins by then, even if nothing was painted. ms
_LATEST = 2000


class _Post(QObject):
    """Calls functions on the thread it lives on, in the order they were sent."""

    sent = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.sent.connect(self._call, Qt.ConnectionType.QueuedConnection)
        application = QCoreApplication.instance()
        if application is not None:
            self.moveToThread(application.thread())

    def _call(self, function: Callable[[], None]) -> None:
        function()


class QtRunner(ThreadRunner):
    """A `ThreadRunner` for an application with an event loop.

    Python's imports keep the main thread waiting, so work waits until a dock is on the screen.
    """

    def __init__(self) -> None:
        self._post = _Post()
        super().__init__(self._post.sent.emit, begun=False)
        QTimer.singleShot(_LATEST, self.begin)


class QtTrainer(ThreadTrainer):
    """A `ThreadTrainer` for an application with an event loop."""

    def __init__(self) -> None:
        self._post = _Post()
        super().__init__(self._post.sent.emit)
