"""The encoder against transformers run by hand, and its laws."""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lexbeam.models import encoder as encoder_module
from lexbeam.models import schemas
from lexbeam.models.config import ConfigError, EncoderConfig
from lexbeam.models.encoder import (
    Encoder,
    EncoderStats,
    cached_encoder,
    combine_windows,
    error_text,
    num_encoder_loads,
    run_bisecting,
)
from lexbeam.models.encoder_spec import ModelError, ModelSpec
from lexbeam.models.encoder_stats import Watch
from lexbeam.models.encoder_windows import TextTokenizer
from tests.models.conftest import SpecMaker
from tests.models.tiny_models import CHINESE, DIMENSIONS, ENGLISH, FAMILIES, TEXTS, reference

CONFIG = EncoderConfig(
    pooling="mean",
    max_seq_length=64,
    max_batch_tokens=256,
    backend="torch",
    dtype="float32",
    device="cpu",
)


def embeddings(batch: pa.RecordBatch) -> np.ndarray:
    column = batch.column("embedding")
    assert column.null_count == 0
    return column.flatten().to_numpy().reshape(len(column), -1)


def content_attention(spec: ModelSpec, text: str, attention: np.ndarray) -> np.ndarray:
    """The reference's attention of content tokens: specials and prefix cut off."""
    tokens = TextTokenizer(spec).tokenize([text])[0]
    first = 1 + len(tokens.prefix_ids)
    return attention[first : first + len(tokens.ids)]


@pytest.mark.parametrize("prefix", ["", "passage: "])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers_by_hand(
    tiny_model: SpecMaker, own_cache: Path, family: str, prefix: str
) -> None:
    spec = tiny_model(family, prefix)
    config = dataclasses.replace(CONFIG, long_documents="truncate")
    result = Encoder(spec, config).encode(TEXTS)
    expected, attention = reference(spec.directory, [prefix + text for text in TEXTS])
    np.testing.assert_allclose(embeddings(result), expected, atol=1e-5)
    for row, text in enumerate(TEXTS):
        received = np.array(result.column("attention")[row].as_py())
        wanted = content_attention(spec, text, attention[row])[: len(received)]
        assert len(received) > 0
        np.testing.assert_allclose(received, wanted, rtol=1e-5, atol=1e-5)


def test_cls_pooling(tiny_bert: ModelSpec) -> None:
    config = dataclasses.replace(CONFIG, pooling="cls", long_documents="truncate")
    expected, _ = reference(tiny_bert.directory, list(TEXTS), pooling="cls")
    np.testing.assert_allclose(
        embeddings(Encoder(tiny_bert, config).encode(TEXTS)), expected, atol=1e-5
    )


def test_schema_nulls_and_empty_block(tiny_bert: ModelSpec) -> None:
    encoder = Encoder(tiny_bert, CONFIG)
    result = encoder.encode([None, "water", None])
    result.validate(full=True)
    assert result.schema == schemas.encoded_schema(DIMENSIONS)
    assert result.column("embedding").is_null().to_pylist() == [True, False, True]
    assert all(value is None for value in result.to_pylist()[0].values())
    assert encoder.encode([]).num_rows == 0
    assert encoder.encode([None]).column("num_tokens").to_pylist() == [None]
    assert encoder.stats.documents == 1


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\x00", "\u200b"])
def test_text_without_tokens_is_encoded(tiny_bert: ModelSpec, text: str) -> None:
    row = Encoder(tiny_bert, CONFIG).encode([text]).to_pylist()[0]
    assert np.linalg.norm(row["embedding"]) == pytest.approx(1.0, abs=1e-6)
    assert (row["num_tokens"], row["num_chunks"], row["truncated"]) == (0, 1, False)
    assert row["attention"] == []
    assert row["error_type"] is None


