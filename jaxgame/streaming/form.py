"""What a block of agents is made of, and what it becomes: `Members` of the whole population."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxgame.games import AlignmentGame, Diagonal, MeanField, QuadraticGame, Scaled
from jaxgame.games.members import Members

KINDS = {
    "quadratic": (
        *("linear", "curvature", "curvature.diagonal", "curvature.scale", "curvature.matrix", "coupling.B"),
        *("coupling.sensitivity", "coupling.reach", "coupling.atomic", "coupling.include_self"),
    ),
    "alignment": (
        *("targets", "kernel", "appeal", "attractiveness", "consistency", "diversity", "reach", "spread"),
        *("diversity_form", "consistency_metric"),
    ),
}
OPTIONS = ("coupling.atomic", "coupling.include_self", "diversity_form", "consistency_metric")  # no numbers
REACH = {"quadratic": "coupling.reach", "alignment": "reach"}
MEETING = {"quadratic": "coupling.B", "alignment": "kernel"}
SHARES = ("targets",)  # rows on the simplex
UNSIGNED = ("targets", "attractiveness", "consistency", "reach", "coupling.reach")


class Form(NamedTuple):
    """What is known of a population when its passes are compiled."""

    kind: str
    n_agents: int
    options: tuple[tuple[str, Any], ...]


def small_game(form: Form, shared: dict[str, Any], rows: dict[str, Any]) -> Any:
    """The game of some agents by themselves, without their reach. ValueError where the parts do not fit."""
    given = {**shared, **rows, **dict(form.options)}
    given.pop(REACH[form.kind], None)
    if form.kind == "alignment":
        missing = [name for name in ("targets", "kernel", "appeal") if name not in given]
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        return AlignmentGame(**given)
    meeting = {name.removeprefix("coupling."): x for name, x in given.items() if name.startswith("coupling.")}
    if "B" not in meeting:
        raise ValueError("coupling.B is missing")
    return QuadraticGame(given["linear"], _curvature(given), coupling=MeanField(**meeting))


def _curvature(given: dict[str, Any]) -> Any:
    names = {name for name in given if name.startswith("curvature")}
    if names == {"curvature"}:
        return given["curvature"]
    if names == {"curvature.diagonal"}:
        return Diagonal(given["curvature.diagonal"])
    if names == {"curvature.scale", "curvature.matrix"}:
        return Scaled(given["curvature.scale"], given["curvature.matrix"])
    raise ValueError(
        f"curvature is given by {sorted(names)}, expected curvature, or curvature.diagonal, or curvature.scale with "
        "curvature.matrix"
    )


def members(form: Form, shared: dict[str, Array], rows: dict[str, Array]) -> Members:
    """A block's agents in the population that they are a part of."""
    game = small_game(form, shared, rows)
    reach = rows.get(REACH[form.kind])
    if form.kind == "alignment":
        return game.members(lambda x: x, form.n_agents).replace(reach=reach)
    uniform = jnp.full(rows["linear"].shape[0], 1 / form.n_agents, rows["linear"].dtype)
    return game.members(lambda x: x, reach=uniform if reach is None else reach)
