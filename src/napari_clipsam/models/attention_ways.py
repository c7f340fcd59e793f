"""Ways to attend with a bias of rows and columns, and which of them a device does fastest.

SAM adds ``q . R_h[i_h - j_h] + q . R_w[i_w - j_w]`` to every attention logit. Nobody holds that
bias for all queries and keys:

- As a mask of ``scaled_dot_product_attention``, some rows of queries at a time.
- As extra columns. Both terms are linear in ``q``: the query carries its ``H`` row terms and ``W``
  column terms, the key the one-hot code of its row and column, and their product is the bias.
  Gradients pass through without a mask being kept for them.
- Written out, a part at a time that stays in the processor's cache.

They differ by rounding alone. Where keys are many it is measured once which is fastest, on a small
part of the call at hand, and kept in the user's folder: from then on the same device computes calls
of that size the same way. Threads that share a busy processor wait for each other in ways that a
short measurement does not see, so a CPU with several of them keeps to masks.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_clipsam._folders import user_folder
from napari_clipsam._machine import processor_name

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["WAYS", "Way", "fastest", "in_parts", "with_columns", "with_masks"]

#: Queries (B, heads, N, d), keys and values (B, heads, H W, d), terms of rows (B, heads, N, H) and
#: of columns (B, heads, N, W), and the scale, to (B, heads, N, d).
Way = Callable[["Tensor", "Tensor", "Tensor", "Tensor", "Tensor", float], "Tensor"]

# Entries of a mask that are held at once; 64 MB in float32.
_MASK_ENTRIES = 1 << 24
# Logits that are held at once where they are written out; 4 MB in float32.
_LOGITS = 1 << 20
# Kernels of GPUs take widths that are multiples of this.
_ALIGNMENT = 8
# Fewer keys than this, as in a window, take too little time to choose.
_MANY = 1024
# Queries of a measurement, its turns, and what a way must take of the default's time at most.
_SAMPLE, _TURNS, _GAIN = 1024, 3, 0.95

_chosen: dict[str, str] = {}


def with_masks(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor, scale: float) -> Tensor:
    """Attention with the bias as a mask, as many rows of queries at a time as the limit allows."""
    b, heads, n, _ = q.shape
    step = max(1, _MASK_ENTRIES // (b * heads * k.shape[2]))
    parts = []
    for start in range(0, n, step):
        some = slice(start, start + step)
        bias = (rows[:, :, some, :, None] + cols[:, :, some, None, :]).flatten(3)
        parts.append(
            F.scaled_dot_product_attention(q[:, :, some], k, v, attn_mask=bias, scale=scale)
        )
    return torch.cat(parts, dim=2)


def with_columns(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor, scale: float
) -> Tensor:
    """Attention with the bias as extra columns of q and one-hot ones of k."""
    b, heads, n, d = k.shape
    h, w = rows.shape[-1], cols.shape[-1]
    index = torch.arange(n, device=q.device)
    one_hot = torch.cat([F.one_hot(index // w, h), F.one_hot(index % w, w)], dim=1).to(k.dtype)
    # The kernel multiplies every logit by the scale; SAM does not scale the bias.
    q = torch.cat([q, rows / scale, cols / scale], dim=-1)
    k = torch.cat([k, one_hot.expand(b, heads, n, h + w)], dim=-1)
    missing = -(d + h + w) % _ALIGNMENT
    if missing:
        q, k = F.pad(q, (0, missing)), F.pad(k, (0, missing))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def in_parts(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor, scale: float) -> Tensor:
    """Attention written out, for as many queries of a head at a time as the limit allows."""
    n, grid = q.shape[2], (rows.shape[-1], cols.shape[-1])
    step = max(1, _LOGITS // k.shape[2])
    out = q.new_empty(*q.shape[:3], v.shape[-1])
    for one in ((image, head) for image in range(q.shape[0]) for head in range(q.shape[1])):
        for start in range(0, n, step):
            part = *one, slice(start, start + step)
            logits = (q[part] * scale) @ k[one].T
            on_grid = logits.unflatten(1, grid)
            on_grid += rows[part][:, :, None]
            on_grid += cols[part][:, None, :]
            out[part] = logits.softmax(dim=-1) @ v[one]
    return out


WAYS: dict[str, Way] = {"masks": with_masks, "columns": with_columns, "parts": in_parts}


def fastest(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor, scale: float) -> Way:
    """The way that is fastest for a call, as far as it pays to find out.

    The environment's ``NAPARI_CLIPSAM_ATTENTION`` may name one of `WAYS`, or be ``default`` for
    what is taken where nothing is measured: masks on a CPU, columns elsewhere.
    """
    if rows.requires_grad:
        return WAYS["columns"]
    on_cpu = q.device.type == "cpu"
    default = "masks" if on_cpu else "columns"
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # type: ignore[attr-defined]
        return WAYS[default]
    asked = os.environ.get("NAPARI_CLIPSAM_ATTENTION")
    if asked:
        return WAYS.get(asked, WAYS[default])
    # Only the kernels keep logits in float32 where all else is rounded.
    others = ["parts"] if q.dtype == torch.float32 else []
    if not on_cpu:
        others.append("masks")
    elif torch.get_num_threads() > 1:
        others.clear()
    if not others or k.shape[2] < _MANY:
        return WAYS[default]
    # A mask takes fewer queries where heads and images are many; powers of two are near enough.
    lots = 1 << (q.shape[0] * q.shape[1] - 1).bit_length()
    key = f"{_device(q.device)}, {q.dtype}, {lots} x {k.shape[2]} keys of {q.shape[3]}"
    if key not in _chosen:
        _chosen.update(_read())
    if _chosen.get(key) not in WAYS:
        _chosen[key] = _measured([default, *others], q, k, v, rows, cols, scale)
        _write()
    return WAYS[_chosen[key]]


def _device(device: torch.device) -> str:
    """What computes, as far as it matters for speed."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        name = f"{processor_name()} {capability}"
    return f"{device.type} {name}, torch {torch.__version__}"


