"""The one error tree: every message says what happened and what to do."""

from __future__ import annotations

__all__ = [
    "AdapterError",
    "ClipSamError",
    "ConfigError",
    "DownloadError",
    "InputError",
    "JournalError",
    "OutOfMemory",
    "OutputError",
    "PlaneError",
    "PromptError",
    "Stopped",
    "WeightsError",
    "WordError",
]


class ClipSamError(Exception):
    """Base of all errors this package raises on purpose.

    Attributes
    ----------
    exit_code : int
        Exit status of the command line when this error ends it.
    """

    exit_code: int = 1


class InputError(ClipSamError):
    """The input cannot work; nothing was done and nothing was written."""

    exit_code = 2


class PlaneError(InputError):
    """An image, stack or channel choice that cannot be read as planes."""


class PromptError(InputError):
    """A point, box, mask or combination of them that cannot be used."""


class WordError(InputError):
    """A word the language side of the model cannot represent."""


class WeightsError(InputError):
    """A model or weights file that is missing, damaged or of another make."""


class AdapterError(InputError):
    """An adapter file that is damaged or belongs to another base model."""


class ConfigError(InputError):
    """A setting outside its range or a combination that cannot work."""


class JournalError(InputError):
    """A recorded session that is damaged, foreign, in use, or belongs to another image."""


class OutputError(InputError):
    """An output that exists already or cannot be written."""


class DownloadError(ClipSamError):
    """A file that could not be fetched: no network, a server that refuses, other bytes."""


class OutOfMemory(ClipSamError):
    """The device ran out of memory; the message names a smaller setting."""


class Stopped(ClipSamError):
    """The user stopped the job; what was finished is kept."""
