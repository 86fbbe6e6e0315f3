"""`lexbeam models list`."""

from __future__ import annotations

from collections.abc import Sequence

from lexbeam.models.catalogue import ModelListing
from lexbeam.pipeline.tables import table


def model_table(listings: Sequence[ModelListing]) -> list[str]:
    """Name, source, licence, dimensions, languages, and whether the model is here."""
    rows = [
        [
            listing.name,
            listing.source,
            listing.licence,
            str(listing.dimensions),
            listing.languages,
            "yes" if listing.present else "no",
        ]
        for listing in listings
    ]
    header = ["name", "source", "licence", "dimensions", "languages", "here"]
    return table(rows, header=header, right=(3,))
