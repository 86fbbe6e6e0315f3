"""Keyphrases against gold ones: precision, recall and F at k, and paired bootstrap.

The protocol, the usual one of keyphrase extraction:

- **Comparison** is exact, of normal forms (`normal_form`): lower case of NFKC; English words by
  their Porter stems. A form counts once in a list and once in the gold set.
- **P@k** is hits / min(k, phrases of the list), 0 for an empty list; **R@k** hits / gold phrases;
  **F@k** = 2PR / (P + R). *Macro* is the mean over documents (of F itself, not F of the means),
  *micro* is from the sums over all documents.
- **All gold** counts every gold phrase; **present only** those that occur in the document
  (`is_present`). A document whose gold set is empty is left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lexbeam.models.keyphrase_candidates import stem

Float64Array = npt.NDArray[np.float64]

# Letters and digits with what joins them inside a word, as the tokenizer has it; "c++", "c#".
_WORD = re.compile(r"[^\W_]+(?:[-'’_/&.+][^\W_]+)*[+#]*")
_SAMPLES_AT_A_TIME = 64


def normal_form(phrase: str, language: str) -> str:
    """What two phrases are compared by.

    Lower case of NFKC, white space collapsed; in English (`en`) the Porter stems of its words,
    joined by a space, without punctuation around them.
    """
    plain = " ".join(unicodedata.normalize("NFKC", phrase).lower().split())
    if language != "en":
        return plain
    return " ".join(map(stem, _WORD.findall(plain))) or plain


def distinct_forms(phrases: Iterable[str], language: str) -> list[str]:
    """Normal forms in order, each once; empty ones are left out."""
    forms = (normal_form(phrase, language) for phrase in phrases)
    return [form for form in dict.fromkeys(forms) if form]


def is_present(form: str, content_form: str, language: str) -> bool:
    """Whether a phrase occurs in a document, both as normal forms.

    Chinese: anywhere; else as whole words.
    """
    if language == "zh":
        return form in content_form
    return f" {form} " in f" {content_form} "


@dataclass(frozen=True)
class GoldDocument:
    """Gold keyphrases of a document.

    Attributes:
        language: as `normal_form` takes it.
        gold: normal forms of all.
        present: of those that occur in the document; None where its text is not known.
    """

    language: str
    gold: frozenset[str]
    present: frozenset[str] | None = None

    @classmethod
    def of(cls, phrases: Iterable[str], language: str, content: str | None = None) -> GoldDocument:
        """From gold phrases as people wrote them."""
        gold = frozenset(distinct_forms(phrases, language))
        if content is None:
            return cls(language, gold)
        text = normal_form(content, language)
        return cls(language, gold, frozenset(g for g in gold if is_present(g, text, language)))


@dataclass(frozen=True)
class KeyphraseScores:
    """Scores of one list of phrases at one k; a row for each document that has gold.

    Attributes:
        rows: (num_scored,) int64 the documents' places.
        hits, predicted, gold: (num_scored,) float64 counts.
    """

    rows: npt.NDArray[np.int64]
    hits: Float64Array
    predicted: Float64Array
    gold: Float64Array

    @property
    def precision(self) -> Float64Array:
        """(num_scored,) P@k of each document."""
        return self.hits / np.maximum(self.predicted, 1.0)

    @property
    def recall(self) -> Float64Array:
        """(num_scored,) R@k of each document."""
        return self.hits / self.gold

    @property
    def f1(self) -> Float64Array:
        """(num_scored,) F@k of each document: 2PR / (P + R) = 2 hits / (predicted + gold)."""
        return 2.0 * self.hits / (self.predicted + self.gold)

    def macro(self) -> dict[str, float]:
        """Means over documents by `precision`, `recall`, `f1`; 0 where there is no document."""
        values = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {name: float(v.mean()) if len(v) else 0.0 for name, v in values.items()}

    def micro(self) -> dict[str, float]:
        """Of the sums over documents, by the same names."""
        hits, predicted, gold = (float(v.sum()) for v in (self.hits, self.predicted, self.gold))
        return {
            "precision": hits / predicted if predicted else 0.0,
            "recall": hits / gold if gold else 0.0,
            "f1": 2.0 * hits / (predicted + gold) if predicted + gold else 0.0,
        }


def score(
    lists: Sequence[Sequence[str]],
    documents: Sequence[GoldDocument],
    k: int,
    *,
    present_only: bool = False,
) -> KeyphraseScores:
    """Score a list of phrases for each document.

    Args:
        lists: phrases of each document, best first, as they are shown.
        documents: their gold phrases.
        k: how many of the distinct phrases count, at least 1.
        present_only: count only the gold phrases that occur in the document.

    Raises:
        ValueError: k is below 1, there are more lists than documents or fewer, or `present_only`
            is asked of a document whose text is not known.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    rows = []
    for row, (phrases, document) in enumerate(zip(lists, documents, strict=True)):
        gold = document.present if present_only else document.gold
        if gold is None:
            raise ValueError("present gold phrases are not known without the document's text")
        if gold:
            found = distinct_forms(phrases, document.language)[:k]
            rows.append((row, len(gold.intersection(found)), len(found), len(gold)))
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return KeyphraseScores(table[:, 0], *(table[:, i].astype(np.float64) for i in (1, 2, 3)))


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with its 95 % interval, and the share of samples at or below 0."""

    mean: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    first: Float64Array, second: Float64Array, num_samples: int = 2_000, seed: int = 0
) -> Difference:
    """How much better `first` is than `second` on the same documents.

    Documents are drawn with replacement (Efron and Tibshirani 1993, percentile interval; Koehn
    2004). The same values and seed give the same bits.

    Args:
        first: (n,) a value for each document.
        second: (n,) the same of the other list.
        num_samples: resamples, at least 1.
        seed: of the drawing.

    Raises:
        ValueError: the two differ in length, are empty, or `num_samples` is below 1.
    """
    if first.shape != second.shape or not len(first):
        raise ValueError(f"need the same documents twice, not {len(first)} and {len(second)}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}")
    differences = first - second
    generator = np.random.default_rng(seed)
    means = np.empty(num_samples)
    for start in range(0, num_samples, _SAMPLES_AT_A_TIME):
        size = (min(_SAMPLES_AT_A_TIME, num_samples - start), len(differences))
        drawn = generator.integers(len(differences), size=size)
        means[start : start + size[0]] = differences[drawn].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(
        float(differences.mean()), float(low), float(high), float((means <= 0.0).mean())
    )
