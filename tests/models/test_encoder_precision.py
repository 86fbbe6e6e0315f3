"""Which number format is close enough is measured, once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lexbeam.models import encoder_precision
from lexbeam.models.calibration import calibration_texts
from lexbeam.models.encoder_backend import resolve_backend
from lexbeam.models.encoder_precision import MIN_COSINE, keeps_cosine, min_cosine
from lexbeam.models.encoder_spec import ModelSpec
from tests.models.test_encoder import CONFIG

BFLOAT16 = dataclasses.replace(CONFIG, dtype="bfloat16")


def test_texts_are_distinct_and_of_both_languages() -> None:
    texts = calibration_texts()
    assert len(texts) == len(set(texts)) == 48
    chinese = [any("一" <= character <= "鿿" for character in text) for text in texts]
    assert chinese == [False, True] * 24
    assert min(map(len, texts)) < 40
    assert max(map(len, texts)) > 800


def test_measured_once_and_equal_to_a_computation_by_hand(
    tiny_bert: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    value = min_cosine(tiny_bert, BFLOAT16, lines.append)
    assert lines == ["measuring what bfloat16 does to bert, this once"]
    exact = encoder_precision._embeddings(tiny_bert, CONFIG)
    near = encoder_precision._embeddings(tiny_bert, BFLOAT16)
    assert value == pytest.approx((exact * near).sum(axis=1).min(), abs=1e-9)
    assert 0.9 < value < 1.0
    monkeypatch.setattr(encoder_precision, "_measure", None)
    assert min_cosine(tiny_bert, BFLOAT16, lines.append) == value
    assert len(lines) == 1


def test_another_model_or_format_is_measured_anew(tiny_bert: ModelSpec) -> None:
    key = encoder_precision._key
    other = dataclasses.replace(tiny_bert, fingerprint="f" * 64)
    assert key(other, BFLOAT16) != key(tiny_bert, BFLOAT16)
    for change in ({"dtype": "float16"}, {"device": "cuda"}, {"pooling": "cls"}):
        assert key(tiny_bert, dataclasses.replace(BFLOAT16, **change)) != key(tiny_bert, BFLOAT16)


def test_a_text_that_fails_forbids_the_format(
    tiny_bert: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embeddings(spec: ModelSpec, config: object) -> np.ndarray:
        vectors = np.tile([[1.0, 0.0]], (3, 1))
        if config.dtype != "float32":  # type: ignore[attr-defined]
            vectors[1] = np.nan
        return vectors

    monkeypatch.setattr(encoder_precision, "_embeddings", embeddings)
    config = dataclasses.replace(BFLOAT16, pooling="cls")
    assert min_cosine(tiny_bert, config) == -1.0
    assert not keeps_cosine(tiny_bert, config)


@pytest.mark.parametrize(("cosine", "dtype"), [(MIN_COSINE, "bfloat16"), (0.9999, "float32")])
def test_auto_takes_what_is_close_enough(
    tiny_bert: ModelSpec, monkeypatch: pytest.MonkeyPatch, cosine: float, dtype: str
) -> None:
    monkeypatch.setattr("lexbeam.models.encoder_backend.cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(encoder_precision, "min_cosine", lambda *_: cosine)
    wanted = dataclasses.replace(CONFIG, dtype="auto")
    assert resolve_backend(tiny_bert, wanted).dtype == dtype
