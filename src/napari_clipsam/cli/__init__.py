"""The command line: ``napari-clipsam segment | finetune | evaluate | models | adapters | ...``.

Whatever goes wrong ends in one line on stderr and an exit status: 2 for input that cannot work,
1 for anything else, with the traceback in a file that the line names.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from napari_clipsam.cli._app import app
from napari_clipsam.errors import ClipSamError, Stopped

__all__ = ["main"]

#: Older versions of typer take click's own exceptions, newer ones have theirs; both are here.
_UsageError: Any = next(k for k in typer.BadParameter.__mro__ if k.__name__ == "ClickException")


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    args : sequence of str, optional
        Words after the program's name; those of the process when left out.

    Returns
    -------
    int
        Exit status: 0 done, 2 the input cannot work, 1 anything else, 130 interrupted.
    """
    with _quiet():
        try:
            status = app(
                args=None if args is None else list(args),
                prog_name="napari-clipsam",
                standalone_mode=False,
            )
        except _UsageError as error:
            return _fail(error.format_message().rstrip(".") + "." + _help_hint(error), 2)
        except Stopped as error:
            return _fail(str(error), 130)
        except ClipSamError as error:
            details = "" if error.exit_code == 2 else _details()
            return _fail(str(error) + details, error.exit_code)
        except (KeyboardInterrupt, typer.Abort):
            status = 130
        except BrokenPipeError:
            # Whoever read the output has left; what is still buffered has no reader either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:  # noqa: BLE001 - nothing may end in a traceback
            reason = (str(error) or type(error).__name__).rstrip(".")
            return _fail(f"Something went wrong that was not foreseen: {reason}.{_details()}", 1)
    if status == 130:
        return _fail("Stopped.", 130)
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return status


def _help_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    path = "napari-clipsam" if context is None else context.command_path
    return f" `{path} --help` shows how it is used."


def _details() -> str:
    """Write the traceback to a file; return the sentence that says where it is."""
    try:
        handle, path = tempfile.mkstemp(prefix="napari-clipsam-", suffix=".log", text=True)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(f"{sys.argv}\n\n{traceback.format_exc()}")
    except OSError as error:
        return f" The details could not be written to a file ({error})."
    return f" The details are in {path}."


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings and logs of the libraries off the terminal; errors are said in one line."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(silent)
