"""The README's Python runs as it stands there, block after block in one namespace."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)


class _Uniform:
    def log_probs(self, tokens):
        return jax.numpy.full((len(tokens), 3), -np.log(3))


@pytest.mark.slow
def test_every_block_runs(capsys):
    rng = np.random.default_rng(0)
    names: dict = {
        "appeal": rng.normal(size=(5, 7)),
        "risk": rng.uniform(1, 2, 5),
        "wanted_profile": rng.dirichlet(np.ones(7), 100),
        "models": [_Uniform() for _ in range(7)],
        "tokens": jax.numpy.asarray([0, 2, 1]),
        "scores": np.log(rng.dirichlet(np.ones(7), 300)),
        "reference": np.zeros(300),
    }
    assert len(BLOCKS) == 8
    # A reader has JAX's defaults.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for number, block in enumerate(BLOCKS):
            exec(compile(block, f"README.md, block {number}", "exec"), names)
            if number == 1:
                own = names["jg"].solve(names.pop("game"))
                assert own.converged and own.profile.shape == (5, 7)
                names["game"] = names["eq"].game
    printed = capsys.readouterr().out
    assert "Converged" in printed and "excluded: ['extremely liberal', 'extremely conservative']" in printed
    assert names["proof"].unique and names["plan"].success
    assert names["found"].converged and names["rough"].converged and bool(names["fitted"].identified)
    assert names["diagram"].converged.all() and sum(len(points) for points in names["edges"].crossings) > 20
    assert names["appeals"].shape == (50, 7) and np.isfinite(names["gradient"]).all()
