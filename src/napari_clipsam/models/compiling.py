"""The encoder's blocks compiled by `torch.compile`, one at a time.

All blocks of a kind run the same code with other weights, so it is compiled once for each kind and
not once for each block, and between blocks a run can be stopped as ever. What was compiled is kept
in the user's folder: the next process only reads it.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from napari_clipsam._folders import user_folder
from napari_clipsam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["Compilation", "compiled", "require_compiler"]

#: ``blocks`` compiles; ``graphs`` also replays what a GPU has to do as one CUDA graph for a block.
Compilation = Literal["none", "blocks", "graphs"]


def require_compiler(compilation: Compilation, device: torch.device) -> None:
    """Look whether a device's code can be compiled here.

    Raises
    ------
    ConfigError
        There is no such compilation, no compiler, or the device has none.
    """
    if compilation not in get_args(Compilation):
        known = ", ".join(get_args(Compilation))
        raise ConfigError(f"There is no compilation '{compilation}'. Choose one of {known}.")
    if compilation == "none":
        return
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"The encoder is not compiled for {device.type} devices. Leave compilation out, or "
            "choose the device cpu."
        )
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if sys.platform != "win32" and shutil.which(compiler) is None:
        raise ConfigError(
            f"Compiling needs a C++ compiler, and there is no '{compiler}' here. Install one (on "
            "Debian: apt-get install g++), name yours in the environment's CXX, or leave "
            "compilation out."
        )


def compiled(run: Callable[..., Tensor], graphs: bool = False) -> Callable[..., Tensor]:
    """A block's function compiled for inference; with gradients it runs as it is.

    Shapes are those of the first call: each other one, as of a batch that is smaller, is compiled
    anew, and from the ninth on runs as it is.

    Parameters
    ----------
    run : callable
        Tensors and modules to a tensor.
    graphs : bool
        On a GPU replay a CUDA graph; nothing else on a CPU.

    Raises
    ------
    ConfigError
        This Python or this PyTorch cannot compile; from the calls, that compiling failed.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(user_folder() / "compiled"))
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
    try:
        from torch._dynamo.exc import TorchDynamoException

        mode = "reduce-overhead" if graphs else "default"
        fast: Any = torch.compile(run, dynamic=False, mode=mode)
    except (ImportError, RuntimeError) as error:
        raise ConfigError(f"The encoder cannot be compiled here ({error}).") from error

    def choose(*args: Any) -> Tensor:
        if torch.is_grad_enabled():
            return run(*args)
        try:
            if not graphs:
                return fast(*args)
            # The next replay would write over what this one gives.
            torch.compiler.cudagraph_mark_step_begin()
            return fast(*args).clone()
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"The encoder could not be compiled ({reason}). Leave compilation out."
            ) from error

    return choose
