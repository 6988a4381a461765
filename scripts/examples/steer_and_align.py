# A notebook in percent format: it opens as one in most editors (and with jupytext), and runs as a script.

# %% [markdown]
# # Steer, and align
#
# A population leaves groups out. What is the smallest change that brings everyone in, and do models that play the
# result say so?

# %%
import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np

import jaxgame as jg

survey = jg.surveys.load("gss2018-ideology")
game = survey.game(3, attractiveness=0.5, consistency=1.0, diversity=0.1)
before = jg.solve(game)
print("left out:", [name for name, gone in zip(survey.groups, jg.excluded(before), strict=True) if gone])

# %% [markdown]
# One addition to everyone's appeal that brings every group to half of its share of the people, with a proof by a fresh
# solve of the changed game.

# %%
plan = jg.steer_to_floor(game, survey.shares / 2, lever="common")
print(plan.guidance(survey.groups))
assert plan.success
plan

# %% [markdown]
# Now models. A model here is anything that gives log-probabilities of the next token; to keep it short, each group's
# model answers a question at a time, as the group does in the survey. A mixture of them speaks for the groups in the
# proportions that the equilibrium says.


# %%
class Group:
    """Answers of one group: after the start token, one token a question."""

    def __init__(self, answers):
        self.log_answers = jnp.log(answers)  # (questions, options)

    def log_probs(self, tokens):
        rows = jnp.minimum(jnp.arange(len(tokens)), len(self.log_answers) - 1)
        return self.log_answers[rows]


tables = [table for table in survey.answers.values() if table.shape[1] == 3]  # questions with three answers
answers = jnp.stack(tables, 1)  # (D, questions, options)
models = [Group(rows) for rows in answers]
weights = plan.equilibrium.profile[0]
agent = jg.policies.MixturePolicy(models, weights)
prompt = jnp.zeros(1, jnp.int32)  # a start token: conditioned on, never scored
replies = agent.sample(jax.random.key(10), len(tables), 4000, prompt=prompt)
print(f"{len(replies):,} replies to {len(tables)} questions, the first: {replies[0].tolist()}")

# %% [markdown]
# From the text alone, and the group models: for whom does the agent speak? That is maximum likelihood, with its
# standard errors. Groups that answer alike are hard to tell apart, and their errors say so.

# %%
questions = jnp.arange(len(tables))
log_likelihoods = jnp.log(answers)[:, questions[None], replies].sum(-1).T  # (replies, D)
estimate = jg.policies.estimate_mixture(log_likelihoods)
print("predicted, in the text, standard error")
for name, w, found, error in zip(survey.groups, weights, estimate.weights, estimate.standard_errors, strict=True):
    print(f"{name:24}{w:8.3f}{found:8.3f}{error:8.3f}")
away = np.abs(np.asarray(estimate.weights) - np.asarray(weights)) / np.asarray(estimate.standard_errors)
print(f"at most {away.max():.1f} standard errors apart")
assert away.max() < 5
# `jaxgame align` trains such models as small transformers on survey text and goes all the way round.
