"""Dynamic masking: which tokens of a batch are to be foretold, and what stands in their place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lexbeam.models.pretraining.subwords import SpecialTokens

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

# Devlin et al. 2019, section 3.1: of the chosen tokens 80 % become the mask, 10 % another token.
_MASK_SHARE, _RANDOM_SHARE = 0.8, 0.1


@dataclass(frozen=True)
class MaskedTokens:
    """A batch as the model sees it.

    Attributes:
        ids: (t,) int64 tokens, some of them masked.
        places: (m,) int64 where tokens are to be foretold.
        labels: (m,) int64 which ones.
    """

    ids: Int64Array
    places: Int64Array
    labels: Int64Array

    def between(self, first: int, last: int) -> MaskedTokens:
        """Those of the tokens [first, last)."""
        here = slice(*np.searchsorted(self.places, [first, last]).tolist())
        return MaskedTokens(self.ids[first:last], self.places[here] - first, self.labels[here])


def mask_tokens(
    ids: Int32Array,
    word_starts: npt.NDArray[np.uint8],
    special: SpecialTokens,
    probability: float,
    random: np.random.Generator,
    *,
    whole_words: bool,
) -> MaskedTokens:
    """Choose tokens with a probability each, or words, and mask them.

    ids: (t,) sequences end to end. word_starts: (t,) 1 where a word begins. Special tokens are
    never chosen. At least one token is chosen where there is one to choose.
    """
    free = ~special.is_special(ids)
    units = np.cumsum(word_starts) - 1 if whole_words else np.arange(len(ids))
    drawn = random.random(int(units[-1]) + 1 if len(units) else 0)[units]
    chosen = (drawn < probability) & free
    if not chosen.any() and free.any():
        chosen = free & (units == units[free][np.argmin(drawn[free])])
    places = np.flatnonzero(chosen)
    labels = ids[places].astype(np.int64)
    masked = ids.astype(np.int64)
    fate = random.random(len(places))
    masked[places[fate < _MASK_SHARE]] = special.mask
    others = places[(fate >= _MASK_SHARE) & (fate < _MASK_SHARE + _RANDOM_SHARE)]
    masked[others] = random.choice(_plain_ids(special), len(others))
    return MaskedTokens(masked, places, labels)


def _plain_ids(special: SpecialTokens) -> Int64Array:
    """All ids that may stand for another token."""
    return np.setdiff1d(np.arange(special.vocab_size), special.special)
