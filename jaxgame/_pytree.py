"""Frozen dataclasses that are pytrees, for objects whose constructor validates its arguments.

`flax.struct.dataclass` rebuilds an object through its constructor. A game must not: JAX unflattens with tracers,
placeholders, cotangents and scaled copies, none of which are valid constructor arguments.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def pytree(*, static: tuple[str, ...] = ()):
    """Class decorator: a frozen dataclass, every field a child unless named in `static`.

    A `__post_init__` may validate and convert fields with `assign`; it runs in the constructor only, never on
    unflatten. Fields that it filled because the caller left them out are listed in `_defaulted`, so that `replace`
    computes them anew from the other arguments.
    """

    def wrap(cls: type[T]) -> type[T]:
        cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
        names = [field.name for field in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
        children = [name for name in names if name not in static]
        arguments = list(inspect.signature(cls).parameters)

        # Flattening happens at every call of a jitted function: a lookup in C, not a loop.
        kept = *static, "_defaulted"
        values_of, fixed_of = operator.attrgetter(*children, "_defaulted"), operator.attrgetter(*kept)
        cls._defaulted = ()  # pyright: ignore[reportAttributeAccessIssue]

        def flatten_with_keys(obj):
            values, data = flatten(obj)
            return list(zip(map(jax.tree_util.GetAttrKey, children), values, strict=True)), data

        def flatten(obj):
            return values_of(obj)[:-1] if children else (), fixed_of(obj)

        def unflatten(data, values):
            obj = object.__new__(cls)
            assign(obj, **dict(zip(kept, data if static else (data,), strict=True)))
            assign(obj, **dict(zip(children, values, strict=True)))
            return obj

        def replace(self: Any, **changes: Any):
            """A copy with the named constructor arguments changed, validated anew."""
            if unknown := set(changes) - set(arguments):
                raise ValueError(f"{cls.__name__}.replace: unknown argument {sorted(unknown)}; choose from {arguments}")
            others = [name for name in arguments if name not in changes]
            same = {name: None if name in self._defaulted else getattr(self, name) for name in others}
            return type(self)(**same, **changes)

        setattr(cls, "replace", replace)  # noqa: B010  (a plain assignment is an unknown attribute to the type checker)
        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
        return cls

    return wrap


def assign(obj: Any, **values: Any) -> None:
    """Set fields of a frozen object under construction."""
    for name, value in values.items():
        object.__setattr__(obj, name, value)


@jax.tree_util.register_pytree_node_class
class Carried:
    """A game or solver on its way into jit: a pytree travels as one, any other object by identity.

    With its class beside it: JAX takes dataclasses of different classes and equal fields for the same tree, and one
    solver could run the other's program.
    """

    def __init__(self, tree: Any, opaque: Any, kind: Any):
        self.tree, self.opaque, self.kind = tree, opaque, kind

    @classmethod
    def wrap(cls, x: Any) -> Carried:
        return cls(None, x, None) if jax.tree_util.all_leaves((x,)) else cls(x, None, type(x))

    def unwrap(self) -> Any:
        return self.tree if self.opaque is None else self.opaque

    def tree_flatten(self):
        return (self.tree,), (self.opaque, self.kind)

    @classmethod
    def tree_unflatten(cls, fixed, children):
        return cls(children[0], *fixed)
