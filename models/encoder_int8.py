"""8-bit models for OpenVINO: NNCF's post-training quantisation of weights and activations.

The ranges of the activations come from `calibration`'s texts. Softmax, layer norms and pooling
stay in floating point. Quantising takes half a minute, once for each model on a machine.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lexbeam.models.calibration import calibration_fingerprint, calibration_texts
from lexbeam.models.encoder_backend import cpu_has_vnni
from lexbeam.models.encoder_batches import pad_batch, plan_batches
from lexbeam.models.encoder_openvino import (
    build_once,
    converted_path,
    ensure_converted,
    import_openvino,
    without_telemetry,
)
from lexbeam.models.encoder_spec import ModelError, ModelSpec
from lexbeam.models.encoder_windows import TextTokenizer, all_windows

REVISION = 1  # raised when the way of quantising changes
WINDOW_TOKENS = 256
BATCH_TOKENS = 160  # about forty batches

Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def quantised_path(spec: ModelSpec, pooling: str) -> Path:
    """Where the 8-bit model lies in the cache; keyed by what decides its numbers."""
    converted = converted_path(spec, pooling)
    version = importlib.metadata.version("nncf")
    bits = "" if cpu_has_vnni() else "-7bit"
    key = f"int8-{version}-{calibration_fingerprint()[:8]}-q{REVISION}{bits}"
    return converted.parent.with_name(f"{converted.parent.name}-{key}") / converted.name


def ensure_quantised(spec: ModelSpec, pooling: str) -> Path:
    """Quantise the model unless it is in the cache; return the quantised file's path.

    Raises ModelError if the model cannot be loaded or quantised, or the cache not be written.
    """

    def build(path: Path) -> None:
        _quantise(spec, ensure_converted(spec, pooling), path)

    return build_once(spec, quantised_path(spec, pooling), build)


def calibration_batches(spec: ModelSpec) -> list[Batch]:
    """Ids and mask, (n, length) int64 each, of all calibration texts."""
    tokenizer = TextTokenizer(spec)
    texts = calibration_texts()
    length = min(WINDOW_TOKENS, spec.max_positions)
    tokens = tokenizer.tokenize(texts)
    windows = all_windows(dict(enumerate(texts)), dict(enumerate(tokens)), tokenizer, length)
    lengths = np.array([len(window.ids) for window in windows], dtype=np.int64)
    return [
        pad_batch([windows[index].ids for index in batch], tokenizer.pad_id)
        for batch in plan_batches(lengths, BATCH_TOKENS)
    ]


def _quantise(spec: ModelSpec, source: Path, path: Path) -> None:
    openvino = import_openvino()
    batches = [list(batch) for batch in calibration_batches(spec)]
    with _quiet_nncf() as nncf:
        # Weights of 7 bits where sums of products would overflow.
        overflow_fix = None if cpu_has_vnni() else nncf.OverflowFix.ENABLE
        try:
            quantised = nncf.quantize(
                openvino.Core().read_model(source),
                nncf.Dataset(batches),
                model_type=nncf.ModelType.TRANSFORMER,
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(batches),
                advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow_fix),
            )
        except RuntimeError as error:
            raise ModelError(f"model {spec.name}: cannot be quantised: {error}") from error
    openvino.save_model(quantised, path, compress_to_fp16=False)


@contextlib.contextmanager
def _quiet_nncf() -> Iterator[Any]:
    """NNCF without telemetry, logs and progress bars."""
    with without_telemetry(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nncf

        nncf.set_log_level(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):
            yield nncf
