# A notebook in percent format: it opens as one in most editors (and with jupytext), and runs as a script.

# %% [markdown]
# # Bring your own survey
#
# All that is needed is a CSV file with a row a person: a column with their group, and columns with their answers. Here
# it is made up; put your own file's name in its place.

# %%
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np

import jaxgame as jg

rng = np.random.default_rng(1)
views = {"coast": (450, 0.75, 0.8), "town": (400, 0.5, 0.55), "hills": (100, 0.2, 0.35), "islands": (50, 0.9, 0.1)}
lines = ["region,transit,fishing"]
for region, (people, transit, fishing) in views.items():
    answers = 1 + rng.binomial(4, [[transit, fishing]] * people)
    lines += [f"{region},{a},{b}" for a, b in answers]
file = Path("people.csv")
file.write_text("\n".join(lines) + "\n")

# %% [markdown]
# Groups, their shares, what they answer and how alike they are come from the file. Groups too small to say much have
# wide intervals later, not confident ones.

# %%
survey = jg.surveys.Survey.from_csv(file, "region", ["transit", "fishing"], title="Four regions")
for name, share in zip(survey.groups, survey.shares, strict=True):
    print(f"{name:8} {share:.1%}")
game = survey.game(20, attractiveness=0.4, consistency=1.0, diversity=0.1)
equilibrium = jg.solve(game)
names = [name for name, gone in zip(survey.groups, jg.excluded(equilibrium), strict=True) if gone]
print("left out:", ", ".join(names) or "nobody")

# %% [markdown]
# Had other people been asked, would the answer be the same? Posterior draws of the survey, each a game of its own,
# solved together.

# %%
draws = survey.posterior(0, 50)


def representation(drawn):
    return jg.solve(drawn.game(20, attractiveness=0.4, consistency=1.0, diversity=0.1)).representation


shown = np.asarray(jax.jit(jax.vmap(representation))(draws))
for name, low, high in zip(survey.groups, *np.quantile(shown, [0.05, 0.95], axis=0), strict=True):
    print(f"{name:8} between {low:.1%} and {high:.1%} of what is shown, in nine of ten draws")

# %% [markdown]
# A diagram of who is left out at other levels, which shows itself in a notebook; `jaxgame sweep` writes such diagrams,
# with a page to explore.

# %%


def build(attractiveness, diversity):
    return game.replace(attractiveness=attractiveness, diversity=diversity)


axes = {"attractiveness": np.linspace(0, 1, 15), "diversity": np.linspace(0, 0.5, 10)}
diagram = jg.sweep(build, axes, groups=survey.groups)
print(diagram.message)
diagram
