"""How far a number format of fewer bits moves a model's embeddings, measured once.

Models differ: in bfloat16 the worst text of one keeps a cosine of .99997 to float32, that of
another falls below .9999.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable

import numpy as np

from lexbeam.models.calibration import calibration_fingerprint, calibration_texts
from lexbeam.models.catalogue import cache_dir
from lexbeam.models.config import EncoderConfig
from lexbeam.models.cores import usable_cores
from lexbeam.models.encoder_spec import ModelSpec, write_quietly

# `auto` promises .9999. A corpus has rarer texts than these few, hence half the distance.
MIN_COSINE = 0.99995
_WINDOW_TOKENS = 256


def keeps_cosine(
    spec: ModelSpec, config: EncoderConfig, report: Callable[[str], None] | None = None
) -> bool:
    """Whether `config`, resolved, is close enough to float32 to be chosen unasked.

    report: gets a line where it has to be measured. Raises ModelError if the model cannot be
    loaded.
    """
    return min_cosine(spec, config, report) >= MIN_COSINE


def min_cosine(
    spec: ModelSpec, config: EncoderConfig, report: Callable[[str], None] | None = None
) -> float:
    """The least cosine to float32 over the calibration texts; -1 where a text fails.

    Measured once for a model, format and version, and then read from the cache.
    """
    path = cache_dir() / "precision" / f"{_key(spec, config)}.json"
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["min_cosine"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not measured yet
    if report is not None:
        report(f"measuring what {config.dtype} does to {spec.name}, this once")
    value = _measure(spec, config)
    write_quietly(path, json.dumps({"model": spec.name, "min_cosine": value}))
    return value


def _measure(spec: ModelSpec, config: EncoderConfig) -> float:
    length = min(_WINDOW_TOKENS, spec.max_positions)
    config = dataclasses.replace(config, max_seq_length=length, long_documents="chunk")
    exact = _embeddings(spec, dataclasses.replace(config, dtype="float32"))
    cosines = (exact * _embeddings(spec, config)).sum(axis=1)
    return float(np.nan_to_num(cosines, nan=-1.0).min())


def _embeddings(spec: ModelSpec, config: EncoderConfig) -> np.ndarray:
    """(n, d) float64 embeddings of the calibration texts; NaN where a text failed."""
    from lexbeam.models.encoder import Encoder

    rows = Encoder(spec, config, usable_cores()).encode(calibration_texts())
    failed = np.full(spec.dimensions, np.nan)
    vectors = [row if row is not None else failed for row in rows["embedding"].to_pylist()]
    return np.array(vectors, dtype=np.float64)


def _key(spec: ModelSpec, config: EncoderConfig) -> str:
    version = importlib.metadata.version(config.backend)
    parts = [spec.fingerprint, config.pooling, config.backend, version, config.device]
    parts += [config.dtype, spec.document_prefix, calibration_fingerprint()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
