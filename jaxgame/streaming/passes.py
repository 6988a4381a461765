"""What the device does with a block of agents, compiled once for all blocks, and the first stage on a sample."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxgame import linalg
from jaxgame._pytree import pytree
from jaxgame.certificate.gap import concave_agents
from jaxgame.games.members import Members
from jaxgame.solvers.population import Answer, Sample, answer, for_all
from jaxgame.solvers.respond import is_closed
from jaxgame.solvers.scale import norms
from jaxgame.solvers.settle import LEAST, Ground, Proof, Search, begin, of_members, proven, sample_size
from jaxgame.streaming.form import Form, members
from jaxgame.streaming.stream import Stream

SAMPLE_BYTES = 2**23  # of a sample's largest array


@pytree()
class Facts:
    """Of a block's agents, whatever they answer: largest own curvature and sensitivity, sums of the squares of
    sensitivities and weights, and whether all utilities are concave.
    """

    own: Array
    pull: Array
    sensitivity: Array
    weight: Array
    concave: Array


def _block(form: Form, shared: dict, rows: dict, count: Array) -> tuple[Members, Array]:
    """With what is behind `count`, repetitions of the last agent, left out of all sums."""
    all = members(form, shared, rows)
    return all, jnp.arange(all.linear.shape[0]) < count


def _counted(all: Members, fresh: Array) -> Sample:
    reach = None if all.reach is None else jnp.where(fresh, all.reach, 0)
    return Sample(all.replace(weight=jnp.where(fresh, all.weight, 0), reach=reach))


@functools.partial(jax.jit, static_argnums=0)
def answered(form: Form, shared: dict, rows: dict, count: Array, aggregate: Array, tol: Array, spread: Array) -> Answer:
    """What the first `count` agents of a block answer to an aggregate (D,), up to tol."""
    return answer(_counted(*_block(form, shared, rows, count)), aggregate, None, tol, spread=spread, write=count > 0)[0]


@functools.partial(jax.jit, static_argnums=0)
def mixtures(form: Form, shared: dict, rows: dict, aggregate: Array, tol: Array) -> Array:
    """The answers themselves, (b, D)."""
    all = Sample(members(form, shared, rows))
    profile = jnp.zeros((all.n_agents, all.n_groups), aggregate.dtype)
    known, always = jnp.ones((), aggregate.dtype), jnp.ones((), bool)
    _, profile = answer(all, aggregate, profile, tol, spread=known, write=always, first=True)  # as in the pass
    assert profile is not None
    return profile


@functools.partial(jax.jit, static_argnums=0)
def facts(form: Form, shared: dict, rows: dict, count: Array) -> Facts:
    all, fresh = _block(form, shared, rows, count)
    _, own = norms(all.affine())
    concave = concave_agents(Sample(all), jnp.zeros_like(all.linear))
    sensitivity, weight = (jnp.where(fresh, x * x, 0).sum() for x in (all.sensitivity, all.weight))
    return Facts(own, jnp.abs(all.sensitivity).max(), sensitivity, weight, concave.all())


@functools.partial(jax.jit, static_argnums=0)
def _from_sample(form: Form, shared: dict, rows: dict, start: Array) -> Search:
    few = members(form, shared, rows)
    return of_members(Sample(few.replace(weight=for_all(few.weight))), start)


def first_search(stream: Stream) -> Search:
    """Where the passes begin."""
    form, shared = stream.form, stream.numbers
    few = {name: jax.ShapeDtypeStruct((1, *shape), stream.dtype) for name, shape in stream.rows.items()}
    closed = is_closed(jax.eval_shape(functools.partial(members, form), shared, few))
    wide = max(math.prod(shape) for shape in stream.rows.values())
    most = max(LEAST, SAMPLE_BYTES // (wide * stream.dtype.itemsize))
    start = jnp.full(stream.n_groups, 1 / stream.n_groups, stream.dtype)
    return _from_sample(form, shared, stream.sample(min(most, sample_size(stream.n_agents, closed))), start)


def blank_search(stream: Stream) -> Search:
    """Of the shapes and dtypes of any search of a population."""
    zero = jnp.zeros(stream.n_groups, stream.dtype)
    return begin(zero, jnp.zeros((stream.n_groups, stream.n_groups), stream.dtype), 0.0)


@jax.jit
def ground_of(B: Array, own: Array, pull: Array, squares: Array) -> Ground:
    """squares (2,): sums over all agents of the squares of sensitivities and weights."""
    size = linalg.norm_bound(linalg.tangent(B[None]))[0]
    return Ground(own + jnp.sqrt(squares[0]) * jnp.sqrt(squares[1]) * size, own, pull, B)


@jax.jit
def concluded(ground: Ground, search: Search, proof: Proof, found: Answer) -> tuple[Search, Proof]:
    """After a pass. Its answers can be had again as they were, so all that it proves counts."""
    return search.tried(found.total, None), proven(ground, search, proof, found, jnp.ones((), bool))
