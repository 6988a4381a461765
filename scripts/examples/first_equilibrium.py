# A notebook in percent format: it opens as one in most editors (and with jupytext), and runs as a script.

# %% [markdown]
# # A first equilibrium
#
# A hundred language models each choose which groups of people to speak for. What happens, and who is left out?

# %%
import jax

jax.config.update("jax_enable_x64", True)

import numpy as np

import jaxgame as jg

survey = jg.surveys.load("gss2018-ideology")
print(survey.title, "–", ", ".join(survey.groups))

# %% [markdown]
# Every agent is aligned to the shares of the people (consistency), likes what the audience likes (attractiveness), and
# wants to differ a little from the others (diversity).

# %%
game = survey.game(100, attractiveness=0.5, consistency=1.0, diversity=0.1)
equilibrium = jg.solve(game)
print(equilibrium.message)
equilibrium

# %% [markdown]
# Who is represented, and what would the others have to gain before anyone took them up?

# %%
out = np.asarray(jg.excluded(equilibrium))
price = jg.inclusion_price(game, equilibrium)
for name, people, shown, gone, cost in zip(
    survey.groups, survey.shares, equilibrium.representation, out, price, strict=True
):
    what = f"excluded, price of inclusion {cost:.4f}" if gone else f"{shown:6.1%} of what is shown"
    print(f"{name:24}{people:6.1%} of the people, {what}")

# %% [markdown]
# Is that true, and the only possible outcome? A certificate holds whatever found the profile.

# %%
proof = jg.certify(game, equilibrium.profile)
print(proof.message)
assert proof.unique

# %% [markdown]
# As attractiveness grows against consistency, groups fall out one after the other, each at a ratio of its own.

# %%
for ratio, name in sorted(zip(np.asarray(jg.critical_ratios(game)).tolist(), survey.groups, strict=True)):
    print(f"{name:24}falls out at α/γ = {ratio:.3f}" if np.isfinite(ratio) else f"{name:24}never falls out")
