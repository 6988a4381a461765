"""What notebooks show, and the example notebooks themselves."""

import base64
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxgame as jg

EXAMPLES = Path(__file__).parents[1] / "scripts" / "examples"


@pytest.fixture
def game(rng):
    return jg.AlignmentGame(np.full((3, 4), 0.25), np.eye(4), np.array([1.0, 0.9, 0.2, -3.0]), consistency=1.0)


def cells(text):
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", text)[1:]]


def test_an_equilibrium_shows_shares_and_distances(game):
    found = jg.solve(game)
    rows = cells(found._repr_html_())
    assert [row[0] for row in rows] == [f"group {d}" for d in range(4)]
    np.testing.assert_allclose(
        [float(row[1].split()[0]) for row in rows], 100 * np.asarray(found.representation), atol=0.006
    )
    price = np.asarray(jg.inclusion_price(game, found))
    assert rows[3][3] == f"{price[3]:.3g}" and price[3] > 0 and rows[0][3] == ""
    assert str(found.message) in (found._repr_html_() or "")


def test_batches_and_traced_equilibria(game):
    many: Any = jax.vmap(lambda a: jg.solve(game.replace(attractiveness=a)))(np.linspace(0.1, 1, 5))
    assert "5 equilibria, 5 converged" in many._repr_html_()
    seen = []
    jax.jit(lambda a: seen.append(jg.solve(game.replace(attractiveness=a))._repr_html_()) or a)(1.0)
    assert seen == [None]


def test_a_plan_shows_before_and_after(game):
    plan = jg.steer_to_floor(game, 0.1, lever="price")
    text = plan._repr_html_()
    shown = [[float(entry.split()[0]) for entry in row[1:]] for row in cells(text)]
    before, after = (100 * np.asarray(e.representation) for e in (plan.before, plan.equilibrium))
    np.testing.assert_allclose(shown, np.stack([before, after, np.full(4, 10)], 1), atol=0.006)
    assert "This plan works." in text
    picture = re.search(r"src='data:image/png;base64,([^']+)'", text)
    assert picture is not None and base64.b64decode(picture.group(1)).startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first_equilibrium", "own_survey", "steer_and_align"])
def test_an_example_runs(name, tmp_path):
    """As a script, in a folder of its own, with Python's own warnings."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "excluded" in done.stdout or "left out" in done.stdout
    source = (EXAMPLES / f"{name}.py").read_text()
    assert source.count("# %% [markdown]") >= 3 and re.search(r"^# %%$", source, re.MULTILINE)
