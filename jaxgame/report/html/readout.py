"""The numbers behind a cursor on a phase diagram, packed so that a quarter of a million points fit into a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgame.maps.result import APART, Sweep

MOST = 2_000_000  # shares that a page holds; of larger sweeps every second, third … point of each axis
UNIT = 65_534  # a share of 1; 65,535 stands for one that was not found
STATUSES = ("converged", "out of steps", "not finite", "stalled")
CERTAINTIES = (
    "Proved to be the only equilibrium",
    "Not proved to be the only equilibrium; no other was found",
    "Not proved to be the only equilibrium; nothing is known of others",
    "Several equilibria were found",
)


def thinned(sweep: Sweep) -> Sweep:
    """Every so many-th point along each axis, so that what remains fits into a page; small sweeps as they are."""
    stride = 1
    while np.prod([-(-length // stride) for length in sweep.shape]) * sweep.representation.shape[-1] > MOST:
        stride += 1
    return sweep if stride == 1 else sweep.sel(**{name: axis[::stride] for name, axis in sweep.axes.items()})


def pack(sweep: Sweep, groups: Sequence[str], labels: Sequence[str], start: Sequence[float]) -> dict[str, Any]:
    """All points of a sweep for the page's script. labels: of the axes; start: where the cursor stands at first.

    shares: uint16 little-endian, points × groups, in units of 1/UNIT; excluded: bits, `width` bytes a point;
    status and certainty: a byte a point, as in STATUSES and CERTAINTIES; all in base64.
    """
    shares = np.where(sweep.converged[..., None], np.clip(sweep.representation, 0, 1), np.nan)
    missing = np.isnan(shares)
    codes = np.where(missing, UNIT + 1, np.round(np.where(missing, 0, shares) * UNIT)).astype("<u2")
    bits = np.packbits(sweep.excluded, axis=-1)
    apart = np.nan_to_num(sweep.disagreement)
    certainty = np.select([sweep.unique, apart > APART, np.isnan(sweep.disagreement)], [0, 3, 2], 1)
    axes = zip(labels, sweep.axes.values(), strict=True)
    return {
        "axes": [{"label": label, "values": values} for label, values in axes],
        "groups": list(groups),
        "shares": _text(codes),
        "excluded": _text(bits),
        "status": _text(sweep.status.astype(np.uint8)),
        "certainty": _text(certainty.astype(np.uint8)),
        "unit": UNIT,
        "missing": UNIT + 1,
        "width": bits.shape[-1],
        "statuses": STATUSES,
        "certainties": CERTAINTIES,
        "start": [int(np.abs(axis - at).argmin()) for axis, at in zip(sweep.axes.values(), start, strict=True)],
    }


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
