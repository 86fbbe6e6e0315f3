"""A fit that starts from an earlier model's topics, and how far the topics have moved since.

Topic k of the later model goes on from topic k of the earlier one, so that ids keep their meaning.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lexbeam.models.config import LdaConfig
from lexbeam.models.lda import LdaModel, LdaState

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]


def places_of_terms(earlier: pa.StringArray, now: pa.StringArray) -> Int64Array:
    """(V now,) where each term stands in the earlier vocabulary, or -1."""
    places = pc.fill_null(pc.index_in(now, value_set=earlier), -1)
    return np.asarray(places, dtype=np.int64)


def warm_state(earlier: LdaModel, places: Int64Array, config: LdaConfig) -> LdaState:
    """The state before the first pass: the earlier model's counts, by the terms of now.

    A new term begins with no count in any topic, that is with the prior alone. Topics that the
    earlier model does not have begin as in a fit from the start.

    Args:
        earlier: the earlier model.
        places: of `places_of_terms`.
        config: of the new fit, its num_topics effective.
    """
    state = LdaState.start(config, len(places))
    shared = min(earlier.num_topics, config.num_topics)
    shift = config.fraction_bits - earlier.config.fraction_bits
    for topic in range(shared):
        column = np.asarray(earlier.topic_term_counts[:, topic])
        counts = np.where(places >= 0, column[places], 0)
        state.topic_term_counts[:, topic] = counts << shift if shift >= 0 else counts >> -shift
    return state


def topic_drift(earlier: LdaModel, now: LdaModel, places: Int64Array) -> Float64Array:
    """How far each topic has moved: the Hellinger distance of its distributions over terms.

    Args:
        earlier: the earlier model.
        now: the later model.
        places: of `places_of_terms`.

    Returns:
        (topics that both have,) float64 in [0, 1]: 0 for the same distribution, 1 for no term in
        common. Terms that only one of the vocabularies has count as moved.
    """
    shared = min(earlier.num_topics, now.num_topics)
    both = places >= 0
    distances = np.empty(shared)
    for topic in range(shared):
        then = np.sqrt(earlier.topic_term[:, topic][places[both]])
        overlap = float(np.sum(then * np.sqrt(now.topic_term[both, topic])))
        distances[topic] = np.sqrt(max(0.0, 1.0 - overlap))
    return distances
