"""Compiled loop of the counts."""

from __future__ import annotations

import numpy as np

from lexbeam.models.compiled import Int64Array, entry


@entry
def count_frequencies(
    codes: Int64Array,
    offsets: Int64Array,
    languages: Int64Array,
    num_strings: int,
    num_languages: int,
) -> tuple[Int64Array, Int64Array]:
    """Document and collection frequency of each (language, string).

    Args:
        codes: (num_items,) string of each occurrence, document after document.
        offsets: (num_documents + 1,) where each document's items begin and end.
        languages: (num_documents,) language of each.
        num_strings: how many strings there are.
        num_languages: how many languages there are.

    Returns:
        Two (num_languages * num_strings,) int64, strings side by side.
    """
    document_frequency = np.zeros(num_languages * num_strings, dtype=np.int64)
    collection_frequency = np.zeros(num_languages * num_strings, dtype=np.int64)
    last_seen = np.full(num_languages * num_strings, -1, dtype=np.int64)
    for document in range(len(languages)):
        first_cell = languages[document] * num_strings
        for i in range(offsets[document], offsets[document + 1]):
            cell = first_cell + codes[i]
            collection_frequency[cell] += 1
            if last_seen[cell] != document:
                last_seen[cell] = document
                document_frequency[cell] += 1
    return document_frequency, collection_frequency
