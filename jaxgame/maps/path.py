"""path(): an equilibrium followed exactly along a line, with every group that an agent drops or picks up."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgame.maps.line import Family, family, onward, piece_on, settle, start_corner

MOST = 100_000  # pieces after which something is wrong


class Event(NamedTuple):
    """At s, an agent's share of a group leaves zero or reaches it; kind: "enters" or "leaves"."""

    s: float
    agent: int
    group: int
    kind: str


@dataclasses.dataclass(frozen=True, eq=False)
class Path:
    """The equilibrium as a piecewise affine function of s in [start, end].

    events: in the order of s, then agent, then group. breaks (k,): where pieces begin and end, start and end included;
    profiles (k, n, D): the equilibria there, between which it is affine. support (n, D): who represents
    whom at the start. reach (n,): weights of the representation.
    """

    start: float
    end: float
    events: list[Event]
    breaks: np.ndarray
    profiles: np.ndarray
    support: np.ndarray
    reach: np.ndarray

    def profile_at(self, s: Any) -> np.ndarray:
        """The equilibrium (…, n, D) at s (…). Raises ValueError outside [start, end]."""
        s = np.asarray(s, float)
        if not ((s >= self.start) & (s <= self.end)).all():
            raise ValueError(f"s is {s}, expected values in [{self.start:g}, {self.end:g}]")
        k = np.clip(np.searchsorted(self.breaks, s, side="right") - 1, 0, len(self.breaks) - 2)
        first, length = self.breaks[k], self.breaks[k + 1] - self.breaks[k]
        share = np.asarray((s - first) / length, self.profiles.dtype)[..., None, None]
        return (1 - share) * self.profiles[k] + share * self.profiles[k + 1]

    def at(self, s: Any) -> np.ndarray:
        """The representation (…, D) at s (…). Raises ValueError outside [start, end]."""
        return np.einsum("i,...id->...d", self.reach, self.profile_at(s))

    @property
    def exclusions(self) -> list[tuple[float, int, str]]:
        """(s, group, kind): where the last agent drops a group, or the first picks it up."""
        counts, found = self.support.sum(0), []
        for s, together in itertools.groupby(self.events, key=lambda event: event.s):
            before = counts.copy()
            for event in together:
                counts[event.group] += 1 if event.kind == "enters" else -1
            changed = np.flatnonzero((before == 0) != (counts == 0)).tolist()
            found += [(s, d, "enters" if counts[d] else "leaves") for d in changed]
        return found

    def __repr__(self) -> str:
        return f"Path([{self.start:g}, {self.end:g}], {len(self.events)} events)"


def path(build: Callable[[float], Any], start: float = 0.0, end: float = 1.0) -> Path:
    """Follow the equilibrium of `build(s)` from start to end, exactly.

    build: a number -> a quadratic, strongly monotone game of which only the linear term depends on s, affinely: along
    targets, appeal or attractiveness (not the last two at once). Between events the equilibrium is affine in s; what
    happens at one, of whatever many agents at once, is settled by parametric pivoting (theory §3.6).

    An event at `start` or `end` itself counts. A share that only touches zero is no event. Called with concrete
    numbers, a few times; not under jit.

    Raises ValueError for a start that is not below the end, a game that is not quadratic or not proved to be strongly
    monotone (for some weights of the agents), and data that are not affine in s.
    """
    start, end = float(start), float(end)
    if not (np.isfinite(start) and np.isfinite(end) and start < end):
        raise ValueError(f"start is {start} and end {end}, expected finite numbers, the first below the second")
    return follow(family("path", build, np.array([[start], [end]])), start, end)


def follow(games: Family, start: float, end: float) -> Path:
    """The path of a family of one parameter."""
    dtype = games.start.dtype
    line = games.line(jnp.zeros(1, dtype), jnp.ones(1, dtype))
    # The face beyond the end is asked for, too, to tell whether what reaches zero there leaves.
    last = jnp.asarray(1 + 4 * float(jnp.finfo(dtype).eps), dtype)
    corner = start_corner(games)
    support = represented = np.asarray(games.start > games.tolerance)
    ats, profiles, changes = [], [], {}
    while True:
        at = min(float(corner.at), 1.0)
        corner, done = settle(line, corner, last, games.tolerance)
        if not bool(done) or len(ats) > MOST:
            raise ValueError(f"path: no end of events at s = {start + at * (end - start):.10g}; follow it by sweep")
        face = np.asarray(corner.face)
        for pair in map(tuple, np.argwhere(face != represented).tolist()):
            here = changes.setdefault(at, {})
            here.pop(pair) if pair in here else here.update({pair: "enters" if face[pair] else "leaves"})
        represented = face
        now = piece_on(line, corner.face, corner.at)
        ats.append(at)
        profiles.append(np.maximum(np.asarray(now.w), 0))
        corner = onward(line, corner, last, games.tolerance)
        if bool(corner.over):
            profiles.append(np.maximum(np.asarray(now.w) + (1 - at) * np.asarray(now.dw), 0).astype(dtype))
            break
    breaks = start + np.array([*ats, 1.0]) * (end - start)
    breaks[-1] = end
    kept = np.concatenate([np.diff(breaks) > 0, [True]])
    events = [
        Event(start + at * (end - start), agent, group, kind)
        for at, pairs in changes.items()
        for (agent, group), kind in pairs.items()
    ]
    return Path(start, end, sorted(events), breaks[kept], np.stack(profiles)[kept], support, np.asarray(games.reach))
