"""Which changes of parameters the data cannot see, and what they are in words."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import numpy as np

NAMED_LEAVES = 8  # up to which sets of parameters are tried for a common factor
LARGE = 0.3  # of the largest entry: what the description of a direction without a name mentions


class Parameters:
    """A pytree of parameters as one vector, with names and units."""

    def __init__(self, theta: Any):
        found, self.structure = jax.tree_util.tree_flatten_with_path(theta)
        self.names = [jax.tree_util.keystr(path, simple=True, separator=".") or "theta" for path, _ in found]
        self.shapes = [np.shape(leaf) for _, leaf in found]
        self.dtypes = [leaf.dtype for _, leaf in found]
        self.vector = np.concatenate([np.asarray(leaf, np.float64).ravel() for _, leaf in found])
        ends = np.cumsum([0, *(int(np.prod(shape)) for shape in self.shapes)])
        self.slices = [slice(a, b) for a, b in itertools.pairwise(ends)]

    def tree(self, vector: Any, dtype: Any = None) -> Any:
        """A vector (…, p) in the shape of the parameters."""
        leaves = [
            np.asarray(vector[..., part], dtype or kind).reshape((*vector.shape[:-1], *shape))
            for part, shape, kind in zip(self.slices, self.shapes, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.structure, leaves)

    def units(self, vector: np.ndarray) -> np.ndarray:
        """The size of each parameter's leaf: what counts as a large change of it."""
        sizes = [np.abs(vector[part]).max(initial=0) or 1.0 for part in self.slices]
        return np.concatenate([np.full(part.stop - part.start, s) for part, s in zip(self.slices, sizes, strict=True)])

    def entry(self, k: int) -> str:
        """The name of one number."""
        leaf = next(j for j, part in enumerate(self.slices) if part.start <= k < part.stop)
        if not self.shapes[leaf]:
            return self.names[leaf]
        index = np.unravel_index(k - self.slices[leaf].start, self.shapes[leaf])
        return f"{self.names[leaf]}[{', '.join(str(int(i)) for i in index)}]"


def null_space(jacobian: np.ndarray, tolerance: float) -> np.ndarray:
    """Orthonormal directions (k, p) that change nothing, of a Jacobian (N, p) in comparable units."""
    size = jacobian.shape[1]
    _, values, rows = np.linalg.svd(np.vstack([jacobian, np.zeros((1, size))]))
    values = np.concatenate([values, np.zeros(size - len(values))])
    # A change of a parameter by all of its size that moves shares by 1e-9 counts as none.
    return rows[values <= max(tolerance * values.max(initial=0.0), 1e-9)]


def sentences(parameters: Parameters, vector: np.ndarray, directions: np.ndarray, units: np.ndarray) -> list[str]:
    """What is not identified, a sentence a direction; directions (k, p) in the units (p,)."""
    left, out = directions, []
    for candidate, sentence in _candidates(parameters, vector, units):
        if not len(left):
            break
        size = np.linalg.norm(candidate)
        inside = left @ candidate
        if size > 0 and np.linalg.norm(inside) > (1 - 1e-6) * size:
            out.append(sentence)
            # What remains of the space when this direction is taken out.
            _, _, rows = np.linalg.svd((inside / np.linalg.norm(inside))[None])
            left = rows[1:] @ left
    for direction in left:
        largest = np.abs(direction).max()
        terms = [
            f"{direction[k] * units[k] / largest:+.3g} {parameters.entry(int(k))}"
            for k in np.argsort(-np.abs(direction))
            if abs(direction[k]) > LARGE * largest
        ]
        out.append(f"A change in the ratio {', '.join(terms[:6])} has no effect.")
    return out


def _candidates(parameters: Parameters, vector: np.ndarray, units: np.ndarray) -> Any:
    """Directions that have a name, (p,) in units, the simplest first."""
    for k in range(len(vector)):
        yield np.eye(len(vector))[k], f"{parameters.entry(k)} has no effect."
    for name, shape, part in zip(parameters.names, parameters.shapes, parameters.slices, strict=True):
        if not shape or shape[-1] < 2:
            continue
        rows = np.arange(part.start, part.stop).reshape(-1, shape[-1])
        for i, row in enumerate(rows):
            where = name if len(shape) == 1 else f"{name}[{', '.join(map(str, np.unravel_index(i, shape[:-1])))}]"
            constant = np.zeros(len(vector))
            constant[row] = 1
            yield constant, f"The same number added to all of {where} has no effect: only differences are identified."
            factor = np.zeros(len(vector))
            factor[row] = vector[row] / units[row]
            yield factor, f"A factor of {where} has no effect: only ratios within it are identified."
    leaves = range(len(parameters.names))
    if len(leaves) > NAMED_LEAVES:
        return
    for count in range(1, len(leaves) + 1):
        for chosen in itertools.combinations(leaves, count):
            factor = np.zeros(len(vector))
            for leaf in chosen:
                part = parameters.slices[leaf]
                factor[part] = vector[part] / units[part]
            names = [parameters.names[leaf] for leaf in chosen]
            if count == 1:
                yield factor, f"A factor of {names[0]} has no effect: only ratios within it are identified."
            else:
                together = f"{', '.join(names[:-1])} and {names[-1]}"
                yield factor, f"A common factor of {together} has no effect: only their ratios are identified."
