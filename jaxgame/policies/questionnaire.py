"""A survey as text: a template for every question, a small vocabulary, and responses in tokens.

No text that is labelled by group comes with a licence to ship, so what a group says is what its respondents answered,
put into sentences: "On health, the country's spending is too little." It is templated text and nothing more: group
models trained on it know what a group answers, not how its members speak.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame.policies.transformer import START
from jaxgame.surveys import Survey
from jaxgame.surveys.tables import Question

_SPENDING = re.compile(r"^Are we spending too much, about the right amount, or too little on (.+)\?$")


@dataclass(frozen=True)
class Questionnaire:
    """Q questions as stems and replies; a text is a run of sentences, each a stem and a reply.

    stems: Q phrases, a token each. replies: for each question one text an option, a token a word, the last of which
    ends in a full stop. vocabulary: V texts, the first of which is the start token.
    """

    stems: tuple[str, ...]
    replies: tuple[tuple[str, ...], ...]
    vocabulary: tuple[str, ...]

    @classmethod
    def of(cls, survey: Survey) -> Questionnaire:
        """That of a survey."""
        stems = tuple(map(_stem, survey.questions))
        replies = tuple(tuple(f"{option}." for option in question.options) for question in survey.questions)
        words = dict.fromkeys(word for texts in replies for text in texts for word in text.split())
        # A stop inside a reply would end it early.
        if clash := [text for texts in replies for text in texts if any(w.endswith(".") for w in text.split()[:-1])]:
            raise ValueError(f"option {clash[0]!r} of {survey.name} has a full stop inside, which would end the reply")
        if len(set(stems)) < len(stems):
            raise ValueError(f"{survey.name} asks one question twice: {max(stems, key=stems.count)!r}")
        return cls(stems, replies, ("<s>", *stems, *words))

    def without(self, questions: Sequence[int]) -> Questionnaire:
        """That without some questions, the vocabulary being the same."""
        kept = [q for q in range(len(self.stems)) if q not in questions]
        return Questionnaire(tuple(self.stems[q] for q in kept), tuple(self.replies[q] for q in kept), self.vocabulary)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {text: k for k, text in enumerate(self.vocabulary)}

    @cached_property
    def sentences(self) -> np.ndarray:
        """(Q, most options, S) tokens of each sentence, START after its end and for options that there are not."""
        options = max(map(len, self.replies))
        size = 1 + max(len(text.split()) for texts in self.replies for text in texts)
        table = np.full((len(self.stems), options, size), START, np.int32)
        for q, (stem, texts) in enumerate(zip(self.stems, self.replies, strict=True)):
            for option, text in enumerate(texts):
                tokens = [self._numbers[stem], *(self._numbers[word] for word in text.split())]
                table[q, option, : len(tokens)] = tokens
        return table

    @property
    def reply_length(self) -> int:
        """Tokens of the longest reply."""
        return self.sentences.shape[-1] - 1

    @cached_property
    def prompts(self) -> np.ndarray:
        """(Q, 2): start token and stem of each question."""
        return np.stack([np.full(len(self.stems), START), self.sentences[:, 0, 0]], 1).astype(np.int32)

    @cached_property
    def stops(self) -> np.ndarray:
        """(V,) whether a token ends a sentence."""
        return np.array([text.endswith(".") for text in self.vocabulary])

    @property
    def length(self) -> int:
        """Tokens of the longest response to all questions, with the start token."""
        return 1 + self.sentences.shape[0] * self.sentences.shape[2]

    def responses(self, answers: Array, first: Array) -> Array:
        """(N, length) tokens of responses to all questions in their order, the first one being `first` (N,).

        answers: (N, Q) options. For JAX: composes with jit.
        """
        table = jnp.asarray(self.sentences)
        order = (first[:, None] + jnp.arange(table.shape[0])[None]) % table.shape[0]
        tokens = table[order, jnp.take_along_axis(answers, order, 1)].reshape(len(answers), -1)
        if (self.sentences == START).any():  # sentences of several lengths: close the gaps
            tokens = jnp.take_along_axis(tokens, jnp.argsort(tokens == START, axis=1, stable=True), 1)
        return jnp.concatenate([jnp.full_like(tokens[:, :1], START), tokens], 1)

    def decode(self, tokens: Any) -> str:
        """The text of some tokens."""
        return " ".join(self.vocabulary[int(k)] for k in np.asarray(tokens) if k != START)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text, with the start token. ValueError, naming the first word that is not known."""
        words, tokens, k = text.split(), [START], 0
        longest = max(len(phrase.split()) for phrase in self.vocabulary)
        while k < len(words):
            for size in range(min(longest, len(words) - k), 0, -1):
                if (found := self._numbers.get(" ".join(words[k : k + size]), START)) != START:
                    tokens.append(found)
                    k += size
                    break
            else:
                raise ValueError(f"word {k} of the text, {words[k]!r}, is not in the vocabulary")
        return np.array(tokens, np.int32)


def _stem(question: Question) -> str:
    text = " ".join(question.text.split())  # as `encode` reads it
    about = _SPENDING.match(text)
    stem = f"On {about[1]}, the country's spending is" if about else text or f"Asked about {question.id}:"
    return " ".join(stem.split())
