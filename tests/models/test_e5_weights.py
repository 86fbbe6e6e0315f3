"""4-bit E5 files: exact numbers, the right names, clear errors."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lexbeam.models import e5_weights
from lexbeam.models.e5_weights import dequantise, read_header, read_tensors
from tests.models.tiny_models import write_tokenizer

HIDDEN, LAYERS, HEADS, INNER, VOCABULARY, POSITIONS = 32, 2, 4, 64, 40, 16


def quantise(scales: np.ndarray, values: np.ndarray) -> bytes:
    """18-byte blocks of whole numbers in -8..7, written nibble by nibble."""
    blocks = []
    for scale, row in zip(scales, values, strict=True):
        nibbles = [int(value) + 8 for value in row]
        packed = [nibbles[i] | nibbles[16 + i] << 4 for i in range(16)]
        blocks.append(struct.pack("<e16B", float(scale), *packed))
    return b"".join(blocks)


class Writer:
    """Writes the file format from random tensors and remembers what it wrote."""

    def __init__(self, type_rows: int = 2) -> None:
        self.random = np.random.default_rng(5)
        self.tensors: dict[str, tuple[int, bytes, np.ndarray]] = {}
        self.type_rows = type_rows
        self.quantised("emb.word", (VOCABULARY, HIDDEN))
        self.plain("emb.pos", (POSITIONS, HIDDEN))
        self.plain("emb.type", (type_rows, HIDDEN))
        self.norm("emb.ln")
        for layer in range(LAYERS):
            for name in ("q", "k", "v", "ao"):
                self.dense(f"l{layer}.{name}", HIDDEN, HIDDEN)
            self.norm(f"l{layer}.aln")
            self.dense(f"l{layer}.fi", INNER, HIDDEN)
            self.dense(f"l{layer}.fo", HIDDEN, INNER)
            self.norm(f"l{layer}.oln")

    def quantised(self, name: str, shape: tuple[int, int]) -> None:
        blocks = shape[0] * shape[1] // 32
        scales = self.random.normal(size=blocks).astype(np.float16)
        values = self.random.integers(-8, 8, size=(blocks, 32))
        exact = (scales.astype(np.float32)[:, None] * values).astype(np.float32)
        self.tensors[name] = (1, quantise(scales, values), exact.reshape(shape))

    def plain(self, name: str, shape: tuple[int, ...]) -> None:
        values = self.random.normal(size=shape).astype(np.float32)
        self.tensors[name] = (0, values.tobytes(), values)

    def dense(self, name: str, rows: int, columns: int) -> None:
        self.quantised(f"{name}.w", (rows, columns))
        self.plain(f"{name}.b", (rows,))

    def norm(self, name: str) -> None:
        self.plain(f"{name}.w", (HIDDEN,))
        self.plain(f"{name}.b", (HIDDEN,))

    def data(self) -> bytes:
        sizes = (HIDDEN, LAYERS, HEADS, INNER, VOCABULARY, POSITIONS, self.type_rows)
        head = struct.pack("<4sI7ifi", b"E5S1", 1, *sizes, 1e-12, 32)
        head += struct.pack("<5iQ", 3, 0, 2, 1, 3, 5) + struct.pack("<4I3f", 0, 1, 3, 5, 0, -1, -2)
        head += b"abcde" + struct.pack("<iI", 1, 7) + b"charmap"
        head += struct.pack("<i", len(self.tensors))
        table_size = sum(2 + len(name) + 21 for name in self.tensors)
        table, body = b"", b""
        for name, (kind, raw, values) in self.tensors.items():
            offset = len(head) + table_size + len(body)
            table += struct.pack("<H", len(name)) + name.encode()
            table += struct.pack("<BIQQ", kind, values.size, offset, len(raw))
            body += raw
        return head + table + body


@given(
    hnp.arrays(np.float16, 3, elements=st.floats(-100, 100, width=16)),
    hnp.arrays(np.int64, (3, 32), elements=st.integers(-8, 7)),
)
def test_dequantise_is_exact(scales: np.ndarray, values: np.ndarray) -> None:
    got = dequantise(quantise(scales, values)).reshape(3, 32)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, scales.astype(np.float32)[:, None] * values)


def test_block_by_hand() -> None:
    raw = struct.pack("<e16B", 0.5, 0x1F, *[0x88] * 15)
    got = dequantise(raw)
    assert got[0] == 0.5 * 7
    assert got[16] == 0.5 * -7
    assert np.count_nonzero(got) == 2


def test_header_and_tensors() -> None:
    writer = Writer()
    data = memoryview(writer.data())
    header = read_header(data)
    assert (header.hidden_size, header.vocab_size, header.pad_token_id) == (HIDDEN, VOCABULARY, 1)
    assert header.layer_norm_eps == 1e-12
    tensors = read_tensors(data, header)
    assert tensors.keys() == writer.tensors.keys()
    for name, (_, _, values) in writer.tensors.items():
        np.testing.assert_array_equal(tensors[name], values.reshape(-1), err_msg=name)


@pytest.mark.parametrize("type_rows", [1, 2])
def test_converted_directory_loads_as_bert(tmp_path: Path, type_rows: int) -> None:
    from transformers import AutoTokenizer, BertModel

    writer = Writer(type_rows)
    source = tmp_path / "tokenizer"
    source.mkdir()
    write_tokenizer(source, "xlm-roberta")
    directory = tmp_path / "model"
    directory.mkdir()
    e5_weights.convert(writer.data(), (source / "tokenizer.json").read_bytes(), directory)
    model, report = BertModel.from_pretrained(
        directory, add_pooling_layer=False, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for layer in range(LAYERS):
        block = model.encoder.layer[layer]
        for name, module in {
            "q": block.attention.self.query,
            "k": block.attention.self.key,
            "v": block.attention.self.value,
            "ao": block.attention.output.dense,
            "aln": block.attention.output.LayerNorm,
            "fi": block.intermediate.dense,
            "fo": block.output.dense,
            "oln": block.output.LayerNorm,
        }.items():
            for part, tensor in (("w", module.weight), ("b", module.bias)):
                wanted = writer.tensors[f"l{layer}.{name}.{part}"][2]
                np.testing.assert_array_equal(tensor.detach().numpy(), wanted)
    embeddings = model.embeddings
    words = embeddings.word_embeddings.weight.detach().numpy()
    np.testing.assert_array_equal(words, writer.tensors["emb.word"][2])
    types = embeddings.token_type_embeddings.weight.detach().numpy()
    np.testing.assert_array_equal(types[:type_rows], writer.tensors["emb.type"][2])
    assert not types[type_rows:].any()
    assert model.config.layer_norm_eps == 1e-12
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert (tokenizer.pad_token, tokenizer.mask_token) == ("<pad>", "<mask>")
    assert tokenizer("a")["input_ids"][0] == 0


def test_sentence_transformers_files(tmp_path: Path) -> None:
    e5_weights.write_sentence_transformers(tmp_path, 32, 16)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    pooling = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] is True
    assert pooling["word_embedding_dimension"] == 32


def test_not_an_e5_file() -> None:
    data = Writer().data()
    for wrong in (b"", b"E5S1", b"XXXX" + data[4:], data[:4] + b"\x02" + data[5:]):
        with pytest.raises(ValueError, match="not an E5 weights file"):
            read_header(memoryview(wrong))


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_file_cut_short(tmp_path: Path, kept: float) -> None:
    data = Writer().data()
    with pytest.raises(ValueError, match="cut short|elements"):
        e5_weights.convert(data[: int(len(data) * kept)], b"{}", tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_or_misshapen_tensor(tmp_path: Path) -> None:
    writer = Writer()
    del writer.tensors["l1.fo.w"]
    with pytest.raises(ValueError, match=r"no tensor l1\.fo\.w"):
        e5_weights.convert(writer.data(), b"{}", tmp_path)
    writer = Writer()
    writer.plain("l0.q.b", (HIDDEN + 1,))
    with pytest.raises(ValueError, match=r"l0\.q\.b"):
        e5_weights.convert(writer.data(), b"{}", tmp_path)