def test_prefix_tokens_are_not_counted(tiny_model: SpecMaker, own_cache: Path) -> None:
    plain = Encoder(tiny_model("xlm-roberta"), CONFIG).encode([*TEXTS, ""])
    prefixed = Encoder(tiny_model("xlm-roberta", "passage: "), CONFIG).encode([*TEXTS, ""])
    assert prefixed.column("num_tokens").to_pylist() == plain.column("num_tokens").to_pylist()
    assert prefixed.column("num_tokens").to_pylist()[-1] == 0
    assert not np.allclose(embeddings(prefixed), embeddings(plain), atol=1e-3)


def test_offsets_are_code_points_of_the_content(tiny_model: SpecMaker, own_cache: Path) -> None:
    spec = tiny_model("bert", "passage: ")
    text = "🦢 water 河水 bridge"
    row = Encoder(spec, CONFIG).encode([text]).to_pylist()[0]
    pieces = [
        text[start:end]
        for start, end in zip(row["attention_starts"], row["attention_ends"], strict=True)
    ]
    assert "".join(pieces) == text.replace(" ", "")


def test_long_document_is_the_mean_of_its_windows(tiny_bert: ModelSpec) -> None:
    """Windows re-read by hand from the reported offsets give the same embedding."""
    text = " ".join([ENGLISH, CHINESE] * 3)
    row = Encoder(tiny_bert, CONFIG).encode([text]).to_pylist()[0]
    total = len(TextTokenizer(tiny_bert).tokenize([text])[0].ids)
    assert row["num_tokens"] == total
    assert row["num_chunks"] > 2
    assert row["truncated"] is False
    starts, ends = np.array(row["attention_starts"]), np.array(row["attention_ends"])
    cuts = [0, *(np.flatnonzero(np.diff(starts) < 0) + 1), len(starts)]
    assert len(cuts) == row["num_chunks"] + 1
    summed = np.zeros(DIMENSIONS)
    encoder = Encoder(tiny_bert, CONFIG)
    for first, last in zip(cuts[:-1], cuts[1:], strict=True):
        piece = text[starts[first] : ends[last - 1]]
        ids = TextTokenizer(tiny_bert).tokenize([piece])[0].ids
        assert len(ids) == last - first <= 62
        window = np.concatenate([encoder._tokenizer.opening, ids, encoder._tokenizer.closing])
        batch = window[None, :].astype(np.int64)
        pooled, _ = encoder._forward(batch, np.ones_like(batch))
        summed += pooled[0] * len(window)
    np.testing.assert_allclose(row["embedding"], summed / np.linalg.norm(summed), atol=1e-5)


def test_windows_cover_the_document_and_overlap(tiny_bert: ModelSpec) -> None:
    text = " ".join([ENGLISH] * 6)
    row = Encoder(tiny_bert, CONFIG).encode([text]).to_pylist()[0]
    seen = set(zip(row["attention_starts"], row["attention_ends"], strict=True))
    assert len(seen) == row["num_tokens"]
    overlap = 62 // 8
    assert len(row["attention"]) == row["num_tokens"] + overlap * (row["num_chunks"] - 1)


def test_truncate_encodes_the_first_window_only(tiny_bert: ModelSpec) -> None:
    config = dataclasses.replace(CONFIG, max_seq_length=20, long_documents="truncate")
    result = Encoder(tiny_bert, config).encode([ENGLISH, "water"]).to_pylist()
    expected, _ = reference(tiny_bert.directory, [ENGLISH], max_length=20)
    np.testing.assert_allclose(result[0]["embedding"], expected[0], atol=1e-5)
    assert (result[0]["num_chunks"], result[0]["truncated"]) == (1, True)
    assert result[0]["num_tokens"] > len(result[0]["attention"]) == 18
    assert (result[1]["num_chunks"], result[1]["truncated"]) == (1, False)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_same_answer_whatever_the_batch_or_order(tiny_bert: ModelSpec, backend: str) -> None:
    texts = [ENGLISH[:n] for n in (7, 90, 30, 200, 120)] + [CHINESE, CHINESE * 4, ENGLISH * 3, "a"]
    alone = Encoder(tiny_bert, dataclasses.replace(CONFIG, backend=backend, max_batch_tokens=16))
    expected = [alone.encode([text]).to_pylist()[0] for text in texts]
    together = Encoder(tiny_bert, dataclasses.replace(CONFIG, backend=backend), num_threads=2)

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.permutations(range(len(texts))), st.integers(min_value=1, max_value=len(texts)))
    def check(order: list[int], size: int) -> None:
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            result = together.encode([texts[row] for row in rows]).to_pylist()
            for row, got in zip(rows, result, strict=True):
                wanted = expected[row]
                np.testing.assert_allclose(got["embedding"], wanted["embedding"], atol=1e-5)
                np.testing.assert_allclose(got["attention"], wanted["attention"], atol=1e-4)
                for name in ("num_tokens", "num_chunks", "truncated", "attention_starts"):
                    assert got[name] == wanted[name]

    check()


