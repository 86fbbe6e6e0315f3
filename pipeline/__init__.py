"""lexbeam.pipeline."""
