"""Writes a fine-tuned model as transformers and sentence-transformers read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lexbeam.models.encoder_spec import ModelSpec, read_json
from lexbeam.models.encoder_windows import load_tokenizer
from lexbeam.models.transformer.checkpoints import (
    read_config,
    write_classifier,
    write_encoder,
)
from lexbeam.models.transformer.classifier import TextClassifier
from lexbeam.models.transformer.model import Encoder

_MODULES = ("Transformer", "Pooling", "Normalize")
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json")


def save(
    model: TextClassifier | Encoder,
    spec: ModelSpec,
    folder: Path,
    max_seq_length: int,
    labels: Sequence[str] = (),
) -> None:
    """Write weights, configuration, tokenizer, pooling and prefixes.

    Args:
        model: what is written.
        spec: the model that it began as, whose pooling, prefixes and tokenizer it keeps.
        folder: gets the files.
        max_seq_length: of its windows.
        labels: of a classifier, the classes in the order of their scores.
    """
    (family, _), like = read_config(spec.directory), read_json(spec.directory, "config.json")
    if isinstance(model, TextClassifier):
        write_classifier(model, labels, folder, family, like)
    else:
        write_encoder(model, folder, family, like)
    load_tokenizer(spec).save(str(folder / "tokenizer.json"))
    for name in _TOKENIZER_FILES:
        if (spec.directory / name).is_file():
            (folder / name).write_bytes((spec.directory / name).read_bytes())
    _write_sentence_transformers(spec, folder, max_seq_length)


def _write_sentence_transformers(spec: ModelSpec, folder: Path, max_seq_length: int) -> None:
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(zip(paths, _MODULES, strict=True))
    ]
    _put(folder, "modules.json", modules)
    _put(folder, "sentence_bert_config.json", {"max_seq_length": max_seq_length})
    prompts = {"query": spec.query_prefix, "document": spec.document_prefix}
    _put(folder, "config_sentence_transformers.json", {"prompts": prompts})
    pooling = {
        "word_embedding_dimension": spec.dimensions,
        "pooling_mode_cls_token": spec.pooling == "cls",
        "pooling_mode_mean_tokens": spec.pooling == "mean",
    }
    for path in paths[1:]:
        (folder / path).mkdir()
    _put(folder / "1_Pooling", "config.json", pooling)


def _put(folder: Path, name: str, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    (folder / name).write_text(text, encoding="utf-8")
