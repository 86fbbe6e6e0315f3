"""The OpenVINO backend: the same numbers, a cached conversion."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lexbeam.models import encoder_openvino
from lexbeam.models.config import EncoderConfig
from lexbeam.models.encoder import Encoder, prepare_encoder
from lexbeam.models.encoder_backend import cpu_has_bfloat16
from lexbeam.models.encoder_openvino import converted_path, ensure_converted
from lexbeam.models.encoder_spec import ModelError, ModelSpec
from tests.models.conftest import SpecMaker
from tests.models.test_encoder import CONFIG, content_attention, embeddings
from tests.models.tiny_models import CHINESE, ENGLISH, FAMILIES, TEXTS, reference

OPENVINO = dataclasses.replace(CONFIG, backend="openvino")


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers_by_hand(tiny_model: SpecMaker, own_cache: Path, family: str) -> None:
    spec = tiny_model(family)
    config = dataclasses.replace(OPENVINO, long_documents="truncate")
    result = Encoder(spec, config).encode(TEXTS)
    expected, attention = reference(spec.directory, list(TEXTS))
    np.testing.assert_allclose(embeddings(result), expected, atol=1e-5)
    for row, text in enumerate(TEXTS):
        received = np.array(result.column("attention")[row].as_py())
        wanted = content_attention(spec, text, attention[row])[: len(received)]
        np.testing.assert_allclose(received, wanted, rtol=1e-4, atol=1e-4)


def test_cls_pooling_is_another_graph(tiny_bert: ModelSpec) -> None:
    config = dataclasses.replace(OPENVINO, pooling="cls", long_documents="truncate")
    expected, _ = reference(tiny_bert.directory, list(TEXTS), pooling="cls")
    got = embeddings(Encoder(tiny_bert, config).encode(TEXTS))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert converted_path(tiny_bert, "cls") != converted_path(tiny_bert, "mean")


def test_key_holds_weights_and_version(tiny_bert: ModelSpec) -> None:
    other = dataclasses.replace(tiny_bert, fingerprint="f" * 64)
    assert converted_path(other, "mean") != converted_path(tiny_bert, "mean")
    assert "openvino" in converted_path(other, "mean").parts


def test_conversion_is_done_once(tiny_bert: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ensure_converted(tiny_bert, "mean")

    def refuse(*arguments: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(encoder_openvino, "_convert", refuse)
    prepare_encoder(tiny_bert, OPENVINO)
    assert ensure_converted(tiny_bert, "mean") == path


def test_loser_of_a_race_uses_the_winner_s(
    tiny_bert: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEXBEAM_CACHE", str(tmp_path))
    target = converted_path(tiny_bert, "mean")

    def convert_late(spec: ModelSpec, pooling: str, path: Path) -> None:
        path.write_text("loser")
        target.parent.mkdir(parents=True)
        target.write_text("winner")

    monkeypatch.setattr(encoder_openvino, "_convert", convert_late)
    assert ensure_converted(tiny_bert, "mean").read_text() == "winner"
    assert [path.name for path in target.parent.parent.iterdir()] == [target.parent.name]


def test_damaged_conversion_is_named(
    tiny_bert: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEXBEAM_CACHE", str(tmp_path))
    path = converted_path(tiny_bert, "mean")
    path.parent.mkdir(parents=True)
    path.write_text("<net")
    with pytest.raises(ModelError, match=r"model\.xml"):
        Encoder(tiny_bert, OPENVINO)


def test_unwritable_cache_is_a_model_error(
    tiny_bert: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEXBEAM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="cannot write"):
        ensure_converted(tiny_bert, "mean")


def test_cached_model_loads_without_torch(tiny_bert: ModelSpec) -> None:
    prepare_encoder(tiny_bert, OPENVINO)
    fields = dataclasses.asdict(tiny_bert) | {"directory": str(tiny_bert.directory)}
    code = (
        "import json, sys, pathlib; from lexbeam.models.config import EncoderConfig; "
        "from lexbeam.models.encoder import Encoder; "
        "from lexbeam.models.encoder_spec import ModelSpec; "
        "spec, config = json.loads(sys.argv[1]); "
        "spec['directory'], spec['labels'] = pathlib.Path(spec['directory']), (); "
        "encoder = Encoder(ModelSpec(**spec), EncoderConfig(**config)); "
        "assert encoder.encode(['water']).column('embedding').null_count == 0; "
        "heavy = {'torch', 'transformers', 'openvino_telemetry'} & set(sys.modules); "
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    argument = json.dumps([fields, dataclasses.asdict(OPENVINO)])
    result = subprocess.run(
        [sys.executable, "-c", code, argument], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_bfloat16_of_the_default_model_is_close(default_model: ModelSpec) -> None:
    if not cpu_has_bfloat16():
        pytest.skip("this CPU has no bfloat16 instructions")
    texts = [ENGLISH[:n] for n in range(8, 170, 20)] + [CHINESE, CHINESE * 5]
    config = EncoderConfig(
        pooling="mean", max_batch_tokens=1024, backend="openvino", dtype="float32", device="cpu"
    )
    exact = embeddings(Encoder(default_model, config, 2).encode(texts))
    rounded = dataclasses.replace(config, dtype="bfloat16")
    close = embeddings(Encoder(default_model, rounded, 2).encode(texts))
    assert (exact * close).sum(axis=1).min() >= 0.9999
    assert not np.array_equal(exact, close)
