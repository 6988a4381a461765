"""Surveys: human groups, what they answer, how alike they are, and how sure of it the sample lets us be."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgame import _checks
from jaxgame._pytree import pytree
from jaxgame.linalg import einsum
from jaxgame.surveys import draws as sampling
from jaxgame.surveys import kernels, microdata, tables
from jaxgame.surveys.tables import Question, Table

if TYPE_CHECKING:
    from jaxgame.games import AlignmentGame

PRIOR = 0.5


@pytree(static=("table", "prior"))
class Survey:
    """D groups of people, their shares of the population and their answers: a pytree with two leaves.

    shares: (D,), the groups' shares of the respondents (weighted where the survey is).
    answers: dict question id -> (D, options), p_d(answer | question), the posterior mean of a Dirichlet with the
        symmetric prior `prior` a cell.
    table: the counts and texts behind them (static).

    What `posterior` and `bootstrap` return is a Survey whose arrays have a leading axis of draws; counts and texts
    remain those of the data. `jax.vmap` maps over the draws.
    """

    shares: jax.Array
    answers: dict[str, jax.Array]
    table: Table
    prior: float

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        group: str,
        questions: Sequence[str] | Mapping[str, Any],
        *,
        weight: str | None = None,
        groups: Sequence[Any] | None = None,
        missing: Sequence[Any] = microdata.MISSING,
        name: str | None = None,
        title: str = "",
        source: str | None = None,
        prior: float = PRIOR,
        dtype: Any = None,
    ) -> Survey:
        """The survey in a CSV file (UTF-8, commas, a header) with one row a respondent.

        group: the column with each respondent's group.
        questions: a list of columns with numeric answers (sorted by number), or a dict column -> one of
            a list of texts (the options in order, values 0, 1, 2 …), a list of numbers (options and values),
            a dict text -> value, "numeric", or None (options without an order: the `match` kernel only).
        weight: the column of survey weights; `people` stays unweighted, and sample sizes are Kish's effective ones,
            (Σw)² / Σw², so that neither the scale of the weights nor their spread makes the data look surer than
            they are. Clustering is not accounted for.
        groups: the groups in the order wanted; rows of other groups are left out. Default: all, sorted.
        missing: cells that are no answer (or no group), as texts or numbers; the empty cell always is. Missing
            answers are left out and counted in `dropped`, rows without a group in `dropped_rows`.
        name, title, source: texts; default the file's stem, nothing, and the file's name.

        The prior is per option: bin a column with very many options first.

        Raises ValueError naming file, row (the header is row 1) and column of the first fault, and OSError for a
        file that cannot be read.
        """
        rows: dict[str, Any] = dict(weight=weight, groups=groups, missing=missing)
        table = microdata.tabulate(path, group, questions, name=name, title=title, source=source, **rows)
        return _survey(table, prior, dtype)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str], *, prior: float = PRIOR, dtype: Any = None) -> Survey:
        """The survey in a file written by `to_json`. ValueError names the file and the entry that is wrong."""
        return _survey(tables.read(path), prior, dtype)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write counts and texts (not prior or precision) in the format of the embedded surveys."""
        self._single("to_json")
        tables.write(self.table, path)

    @property
    def name(self) -> str:
        """A short name."""
        return self.table.name

    @property
    def title(self) -> str:
        """One line for people."""
        return self.table.title

    @property
    def source(self) -> str:
        """Where the data come from."""
        return self.table.source

    @property
    def note(self) -> str:
        """What to know before using them."""
        return self.table.note

    @property
    def weighted(self) -> bool:
        """Whether the counts are sums of survey weights."""
        return self.table.weighted

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the D groups."""
        return self.table.groups

    @property
    def people(self) -> np.ndarray:
        """(D,) respondents a group, unweighted."""
        return np.asarray(self.table.people)

    @property
    def questions(self) -> tuple[Question, ...]:
        """The questions: id, text, options, values (None without an order) and the data behind the answers."""
        return self.table.questions

    @property
    def counts(self) -> dict[str, np.ndarray]:
        """Question id -> (D, options) counts of answers, sums of weights where `weighted`."""
        return {question.id: np.asarray(question.counts) for question in self.questions}

    @property
    def dropped(self) -> dict[str, int]:
        """Question id -> respondents of the groups who gave no answer."""
        return {question.id: question.dropped for question in self.questions}

    @property
    def dropped_rows(self) -> int:
        """Respondents left out because their group is not known."""
        return self.table.dropped_rows

    @property
    def dtype(self):
        """The floating type of shares and answers, and of the games made from them."""
        return self.shares.dtype

    @property
    def mean_answers(self) -> jax.Array:
        """φ (D, Q): mean answer to each question, values scaled to [0, 1]. ValueError where options have no order."""
        values = []
        for question in self.questions:
            if question.values is None:
                missing = f"question {question.id!r} has options without values, so it has no mean answer"
                raise ValueError(f"{missing} and no gaussian kernel; use the kernel 'match', or give values")
            values.append(np.asarray(question.values, float))
        return kernels.mean_answers(self._tables(), values)

    @property
    def kernel(self) -> jax.Array:
        """(D, D): the Gaussian kernel of mean answers with median bandwidth, `similarity("gaussian")`."""
        return self.similarity("gaussian")

    @property
    def spread(self) -> jax.Array:
        """(D,) v = 1, for both kernels: a group is one point (gaussian), or answers are one-hot (match)."""
        return jnp.ones_like(self.shares)

    def similarity(self, kind: str) -> jax.Array:
        """(D, D) kernel: "gaussian", of mean answers, or "match", the probability of giving the same answer."""
        if kind == "gaussian":
            return kernels.gaussian(self.mean_answers)
        if kind == "match":
            return kernels.match(self._tables())
        raise ValueError(f"kernel is {kind!r}, expected 'gaussian', 'match' or a (D, D) array")

    def game(
        self, n_agents: int, *, kernel: Any = "gaussian", appeal: Any = None, targets: Any = None, **options: Any
    ) -> AlignmentGame:
        """The alignment game of n agents among these groups (theory §2).

        kernel: "gaussian", "match", or a (D, D) array. appeal: (D,) or (n, D); default a_d = Σ_e share_e K_de, how
        much a random member of the audience finds themself in content of group d. targets: (n, D), or (D,) for all
        agents alike; default the shares. Other options are AlignmentGame's own, with its defaults; spread is 1
        unless given, for an array AlignmentGame's default. Arrays take the survey's dtype. Raises ValueError.
        """
        from jaxgame.games import AlignmentGame

        self._single("game")
        n, D = _count("n_agents", n_agents), len(self.groups)
        if isinstance(kernel, str):
            options.setdefault("spread", self.spread)
            kernel = self.similarity(kernel)
        kernel = _checks.array("kernel", kernel, self.dtype, (D, D))
        if appeal is None:
            appeal = einsum("de,e->d", kernel, self.shares)
        appeal = _checks.array("appeal", appeal, self.dtype, (D,), (n, D))
        targets = self.shares if targets is None else _checks.array("targets", targets, self.dtype, (D,), (n, D))
        return AlignmentGame(jnp.broadcast_to(targets, (n, D)), kernel, appeal, **options)

    def posterior(self, seed: int | jax.Array, draws: int) -> Survey:
        """Draws of shares and answers from their posterior: a Survey with a leading axis `draws`.

        Each group's answers to each question: Dirichlet(counts + prior), its mean being `answers`. Shares:
        Dirichlet(people), its mean being `shares`. Weighted surveys: counts and people scaled to the effective sample
        size. Questions are drawn independently, since a table of counts does not hold how one respondent's answers go
        together. seed: an integer or a JAX key (not traced: draws are made on the host). Raises ValueError.
        """
        self._single("posterior")
        random, draws = sampling.generator(seed), _count("draws", draws)
        counts, prior = self._stacked()
        shares = sampling.dirichlet(random, self.table.effective * _shares(self.table), draws)
        return self._drawn(shares, sampling.dirichlet(random, counts + prior, draws))

    def bootstrap(self, seed: int | jax.Array, draws: int) -> Survey:
        """Shares and answers computed anew from resampled counts: a Survey with a leading axis `draws`.

        Each row of counts is a multinomial of its own size and frequencies, and so are the groups' sizes; weighted
        surveys use effective sample sizes, rounded. The prior is applied to each resample. Independent between
        questions, as in `posterior`. seed: an integer or a JAX key (not traced). Raises ValueError.
        """
        self._single("bootstrap")
        random, draws = sampling.generator(seed), _count("draws", draws)
        counts, prior = self._stacked()
        size = counts.sum(-1)
        people = sampling.multinomial(random, np.asarray(self.table.effective), _shares(self.table), draws)
        smoothed = sampling.multinomial(random, size, counts / size[..., None], draws) + prior
        return self._drawn(people / people.sum(-1, keepdims=True), smoothed / smoothed.sum(-1, keepdims=True))

    def _tables(self) -> list[jax.Array]:
        # in the questions' order, which a dict need not keep through a pytree round trip
        return [self.answers[question.id] for question in self.questions]

    def _stacked(self) -> tuple[np.ndarray, np.ndarray]:
        """Effective counts and prior, each (Q, D, most options) and zero beyond a question's own options."""
        sizes = [len(question.options) for question in self.questions]
        counts = np.zeros((len(sizes), len(self.groups), max(sizes)))
        prior = np.zeros_like(counts)
        for k, question in enumerate(self.questions):
            counts[k, :, : sizes[k]] = _effective_counts(question)
            prior[k, :, : sizes[k]] = self.prior
        return counts, prior

    def _drawn(self, shares: np.ndarray, stacked: np.ndarray) -> Survey:
        answers = {
            question.id: jnp.asarray(stacked[:, k, :, : len(question.options)], self.dtype)
            for k, question in enumerate(self.questions)
        }
        return Survey(jnp.asarray(shares, self.dtype), answers, self.table, self.prior)

    def _single(self, method: str) -> None:
        if self.shares.ndim > 1:
            held = f"this survey holds {self.shares.shape[0]} draws"
            raise ValueError(f"{method}: {held}; use the survey they came from, or jax.vmap over the draws")

    def __repr__(self) -> str:
        sizes = f"{len(self.groups)} groups, {len(self.questions)} questions, {sum(self.table.people)} people"
        return f"Survey({self.name!r}, {sizes})"