class FailingForward:
    """Raises on a batch that holds a forbidden token id."""

    def __init__(self, inner: Any, forbidden: int, error: Exception) -> None:
        self.inner = inner
        self.num_slots, self.pads = inner.num_slots, inner.pads
        self.forbidden = forbidden
        self.error = error
        self.calls = 0

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.calls += 1
        if (ids == self.forbidden).any():
            raise self.error
        return self.inner(ids, mask)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError)


def failing(spec: ModelSpec, word: str, error: Exception) -> Encoder:
    encoder = Encoder(spec, CONFIG)
    token = int(TextTokenizer(spec).tokenize([word])[0].ids[0])
    encoder._forward = FailingForward(encoder._forward, token, error)
    return encoder


def test_failing_text_is_bisected_out(tiny_bert: ModelSpec) -> None:
    texts = ["water", "old mill", "河 river", "gulls", "two boats", "red flag"]
    expected = Encoder(tiny_bert, CONFIG).encode(texts).to_pylist()
    result = failing(tiny_bert, "河", RuntimeError("index out of range")).encode(texts)
    rows = result.to_pylist()
    assert rows[2]["error_type"] == "encode-failed"
    assert rows[2]["error_message"] == "RuntimeError: index out of range"
    assert rows[2]["embedding"] is None
    assert rows[2]["num_tokens"] is None
    for row in (0, 1, 3, 4, 5):
        assert rows[row]["error_type"] is None
        np.testing.assert_allclose(rows[row]["embedding"], expected[row]["embedding"], atol=1e-5)


def test_one_failing_window_fails_its_document_only(tiny_bert: ModelSpec) -> None:
    rows = failing(tiny_bert, "河", RuntimeError("no")).encode([ENGLISH * 3 + "河", ENGLISH * 3])
    assert rows.column("error_type").to_pylist() == ["encode-failed", None]


def test_broken_model_is_not_blamed_on_texts(tiny_bert: ModelSpec) -> None:
    opening = int(TextTokenizer(tiny_bert).opening[0])
    encoder = Encoder(tiny_bert, CONFIG)
    encoder._forward = FailingForward(encoder._forward, opening, RuntimeError("device lost"))
    with pytest.raises(RuntimeError, match="device lost"):
        encoder.encode(["water", "mill"])


