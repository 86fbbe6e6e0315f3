"""The encoder on a real CUDA device: `make test-cuda`, on a machine that has one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lexbeam.models.calibration import calibration_texts
from lexbeam.models.encoder import Encoder
from lexbeam.models.encoder_backend import resolve_backend
from lexbeam.models.encoder_spec import ModelSpec
from tests.models.test_encoder import CONFIG, embeddings

pytestmark = pytest.mark.cuda
CPU = dataclasses.replace(CONFIG, max_seq_length=512, max_batch_tokens=1_024)
CUDA = dataclasses.replace(CPU, device="cuda", max_batch_tokens=32_768)


@pytest.mark.parametrize(
    ("dtype", "least"), [("float32", 0.999999), ("float16", 0.9999), ("bfloat16", 0.999)]
)
def test_near_the_cpu(default_model: ModelSpec, dtype: str, least: float) -> None:
    texts = calibration_texts()
    exact = Encoder(default_model, CPU, 2).encode(texts)
    encoder = Encoder(default_model, dataclasses.replace(CUDA, dtype=dtype), 4)
    near = encoder.encode(texts)
    assert (embeddings(exact) * embeddings(near)).sum(axis=1).min() >= least
    for row in range(len(texts)):
        attention = [batch["attention"][row].as_py() for batch in (exact, near)]
        assert np.corrcoef(attention)[0, 1] > 0.99
    has_kernel = dtype != "float32" and torch.cuda.get_device_capability() >= (8, 0)
    assert encoder._forward.pads is not has_kernel


def test_auto_takes_the_device_in_float16(default_model: ModelSpec) -> None:
    wanted = dataclasses.replace(CPU, backend="auto", device="auto", dtype="auto")
    found = resolve_backend(default_model, wanted)
    assert (found.backend, found.device, found.dtype) == ("torch", "cuda", "float16")


def test_batch_that_does_not_fit_is_halved(default_model: ModelSpec) -> None:
    texts = list(calibration_texts()) * 40
    config = dataclasses.replace(CUDA, dtype="float16", max_batch_tokens=1 << 20)
    expected = embeddings(Encoder(default_model, CUDA, 4).encode(texts))
    encoder = Encoder(default_model, config, 4)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        (torch.cuda.memory_allocated() + (1 << 30)) / total
    )  # a gigabyte to work in
    try:
        found = embeddings(encoder.encode(texts))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (found * expected).sum(axis=1).min() > 0.9999