def _measured(
    names: list[str],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    cols: Tensor,
    scale: float,
) -> str:
    """The fastest of some ways; the first one where others gain little."""
    on_cpu = q.device.type == "cpu"
    if on_cpu:
        # One head of one image; a GPU would not be filled by it.
        q, k, v, rows, cols = (x[:1, :1] for x in (q, k, v, rows, cols))
    q, rows, cols = (x[:, :, :_SAMPLE] for x in (q, rows, cols))
    # A thread's own time, where it is alone, does not count what else the machine does.
    clock = time.thread_time if on_cpu else time.perf_counter
    wait = getattr(torch, q.device.type).synchronize
    if q.is_cuda:
        wait = partial(wait, q.device)
    times = dict.fromkeys(names, float("inf"))
    for _ in range(_TURNS):
        for name in names:
            wait()
            start = clock()
            WAYS[name](q, k, v, rows, cols, scale)
            wait()
            times[name] = min(times[name], clock() - start)
    best = min(names, key=lambda name: times[name])
    return best if times[best] < _GAIN * times[names[0]] else names[0]


def _file() -> Path:
    return user_folder() / "attention.json"


def _read() -> dict[str, str]:
    """What was chosen before; nothing where that cannot be read."""
    # Without pooch there is no folder of the user's.
    with contextlib.suppress(OSError, ValueError, ImportError):
        found = json.loads(_file().read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {key: way for key, way in found.items() if way in list(WAYS)}
    return {}


def _write() -> None:
    """Keep what was chosen, where that can be."""
    with contextlib.suppress(OSError, ImportError):
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{uuid.uuid4().hex[:12]}.json")
        part.write_text(json.dumps(_read() | _chosen, indent=1), encoding="utf-8")
        part.replace(file)