def test_out_of_memory_halves_the_batch_then_raises(tiny_bert: ModelSpec) -> None:
    class SmallMemory(FailingForward):
        def __call__(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            self.calls += 1
            if ids.size > self.forbidden:
                raise MemoryError
            return self.inner(ids, mask)

    texts = ["water mill", "two boats", "red flag", "old bridge"]
    expected = embeddings(Encoder(tiny_bert, CONFIG).encode(texts))
    encoder = Encoder(tiny_bert, CONFIG)
    longest = max(len(t.ids) for t in TextTokenizer(tiny_bert).tokenize(texts)) + 2
    encoder._forward = SmallMemory(encoder._forward, longest, MemoryError())
    np.testing.assert_allclose(embeddings(encoder.encode(texts)), expected, atol=1e-5)
    assert encoder._forward.calls > len(texts)
    encoder._forward.forbidden = 2
    with pytest.raises(MemoryError):
        encoder.encode(["water"])


def test_non_finite_embedding_is_an_error_row(tiny_bert: ModelSpec) -> None:
    encoder = Encoder(tiny_bert, CONFIG)
    inner = encoder._forward
    token = int(TextTokenizer(tiny_bert).tokenize(["河"])[0].ids[0])

    class Poisoned(FailingForward):
        def __call__(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            pooled, received = self.inner(ids, mask)
            pooled = pooled.copy()
            pooled[(ids == token).any(axis=1)] = np.nan
            return pooled, received

    encoder._forward = Poisoned(inner, token, RuntimeError())
    rows = encoder.encode(["water", "河"]).to_pylist()
    assert rows[0]["error_type"] is None
    assert rows[1]["error_message"] == "the embedding is not finite"


def test_lone_surrogate_breaks_the_tokenizer_not_its_neighbours(tiny_bert: ModelSpec) -> None:
    rows = Encoder(tiny_bert, CONFIG).encode(["water", "\ud800", "mill"]).to_pylist()
    assert [row["error_type"] for row in rows] == [None, "encode-failed", None]
    assert rows[1]["error_message"]


def test_stats_and_padding_ratio(tiny_bert: ModelSpec) -> None:
    assert EncoderStats().padding_ratio == 1.0
    encoder = Encoder(tiny_bert, CONFIG)
    result = encoder.encode([ENGLISH[: 3 * n] for n in range(1, 40)])
    stats = encoder.stats
    assert stats.documents == stats.windows == 39
    assert stats.real_tokens == sum(result.column("num_tokens").to_pylist()) + 2 * 39
    assert 1.0 <= stats.padding_ratio <= 1.10
    assert 0 < stats.model_seconds < stats.seconds
    assert 0.0 < stats.wait_share < 1.0


def test_cached_encoder_loads_once(tiny_bert: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "_encoders", {})
    before = num_encoder_loads()
    first = cached_encoder(tiny_bert, CONFIG, 1)
    assert cached_encoder(tiny_bert, CONFIG, 1) is first
    assert num_encoder_loads() == before + 1
    cached_encoder(tiny_bert, dataclasses.replace(CONFIG, max_seq_length=32), 1)
    assert num_encoder_loads() == before + 2


def test_unresolved_or_unfit_configuration_is_refused(tiny_bert: ModelSpec) -> None:
    with pytest.raises(ValueError, match="resolve_backend"):
        Encoder(tiny_bert, dataclasses.replace(CONFIG, dtype="auto"))
    with pytest.raises(ConfigError, match="64 positions"):
        Encoder(tiny_bert, dataclasses.replace(CONFIG, max_seq_length=65))


def test_prefix_that_fills_the_window_is_refused(tiny_model: SpecMaker, own_cache: Path) -> None:
    spec = tiny_model("bert", "passage: " * 6)
    with pytest.raises(ConfigError, match="no room") as caught:
        Encoder(spec, dataclasses.replace(CONFIG, max_seq_length=16))
    assert caught.value.option == "max_seq_length"


def test_missing_tensor_is_a_model_error(tiny_bert: ModelSpec, tmp_path: Path) -> None:
    import shutil

    from safetensors.numpy import load_file, save_file

    directory = tmp_path / "model"
    shutil.copytree(tiny_bert.directory, directory)
    state = load_file(directory / "model.safetensors")
    del state["encoder.layer.1.attention.self.query.weight"]
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    spec = dataclasses.replace(tiny_bert, directory=directory)
    with pytest.raises(ModelError, match=r"model\.safetensors.*query\.weight"):
        Encoder(spec, CONFIG)


def test_combine_windows_by_hand() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    combined = combine_windows(vectors, np.array([2, 1]))
    np.testing.assert_allclose(combined, [2**-0.5, 2**-0.5], rtol=1e-6)
    assert combine_windows(np.zeros((1, 2), dtype=np.float32), np.array([3])) is None
    assert combine_windows(np.full((1, 2), np.inf, dtype=np.float32), np.array([3])) is None


@given(st.lists(st.booleans(), max_size=40))
def test_bisecting_finds_exactly_the_bad_items(bad: list[bool]) -> None:
    failed: list[int] = []

    def run(items: list[int]) -> list[int]:
        if any(bad[item] for item in items):
            raise ValueError("bad")
        return [item * 2 for item in items]

    results = run_bisecting(list(range(len(bad))), run, lambda item, error: failed.append(item))
    assert failed == [item for item, is_bad in enumerate(bad) if is_bad]
    assert results == {item: item * 2 for item, is_bad in enumerate(bad) if not is_bad}


def test_interrupt_is_not_swallowed() -> None:
    def run(items: list[int]) -> list[int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_bisecting([1, 2], run, lambda item, error: None)


def test_error_text_is_one_valid_line() -> None:
    text = error_text(ValueError("a\nb \ud800 " + "c" * 1000))
    assert "\n" not in text
    assert text.startswith("ValueError: a b \\ud800")
    assert len(text) < 600


@pytest.mark.slow
def test_equals_sentence_transformers(minilm: ModelSpec) -> None:
    from sentence_transformers import SentenceTransformer

    texts = [ENGLISH[:n] for n in range(1, len(ENGLISH), 9)]
    config = dataclasses.replace(CONFIG, max_seq_length=256, long_documents="truncate")
    peer = SentenceTransformer(str(minilm.directory), device="cpu")
    expected = peer.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(
        embeddings(Encoder(minilm, config, 2).encode(texts)), expected, atol=1e-5
    )


@pytest.mark.slow
def test_default_model_equals_transformers(default_model: ModelSpec) -> None:
    assert default_model.document_prefix == "passage: "
    texts = [ENGLISH, CHINESE, "河"]
    expected, _ = reference(
        default_model.directory, [f"passage: {text}" for text in texts], max_length=512
    )
    config = dataclasses.replace(CONFIG, max_seq_length=512)
    got = embeddings(Encoder(default_model, config, 2).encode(texts))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_calls_of_several_threads_share_the_model(tiny_bert: ModelSpec) -> None:
    """Work of one call is done while another's batches are in the model; answers do not mix."""
    encoder = Encoder(tiny_bert, CONFIG, num_threads=2)
    texts = [[ENGLISH[n : n + 5 * k] for k in range(1, 12)] for n in range(8)]
    expected = [embeddings(encoder.encode(part)) for part in texts]
    before = encoder.stats
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(encoder.encode_counted, texts))
    for (batch, stats), vectors in zip(found, expected, strict=True):
        np.testing.assert_allclose(embeddings(batch), vectors, atol=1e-5)
        assert (stats.documents, stats.windows) == (11, 11)
    after = encoder.stats
    assert after.windows - before.windows == 88
    assert after.real_tokens == 2 * before.real_tokens
    # Calls that overlap count once.
    assert after.seconds - before.seconds < sum(stats.seconds for _, stats in found)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_as_many_batches_at_a_time_as_threads(tiny_bert: ModelSpec, backend: str) -> None:
    encoder = Encoder(tiny_bert, dataclasses.replace(CONFIG, backend=backend), num_threads=3)
    inner, lock = encoder._forward, threading.Lock()
    together = threading.Barrier(3, timeout=30)
    running: list[int] = []

    class Watched(FailingForward):
        def __call__(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with lock:
                running.append(1)
                assert sum(running) <= 3
            together.wait()  # breaks unless three batches are in the model at a time
            result = self.inner(ids, mask)
            with lock:
                running.pop()
            return result

    encoder._forward = Watched(inner, 0, RuntimeError())
    assert "3 batches of up to 256 tokens at a time" in encoder.description()
    encoder._budget = 1  # each window goes alone
    encoder.encode(["water mill boats"] * 6)


def test_watch_counts_overlapping_blocks_once() -> None:
    watch = Watch()
    began = time.perf_counter()
    with watch.running():
        with watch.running():
            time.sleep(0.02)
        time.sleep(0.02)
        assert 0.04 <= watch.seconds <= time.perf_counter() - began
    first = watch.seconds
    time.sleep(0.02)
    assert watch.seconds == first


def test_wait_share_by_hand() -> None:
    assert EncoderStats().wait_share == 0.0
    assert EncoderStats(model_seconds=3.0, seconds=2.0, num_slots=2).wait_share == 0.25
