"""Shared set-up: strict JAX, one precision a run, and which tests run."""

import itertools
import os

# Most of a test is compilation, most of that LLVM optimising: the tests go without. Set before JAX starts.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import hypothesis
import jax
import numpy as np
import pytest

PRECISION = os.environ.get("JAXGAME_TEST_PRECISION", "float64")
if PRECISION not in ("float32", "float64"):
    raise pytest.UsageError(f"JAXGAME_TEST_PRECISION is {PRECISION!r}; expected 'float32' or 'float64'")

# Here, before any test module touches JAX: x64 cannot change once arrays exist.
jax.config.update("jax_enable_x64", PRECISION == "float64")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# No deadline: the first example pays for compilation. CI repeats the same examples in every run.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def runs(item: pytest.Item) -> bool:
        if item.get_closest_marker("slow") and not config.getoption("--all"):
            return False
        return PRECISION == "float64" or item.get_closest_marker("float32") is not None

    left_out = [item for item in items if not runs(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if runs(item)]


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Let go of compiled programs now and then: hundreds of them exhaust a process's memory maps, and it crashes."""
    if next(_finished) % 25 == 0:
        jax.clear_caches()


_finished = itertools.count(1)


@pytest.fixture
def rng() -> np.random.Generator:
    """The same stream for every test."""
    return np.random.default_rng(20260206)


@pytest.fixture
def dtype() -> np.dtype:
    """The floating dtype of this run: float64, or float32 in the single-precision pass."""
    return np.dtype(PRECISION)
