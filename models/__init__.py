"""lexbeam.models."""
