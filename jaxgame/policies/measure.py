"""measure(): from what was said to the game that is played, with uncertainties (theory §8)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgame import _checks
from jaxgame._pytree import pytree
from jaxgame.games import AlignmentGame
from jaxgame.policies import likelihood as mixture
from jaxgame.policies.estimate import MixtureEstimate, estimate_mixture
from jaxgame.policies.logs import Log
from jaxgame.surveys import draws as sampling

PRIOR = 0.5  # responses of every kind that each group is taken to have given before any was seen
MEASURED = ("mixtures", "kernel", "spread", "appeal")


@pytree(static=("groups", "agents", "left_out", "estimates"))
class Measurement:
    """n agents and D groups as a log shows them; what is measured has errors, bootstrap standard deviations.

    mixtures (n, D): what each agent says, as shares of groups; `estimates` has the agents' `MixtureEstimate`s with
    intervals. kernel (D, D), spread (D,): of the groups' responses. appeal (n, D): expected engagement with each group,
    (D,) if it is the same for all agents.
    draws: dict of the same four with a leading axis of bootstrap draws; the errors are theirs.
    groups, agents: names. left_out: responses that could not be used, to prompts that not every group answered.
    """

    mixtures: Any
    kernel: Any
    spread: Any
    appeal: Any
    errors: dict[str, Any]
    draws: dict[str, Any]
    estimates: tuple[MixtureEstimate, ...]
    groups: tuple[str, ...]
    agents: tuple[str, ...]
    left_out: int

    def game(self, *, targets: Any = None, **options: Any) -> AlignmentGame:
        """The alignment game that was measured. targets: (n, D), default the mixtures: agents are aligned to what they
        say. options: AlignmentGame's own, α, γ, δ among them, which no single log can tell (see `fit`).
        """
        if targets is None and not self.agents:
            raise ValueError("targets is missing: the log has responses of groups, but none of agents")
        targets = self.mixtures if targets is None else targets
        return AlignmentGame(targets, self.kernel, self.appeal, spread=self.spread, **options)

    def games(self, *, targets: Any = None, **options: Any) -> Any:
        """The games of all draws, a batch for `solve_many`; targets (n, D) and options are the same in all."""
        if targets is None and not self.agents:
            raise ValueError("targets is missing: the log has responses of groups, but none of agents")

        def one(drawn: dict[str, Any]) -> AlignmentGame:
            aligned = drawn["mixtures"] if targets is None else targets
            return AlignmentGame(aligned, drawn["kernel"], drawn["appeal"], spread=drawn["spread"], **options)

        return jax.vmap(one)(self.draws)


def measure(
    log: Log | str | os.PathLike[str] | Sequence[Mapping[str, Any]],
    audience: Any = None,
    *,
    groups: Sequence[str] | None = None,
    score: Any = None,
    embedding: Any = None,
    prior: float = PRIOR,
    draws: int = 200,
    seed: int | jax.Array = 0,
    dtype: Any = None,
) -> Measurement:
    """Measure the game that a log of responses shows.

    log: a `Log`, a file (format in `policies.logs`), or dicts with the entries of a row; `interview` makes one of
    group models. Rows with a group say what groups say; rows of agents without one are decomposed.

    audience: (D,) shares of the groups among those who listen, or (n, D), one audience an agent; appeal is then
    a = K·audience, how much a random listener finds themself in a group's content. None: appeal is measured from
    engagement, an agent's from its own responses, each counted for group d by p_d(response) / π(response) (so that the
    mean is E_{p_d}[engagement]); for agents without any from that with the groups' reference responses.

    groups: names in the order wanted, default sorted. score: log p_d(response), as an array (N, D) or a function
    (prompts (N,), responses (N,)) -> (N, D), such as those of language models; default the frequencies of the
    groups' own responses, prompt by prompt, with `prior` more of each, for closed questions. embedding: of the
    responses, an array (N, m) or a function (responses (N,)) -> (N, m): then K is the Gram matrix of the groups' mean
    embeddings and v their mean squared length, averaged over prompts; default one-hot responses, so that K_de is the
    probability that d and e say the same. (For real groups prefer answers: sentence embedders barely see stance.)

    draws: of the bootstrap, which resamples responses within prompt and group or agent; everything is measured anew
    in each. seed: integer or JAX key. dtype: of the arrays, default JAX's float.

    Raises ValueError for a log that is wrong (naming the line), names that do not occur, a prompt set that the groups
    do not share, arrays that do not fit, responses that are impossible in every group, and engagement that is needed
    and missing.
    """
    log = _log(log)
    count = int(draws)
    if count < 2:
        raise ValueError(f"draws is {draws!r}, expected a whole number ≥ 2")
    if not (np.isfinite(float(prior)) and float(prior) >= 0):
        raise ValueError(f"prior is {prior!r}, expected a finite number ≥ 0")
    work = _Work(log, groups, audience, score, embedding, float(prior))
    everything = work.measured(np.arange(len(log)))
    random = sampling.generator(seed)
    drawn = [work.measured(work.resampled(random)) for _ in range(count)]
    dtype = jnp.zeros(()).dtype if dtype is None else dtype
    stacked = {name: np.stack([each[name] for each in drawn]) for name in MEASURED}
    return Measurement(
        **{name: jnp.asarray(everything[name], dtype) for name in MEASURED},
        errors={name: jnp.asarray(x.std(0, ddof=1), dtype) for name, x in stacked.items()},
        draws={name: jnp.asarray(x, dtype) for name, x in stacked.items()},
        estimates=work.estimates(),
        groups=tuple(work.groups),
        agents=tuple(work.agents),
        left_out=int((~work.used).sum()),
    )


def _log(log: Any) -> Log:
    if isinstance(log, Log):
        return log
    return Log.read(log) if isinstance(log, str | os.PathLike) else Log.of(log)


class _Work:
    """A log in numbers, and what follows from a choice of its rows."""

    def __init__(self, log: Log, groups: Any, audience: Any, score: Any, embedding: Any, prior: float):
        found = sorted(set(log.group) - {""})
        self.groups = found if groups is None else [str(name) for name in groups]
        if missing := set(self.groups) - set(found):
            raise ValueError(f"groups has {sorted(missing)[0]!r}, of which {log.name} has no response; it has {found}")
        if not self.groups:
            raise ValueError(f"{log.name}: no response has a group, expected some to say what groups say")
        self.agents = sorted(set(log.agent) - {""})
        self.group = np.array([self.groups.index(g) if g in self.groups else -1 for g in log.group])
        self.agent = np.array([self.agents.index(a) if a else -1 for a in log.agent])
        self.prompts, self.prompt = _numbered(log.prompt.tolist())
        self.engagement, self.prior, self.log = log.engagement, prior, log
        size = len(self.groups)
        answered = np.zeros((len(self.prompts), size), int)
        np.add.at(answered, (self.prompt[self.group >= 0], self.group[self.group >= 0]), 1)
        common = np.all(answered > 0, axis=1)
        if not common.any():
            raise ValueError(f"{log.name}: no prompt has responses of all groups, {self.groups}, to compare them by")
        other = (log.group != "") & (self.group < 0)
        self.used = common[self.prompt] & ~other
        self.score = None if score is None else _rows("score", score, (log.prompt, log.response), (len(log), size))
        self.embedding = None if embedding is None else _rows("embedding", embedding, (log.response,), (len(log), "m"))
        self.options = self._options()
        self.audience = self._audience(audience)
        self.cells = self._cells()

    def _options(self) -> np.ndarray:
        """A number for every kind of response to every prompt."""
        return _numbered(zip(self.prompt.tolist(), self.log.response.tolist(), strict=True))[1]

    def _audience(self, audience: Any) -> np.ndarray | None:
        if audience is None:
            if not np.isfinite(self.engagement[self.used]).any():
                raise ValueError(f"audience is missing, and {self.log.name} has no engagement to measure appeal from")
            return None
        n, size = len(self.agents), len(self.groups)
        shares = _checks.array("audience", audience, _checks.float_dtype(audience), (size,), (n, size))
        return np.asarray(_checks.shares("audience", shares, audience), np.float64)

    def _cells(self) -> list[np.ndarray]:
        """Rows that are alike but for chance."""
        # Engagement that is known stays known in every draw.
        key = np.stack([self.prompt, self.group, self.agent, np.isfinite(self.engagement)], 1)[self.used]
        rows = np.flatnonzero(self.used)
        labels = np.unique(key, axis=0, return_inverse=True)[1].ravel()
        order = np.argsort(labels, kind="stable")
        return np.split(rows[order], np.cumsum(np.bincount(labels))[:-1])

    def resampled(self, random: np.random.Generator) -> np.ndarray:
        """As many rows of every cell, with replacement."""
        return np.concatenate([cell[random.integers(len(cell), size=len(cell))] for cell in self.cells])

    def estimates(self) -> tuple[MixtureEstimate, ...]:
        """With all rows."""
        rows = np.flatnonzero(self.used)
        scores = self._scores(rows)
        return tuple(
            estimate_mixture(scores[self.agent[rows] == i], groups=self.groups) for i in range(len(self.agents))
        )

    def measured(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        rows = rows[self.used[rows]]
        scores, agent = self._scores(rows), self.agent[rows]
        mixtures = np.zeros((len(self.agents), len(self.groups)))
        for i, name in enumerate(self.agents):
            if not (agent == i).any():
                raise ValueError(f"{self.log.name}: agent {name!r} answered no prompt that all groups answered")
            mixtures[i] = mixture.maximum(mixture.scaled(scores[agent == i]))
        kernel, spread = self._likeness(rows)
        if self.audience is not None:
            appeal = self.audience @ kernel
        else:
            appeal = self._engaged(rows, scores, mixtures)
        return dict(mixtures=mixtures, kernel=kernel, spread=spread, appeal=appeal)

    def _tables(self, rows: np.ndarray) -> np.ndarray:
        """p_d(response | prompt) for every kind of response, (options, D)."""
        labelled = rows[self.group[rows] >= 0]
        counts = np.full((self.options.max() + 1, len(self.groups)), self.prior)
        np.add.at(counts, (self.options[labelled], self.group[labelled]), 1)
        prompt_of = np.zeros(len(counts), int)
        prompt_of[self.options] = self.prompt
        totals = np.zeros((len(self.prompts), len(self.groups)))
        np.add.at(totals, prompt_of, counts)
        return counts / np.where(totals > 0, totals, 1)[prompt_of]

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        """log p_d(response), (rows, D); of a response whose group is known that of the group alone.

        ValueError for a response that no group could have given.
        """
        if self.score is not None:
            scores = self.score[rows]
        else:
            with np.errstate(divide="ignore"):
                scores = np.log(self._tables(rows)[self.options[rows]])
        known = self.group[rows] >= 0
        only = self.group[rows][:, None] == np.arange(len(self.groups))[None]
        scores = np.where(known[:, None], np.where(only, 0.0, -np.inf), scores)
        if (gone := np.all(scores == -np.inf, axis=1)).any():
            row = int(rows[np.argmax(gone)])
            response, prompt = self.log.response[row], self.log.prompt[row]
            raise ValueError(
                f"{self.log.name}: response {response!r} to {prompt!r} has probability 0 in every group, so that no "
                "mixture says it; expected a prior > 0, or scores by which a group says it"
            )
        return scores

    def _likeness(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Kernel (D, D) and spread (D,), averaged over prompts."""
        size, common = len(self.groups), np.unique(self.prompt[self.used])
        if self.embedding is None:
            used = np.unique(self.options[self.used])
            tables = self._tables(rows)[used]
            return tables.T @ tables / len(common), np.ones(size)
        kernel, spread = np.zeros((size, size)), np.zeros(size)
        labelled = rows[self.group[rows] >= 0]
        for prompt in common:
            here = labelled[self.prompt[labelled] == prompt]
            x, which = self.embedding[here], self.group[here][:, None] == np.arange(size)[None]
            share = which / which.sum(0)
            means = share.T @ x
            kernel += means @ means.T
            spread += share.T @ (x**2).sum(1)
        return kernel / len(common), spread / len(common)

    def _engaged(self, rows: np.ndarray, scores: np.ndarray, mixtures: np.ndarray) -> np.ndarray:
        """Appeal (n, D), or (D,) where no agent's own engagement is known."""
        known = np.isfinite(self.engagement[rows])
        group, agent, engagement = self.group[rows], self.agent[rows], self.engagement[rows]
        reference = np.full(len(self.groups), np.nan)
        for d in range(len(self.groups)):
            mine = known & (group == d) & (agent < 0)
            reference[d] = engagement[mine].mean() if mine.any() else np.nan
        appeal = np.tile(reference, (len(self.agents), 1))
        own = np.zeros(len(self.agents), bool)
        for i in range(len(self.agents)):
            mine = known & (agent == i)
            own[i] = mine.any()
            if own[i]:
                ratio = mixture.responsibilities(mixture.scaled(scores[mine]), mixtures[i])
                total = ratio.sum(0)
                appeal[i] = np.where(total > 0, engagement[mine] @ ratio / np.where(total > 0, total, 1), reference)
        out = appeal if own.any() else reference
        if np.isnan(out).any():
            d = int(np.argwhere(np.isnan(out))[0][-1])
            raise ValueError(
                f"{self.log.name}: no engagement tells the appeal of group {self.groups[d]!r}; give the audience, or "
                "engagement with its reference responses"
            )
        return out


def _numbered(items: Iterable[Any]) -> tuple[list[Any], np.ndarray]:
    """The distinct items, sorted, and the number of each item among them; no array of texts as wide as the longest."""
    items = list(items)
    distinct = sorted(set(items))
    numbers = {item: k for k, item in enumerate(distinct)}
    return distinct, np.array([numbers[item] for item in items], int)


def _rows(name: str, given: Any | Callable[..., Any], arguments: tuple[Any, ...], shape: tuple[Any, ...]) -> np.ndarray:
    """An array aligned with the log, or what a function makes of its columns."""
    value = np.asarray(given(*arguments) if callable(given) else given, np.float64)
    if value.ndim != 2 or any(want not in (have, "m") for have, want in zip(value.shape, shape, strict=True)):
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{name} has shape {value.shape}, expected ({wanted}), one row a response")
    bad = np.isnan(value) | (np.isinf(value) if name == "embedding" else value == np.inf)
    if bad.any():
        at = [int(k) for k in np.argwhere(bad)[0]]
        raise ValueError(f"{name}{at} is {value[tuple(at)]}, expected a number")
    return value