def load(name: str | os.PathLike[str] = tables.DEFAULT, *, prior: float = PRIOR, dtype: Any = None) -> Survey:
    """A survey by name (`names()` lists those that come with the package) or by a path that ends in `.json`.

    prior: Dirichlet prior a cell of each table. dtype: default JAX's float type (float64 under jax_enable_x64).
    Raises ValueError for an unknown name or an invalid file, OSError for a file that cannot be read.
    """
    return _survey(tables.find(name), prior, dtype)


def _survey(table: Table, prior: float, dtype: Any) -> Survey:
    if isinstance(prior, bool) or not isinstance(prior, int | float) or not 0 <= prior < math.inf:
        raise ValueError(f"prior is {prior!r}, expected a finite number ≥ 0")
    widest = jnp.zeros(()).dtype
    try:
        dtype = widest if dtype is None else jnp.dtype(dtype)
    except TypeError:
        raise ValueError(f"dtype is {dtype!r}, expected a floating type up to {widest}") from None
    if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize > widest.itemsize:
        hint = "; wider ones need jax_enable_x64" if dtype.itemsize > widest.itemsize else ""
        raise ValueError(f"dtype is {dtype}, expected a floating type up to {widest}{hint}")
    answers = {}
    for question in table.questions:
        smoothed = _effective_counts(question) + prior
        answers[question.id] = jnp.asarray(smoothed / smoothed.sum(-1, keepdims=True), dtype)
    return Survey(jnp.asarray(_shares(table), dtype), answers, table, float(prior))


def _shares(table: Table) -> np.ndarray:
    weights = np.asarray(table.weights, float)
    return weights / weights.sum()


def _effective_counts(question: Question) -> np.ndarray:
    """(D, options) counts scaled so that each row sums to its effective sample size; unweighted counts as they are."""
    counts = np.asarray(question.counts, float)
    return counts * (np.asarray(question.effective, float) / counts.sum(-1))[:, None]


def _count(name: str, value: Any) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name} is {value!r}, expected a whole number ≥ 1")
    return count
