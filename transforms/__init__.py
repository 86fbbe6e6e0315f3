"""lexbeam.transforms."""
