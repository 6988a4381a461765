"""Groups of a survey taken together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxgame.surveys.survey import Survey, _survey


def pooled(survey: Survey, groups: Mapping[str, Sequence[str]]) -> Survey:
    """The survey with fewer groups: name -> the groups it is made of. Their people, counts and weights are added.

    Raises ValueError for a group that the survey has not, that is named twice, or left out.
    """
    named = [group for members in groups.values() for group in members]
    for group in named:
        if group not in survey.groups:
            raise ValueError(f"groups names {group!r}; {survey.name} has {', '.join(survey.groups)}")
    if missing := [group for group in survey.groups if named.count(group) != 1]:
        raise ValueError(f"groups names {missing[0]!r} {named.count(missing[0])} times, expected once")
    which = [[survey.groups.index(group) for group in members] for members in groups.values()]

    def added(rows: Sequence) -> tuple:
        array = np.asarray(rows)
        return tuple(map(_plain, (array[members].sum(0) for members in which)))

    table = survey.table
    questions = tuple(
        dataclasses.replace(question, counts=added(question.counts), effective=added(question.effective))
        for question in table.questions
    )
    merged = dataclasses.replace(
        table,
        name=f"{table.name}-{len(which)}",
        groups=tuple(groups),
        people=added(table.people),
        weights=added(table.weights),
        questions=questions,
    )
    return _survey(merged, survey.prior, survey.dtype)


def _plain(x: np.ndarray) -> object:
    return tuple(x.tolist()) if x.ndim else x.item()
