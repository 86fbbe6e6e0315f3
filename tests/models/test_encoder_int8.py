"""8-bit encoding: near float32, quantised once, by lexbeam's texts alone."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from lexbeam.models import encoder_int8
from lexbeam.models.calibration import calibration_texts
from lexbeam.models.encoder import Encoder, prepare_encoder
from lexbeam.models.encoder_backend import resolve_backend
from lexbeam.models.encoder_int8 import calibration_batches, ensure_quantised, quantised_path
from lexbeam.models.encoder_openvino import converted_path, graph_path
from lexbeam.models.encoder_spec import ModelSpec
from lexbeam.models.encoder_windows import TextTokenizer
from tests.models.test_encoder import CONFIG, embeddings
from tests.models.tiny_models import CHINESE, ENGLISH

INT8 = dataclasses.replace(CONFIG, backend="openvino", dtype="int8")


def test_near_float32_in_embedding_and_attention(tiny_bert: ModelSpec) -> None:
    texts = [ENGLISH[n : n + 90] for n in range(0, 60, 4)] + [CHINESE, CHINESE[:9]]
    exact = Encoder(tiny_bert, CONFIG).encode(texts)
    near = Encoder(tiny_bert, INT8, 2).encode(texts)
    cosines = (embeddings(exact) * embeddings(near)).sum(axis=1)
    assert 0.98 < cosines.mean() < 0.999999
    for row in range(len(texts)):
        attention = [batch["attention"][row].as_py() for batch in (exact, near)]
        assert np.corrcoef(attention)[0, 1] > 0.95


def test_weights_are_in_8_bits(tiny_bert: ModelSpec) -> None:
    text = ensure_quantised(tiny_bert, "mean").read_text()
    assert text.count('type="FakeQuantize"') >= 2 * 6  # activations of each linear layer
    assert text.count('element_type="i8"') >= 2 * 6


def test_quantised_once_beside_the_converted_model(
    tiny_bert: ModelSpec, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = ensure_quantised(tiny_bert, "mean")
    assert path == quantised_path(tiny_bert, "mean") == graph_path(tiny_bert, INT8)
    assert path.parent.parent == converted_path(tiny_bert, "mean").parent.parent
    assert path != converted_path(tiny_bert, "mean")

    def refuse(*arguments: object) -> None:
        raise AssertionError("quantised again")

    monkeypatch.setattr(encoder_int8, "_quantise", refuse)
    prepare_encoder(tiny_bert, INT8)
    assert capfd.readouterr() == ("", "")


def test_all_calibration_texts_are_used(tiny_bert: ModelSpec) -> None:
    tokens = TextTokenizer(tiny_bert).tokenize(calibration_texts())
    batches = calibration_batches(tiny_bert)
    assert sum(int(mask.sum()) for _, mask in batches) >= sum(len(t.ids) + 2 for t in tokens)
    assert all(ids.shape == mask.shape for ids, mask in batches)


def test_a_run_without_nncf_is_told_what_to_install(
    tiny_bert: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import util

    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "nncf" else found(name))
    with pytest.raises(ValueError, match=r"lexbeam\[int8\]"):
        resolve_backend(tiny_bert, dataclasses.replace(INT8, backend="auto"))


def test_no_telemetry_is_imported(tiny_bert: ModelSpec) -> None:
    """A library must not report to a server that it was used."""
    code = (
        "import sys; from lexbeam.models import encoder_int8; "
        "encoder_int8._quiet_nncf().__enter__(); sys.exit('openvino_telemetry.main' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_default_model_keeps_its_directions(default_model: ModelSpec) -> None:
    exact = dataclasses.replace(CONFIG, max_seq_length=128, backend="openvino")
    texts = [ENGLISH, CHINESE, *[ENGLISH[n:] for n in range(0, 100, 9)]]
    vectors = [
        embeddings(Encoder(default_model, config, 2).encode(texts))
        for config in (exact, dataclasses.replace(exact, dtype="int8"))
    ]
    assert (vectors[0] * vectors[1]).sum(axis=1).mean() > 0.99
