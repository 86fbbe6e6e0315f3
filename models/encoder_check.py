"""Finds a model directory whose files do not fit together, before anything is launched."""

from __future__ import annotations

import re

from lexbeam.models.encoder_spec import ModelSpec, damaged, read_header, read_json, weight_files

_LAYER = re.compile(r"(?:^|\.)layer\.(\d+)\.")
_EMBEDDINGS = "word_embeddings.weight"


def check_model_files(spec: ModelSpec) -> None:
    """Compare the weights with config.json, and load the tokenizer.

    Reads headers only, no weights. Raises ModelError naming directory and file.
    """
    config = read_json(spec.directory, "config.json")
    shapes: dict[str, list[int]] = {}
    for path in weight_files(spec.directory):
        shapes |= read_header(spec.directory, path.name)
    found = len({match[1] for name in shapes if (match := _LAYER.search(name))})
    wanted = config.get("num_hidden_layers", config.get("n_layers"))
    if found != wanted:
        reason = f"says {wanted} layers, the weights have {found}"
        raise damaged(spec.directory, "config.json", reason)
    widths = {shape[-1] for name, shape in shapes.items() if name.endswith(_EMBEDDINGS)}
    if widths != {spec.dimensions}:
        reason = f"says {spec.dimensions} dimensions, the weights have {sorted(widths)}"
        raise damaged(spec.directory, "config.json", reason)
    _check_tokenizer(spec)


def _check_tokenizer(spec: ModelSpec) -> None:
    # Others need transformers, which takes seconds.
    if (spec.directory / "tokenizer.json").is_file():
        from lexbeam.models.encoder_windows import load_tokenizer

        load_tokenizer(spec)
