"""The encode stage's buffers: cut by the split alone, worked on ahead, given in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lexbeam.models import schemas
from lexbeam.models.config import EncoderConfig
from lexbeam.models.encoder_output import EncodedDocument, encoded_batch
from lexbeam.models.encoder_spec import ModelSpec
from lexbeam.models.encoder_stats import EncoderStats
from lexbeam.transforms import blocks, encode

SPEC = ModelSpec("tiny", Path("nowhere"), "0" * 64, "bert", 2, 512, "mean", "", "")
SCHEMA = pa.schema([("content", pa.string()), ("dropped", pa.bool_())])


class RecordingEncoder:
    """Encodes a text to its number; notes its calls and how many of them run at a time."""

    def __init__(self) -> None:
        self.calls: list[list[str | None]] = []
        self.running = self.most_running = 0
        self.stats = EncoderStats()
        self.lock = threading.Lock()

    def encode_counted(self, contents: Sequence[str | None]) -> tuple[pa.RecordBatch, EncoderStats]:
        with self.lock:
            self.calls.append(list(contents))
            self.running += 1
            self.most_running = max(self.running, self.most_running)
            first = len(self.calls) == 1
        time.sleep(0.1 if first else 0.02)  # the first buffer is done after the second
        with self.lock:
            self.running -= 1
        if "broken" in contents:
            raise RuntimeError("device lost")
        one = np.array([1.0, 0.0], dtype=np.float32)
        rows = [text and EncodedDocument(embedding=one, num_tokens=int(text)) for text in contents]
        texts = sum(text is not None for text in contents)
        counts = EncoderStats(windows=texts, real_tokens=10 * texts, padded_tokens=11 * texts)
        return encoded_batch(rows, 2), counts


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> RecordingEncoder:
    recording = RecordingEncoder()
    monkeypatch.setattr(encode, "cached_encoder", lambda *_: recording)
    monkeypatch.setattr(encode, "model_on_host", lambda spec, _: spec)
    monkeypatch.setattr(encode, "BUFFER_ROWS", 10)
    return recording


@pytest.fixture
def stage(encoder: RecordingEncoder) -> Iterator[encode.EncodeDoFn]:
    made = encode.EncodeDoFn(SPEC, EncoderConfig())
    made.setup()
    made.start_bundle()
    yield made
    made.teardown()


def block(texts: Sequence[str], split: int = 0, dropped: str = "") -> pa.RecordBatch:
    rows = [{"content": text, "dropped": text == dropped} for text in texts]
    return blocks.of_split(pa.RecordBatch.from_pylist(rows, schema=SCHEMA), split)


def outputs(stage: encode.EncodeDoFn, *given: pa.RecordBatch, split: int = 0) -> list:
    given = (*given, blocks.last_block(SCHEMA, split))
    return [output for one in given for output in stage.process(one)]


@pytest.mark.parametrize("size", [1, 7, 10, 35])
def test_buffers_do_not_depend_on_blocks(
    stage: encode.EncodeDoFn, encoder: RecordingEncoder, size: int
) -> None:
    numbers = [str(n) for n in range(1, 36)]
    found = outputs(stage, *(block(numbers[i : i + size]) for i in range(0, 35, size)))
    assert sorted(map(len, encoder.calls)) == [5, 10, 10, 10]
    assert sorted(map(tuple, encoder.calls)) == sorted(
        tuple(numbers[i : i + 10]) for i in range(0, 35, 10)
    )
    counts = [n for output in found for n in output["num_tokens"].to_pylist()]
    assert counts == list(range(1, 36))
    last = found[-1]
    assert blocks.is_last(last)
    assert blocks.statistics_of(last) == {
        "windows": 35, "real_tokens": 350, "padded_tokens": 385
    }  # fmt: skip
    assert all(output.schema.equals(schemas.encoded_part_schema(2)) for output in found)
    assert encoder.most_running == 2


def test_buffers_end_at_so_many_characters(
    stage: encode.EncodeDoFn, encoder: RecordingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "BUFFER_CHARACTERS", 6)
    outputs(stage, block(["100", "200", "1", "2", "3333333", "4"]))
    assert sorted(map(len, encoder.calls)) == [1, 2, 3]


def test_dropped_rows_stay_rows_and_are_not_encoded(
    stage: encode.EncodeDoFn, encoder: RecordingEncoder
) -> None:
    found = outputs(stage, block(["1", "2", "3"], dropped="2"))
    assert encoder.calls == [["1", None, "3"]]
    assert found[0]["num_tokens"].to_pylist() == [1, None, 3]


def test_splits_do_not_mix(stage: encode.EncodeDoFn) -> None:
    first = outputs(stage, block(["1", "2"], 4), split=4)
    second = outputs(stage, block(["3"], 5), split=5)
    assert [blocks.split_of(output) for output in first + second] == [4, 4, 5, 5]
    assert blocks.statistics_of(second[-1])["windows"] == 1


def test_error_of_a_buffer_ends_the_bundle_and_the_next_begins_anew(
    stage: encode.EncodeDoFn, encoder: RecordingEncoder
) -> None:
    with pytest.raises(RuntimeError, match="device lost"):
        outputs(stage, block(["1", "broken"]))
    stage.start_bundle()
    found = outputs(stage, block(["3"]))
    assert [output["num_tokens"].to_pylist() for output in found] == [[3], []]
    assert blocks.statistics_of(found[-1])["windows"] == 1


def test_split_without_documents(stage: encode.EncodeDoFn, encoder: RecordingEncoder) -> None:
    (last,) = outputs(stage)
    assert blocks.is_last(last)
    assert encoder.calls == []


def test_a_load_is_counted_once_whichever_thread_loaded(
    encoder: RecordingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stages that were set up side by side share one model: one load, not two."""
    loads = encode.num_encoder_loads()
    encode._uncounted_loads()
    counted: list[int] = []
    stages = [encode.EncodeDoFn(SPEC, EncoderConfig()) for _ in range(2)]
    for stage in stages:
        monkeypatch.setattr(stage, "_loads", type("Counter", (), {"inc": counted.append}))
    for stage in stages:
        stage.setup()
    monkeypatch.setattr(encode, "num_encoder_loads", lambda: loads + 1)
    for stage in [*stages, *stages]:
        stage.start_bundle()
    for stage in stages:
        stage.teardown()
    assert counted == [1, 0, 0, 0]
    encode._num_counted = loads
