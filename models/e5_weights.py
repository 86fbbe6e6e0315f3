"""Reads 4-bit E5 weights and writes a Hugging Face directory of the same numbers in float32.

The file, little-endian: magic `E5S1`, u32 version; i32 hidden, layers, heads, intermediate,
vocabulary, positions, types; f32 LayerNorm epsilon; i32 block size; i32 pieces, bos, eos, pad,
unk; u64 bytes of the pieces; the pieces (offsets, scores, text); normaliser entries; then a
table of tensors. A quantised block of 32 weights is a float16 scale d and 16 bytes: weight i is
(low nibble of byte i - 8) d, weight 16 + i is (high nibble of byte i - 8) d.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAGIC = b"E5S1"
VERSION = 1
BLOCK = 32
BLOCK_BYTES = 18
FLOAT32 = 0
FOUR_BIT = 1

_HEADER = struct.Struct("<4sI7ifi5iQ")
_TENSOR = struct.Struct("<BIQQ")

Array = npt.NDArray[np.float32]

_LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDING_NAMES = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


@dataclass(frozen=True)
class E5Header:
    """Sizes and special ids of an E5 file, in the words of the Hugging Face configuration."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    table_start: int


def read_header(data: memoryview) -> E5Header:
    """Sizes of the file `data`; raises ValueError if it is not an E5 file of version 1."""
    if len(data) < _HEADER.size:
        raise ValueError("not an E5 weights file: too short")
    magic, version, *fields = _HEADER.unpack_from(data, 0)
    if magic != MAGIC or version != VERSION:
        raise ValueError(f"not an E5 weights file of version {VERSION}: {magic!r} {version}")
    sizes, (epsilon, block, pieces), ids, blob = (
        fields[:7],
        fields[7:10],
        fields[10:14],
        fields[14],
    )
    if block != BLOCK:
        raise ValueError(f"blocks of {block} weights instead of {BLOCK}")
    start = _HEADER.size + 4 * (pieces + 1) + 4 * pieces + blob
    _, normaliser_bytes = struct.unpack_from("<iI", data, start)
    # The file's epsilon is a float32; its shortest decimal is the published one.
    epsilon = float(str(np.float32(epsilon)))
    return E5Header(
        hidden_size=sizes[0],
        num_hidden_layers=sizes[1],
        num_attention_heads=sizes[2],
        intermediate_size=sizes[3],
        vocab_size=sizes[4],
        max_position_embeddings=sizes[5],
        type_vocab_size=sizes[6],
        layer_norm_eps=epsilon,
        bos_token_id=ids[0],
        eos_token_id=ids[1],
        pad_token_id=ids[2],
        table_start=start + 8 + normaliser_bytes,
    )


def read_tensors(data: memoryview, header: E5Header) -> dict[str, Array]:
    """Tensors by the file's own names, flat float32, 4-bit ones dequantised exactly.

    Raises ValueError if the table does not fit the file.
    """
    position = header.table_start
    (count,) = struct.unpack_from("<i", data, position)
    position += 4
    tensors: dict[str, Array] = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, position)
        name = bytes(data[position + 2 : position + 2 + length]).decode()
        position += 2 + length
        kind, elements, offset, size = _TENSOR.unpack_from(data, position)
        position += _TENSOR.size
        raw = data[offset : offset + size]
        if len(raw) != size:
            raise ValueError(f"tensor {name}: the file is cut short")
        tensors[name] = _decode(name, kind, elements, raw)
    return tensors


def _decode(name: str, kind: int, elements: int, raw: memoryview) -> Array:
    if kind == FLOAT32 and len(raw) == 4 * elements:
        return np.frombuffer(raw, dtype="<f4").astype(np.float32)
    if kind == FOUR_BIT and elements % BLOCK == 0 and len(raw) == elements // BLOCK * BLOCK_BYTES:
        return dequantise(raw)
    raise ValueError(f"tensor {name}: type {kind} with {elements} elements in {len(raw)} bytes")


def dequantise(raw: memoryview | bytes) -> Array:
    """Weights of 18-byte blocks; (blocks x 18,) bytes to (blocks x 32,) float32."""
    block = np.dtype([("scale", "<f2"), ("nibbles", "u1", BLOCK // 2)])
    blocks = np.frombuffer(raw, dtype=block)
    scale = blocks["scale"].astype(np.float32)[:, None]
    nibbles = blocks["nibbles"]
    weights = np.empty((len(blocks), BLOCK), dtype=np.float32)
    half = BLOCK // 2
    np.multiply((nibbles & 15).astype(np.int8) - np.int8(8), scale, out=weights[:, :half])
    np.multiply((nibbles >> 4).astype(np.int8) - np.int8(8), scale, out=weights[:, half:])
    return weights.reshape(-1)


def bert_state(tensors: dict[str, Array], header: E5Header) -> dict[str, Array]:
    """Tensors under the names and in the shapes of `BertModel(add_pooling_layer=False)`.

    A type table of one row is filled up with zeros. Raises ValueError on a missing or
    misshapen tensor.
    """
    hidden, inner = header.hidden_size, header.intermediate_size
    state = {new: _take(tensors, old, (-1,)) for old, new in _EMBEDDING_NAMES.items()}
    for table in ("word", "position", "token_type"):
        name = f"embeddings.{table}_embeddings.weight"
        state[name] = state[name].reshape(-1, hidden)
    types = state["embeddings.token_type_embeddings.weight"]
    missing = max(0, 2 - len(types))
    padded = np.vstack([types, np.zeros((missing, hidden), dtype=np.float32)])
    state["embeddings.token_type_embeddings.weight"] = padded
    shapes = {
        "fi": (inner, hidden),
        "fo": (hidden, inner),
        "aln": (hidden,),
        "oln": (hidden,),
    }
    for layer in range(header.num_hidden_layers):
        for old, new in _LAYER_NAMES.items():
            shape = shapes.get(old, (hidden, hidden))
            name = f"encoder.layer.{layer}.{new}"
            state[f"{name}.weight"] = _take(tensors, f"l{layer}.{old}.w", shape)
            state[f"{name}.bias"] = _take(tensors, f"l{layer}.{old}.b", shape[:1])
    _check_tables(state, header)
    return state


def _take(tensors: dict[str, Array], name: str, shape: tuple[int, ...]) -> Array:
    if name not in tensors:
        raise ValueError(f"no tensor {name}")
    if shape != (-1,) and tensors[name].size != int(np.prod(shape)):
        raise ValueError(f"tensor {name}: {tensors[name].size} elements instead of {shape}")
    return tensors[name].reshape(shape)


def _check_tables(state: dict[str, Array], header: E5Header) -> None:
    for table, rows in (
        ("word", header.vocab_size),
        ("position", header.max_position_embeddings),
    ):
        found = len(state[f"embeddings.{table}_embeddings.weight"])
        if found != rows:
            raise ValueError(f"{table} table of {found} rows instead of {rows}")


def bert_config(header: E5Header) -> dict[str, object]:
    """The `config.json` of the model."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": header.hidden_size,
        "num_hidden_layers": header.num_hidden_layers,
        "num_attention_heads": header.num_attention_heads,
        "intermediate_size": header.intermediate_size,
        "vocab_size": header.vocab_size,
        "max_position_embeddings": header.max_position_embeddings,
        "type_vocab_size": max(2, header.type_vocab_size),
        "layer_norm_eps": header.layer_norm_eps,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "position_embedding_type": "absolute",
        "bos_token_id": header.bos_token_id,
        "eos_token_id": header.eos_token_id,
        "pad_token_id": header.pad_token_id,
        "dtype": "float32",
    }


def tokenizer_config(max_positions: int) -> dict[str, object]:
    """The `tokenizer_config.json`: a plain fast tokenizer with XLM-R's special tokens."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_positions,
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **special_tokens(),
    }


def special_tokens() -> dict[str, str]:
    """The `special_tokens_map.json`."""
    return {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }


def convert(weights: bytes, tokenizer: bytes, directory: Path) -> None:
    """Write weights, configuration and tokenizer of an E5 file into an existing `directory`.

    weights: the file's bytes; tokenizer: the bytes of a tokenizer.json.
    Raises ValueError if the file is not of the format.
    """
    from safetensors.numpy import save_file

    data = memoryview(weights)
    try:
        header = read_header(data)
        state = bert_state(read_tensors(data, header), header)
    except struct.error as error:
        raise ValueError(f"the E5 weights file is cut short: {error}") from error
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "tokenizer.json").write_bytes(tokenizer)
    # safetensors makes its files private; a cache may be shared as its other files are.
    (directory / "model.safetensors").chmod((directory / "tokenizer.json").stat().st_mode)
    write_json(directory / "config.json", bert_config(header))
    write_json(
        directory / "tokenizer_config.json",
        tokenizer_config(header.max_position_embeddings),
    )
    write_json(directory / "special_tokens_map.json", special_tokens())


def write_sentence_transformers(directory: Path, dimensions: int, max_length: int) -> None:
    """Write the files that tell sentence-transformers prefix, mean pooling and L2 norm."""
    modules = [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        ("2_Normalize", "Normalize"),
    ]
    entries = [
        {
            "idx": i,
            "name": str(i),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, (path, kind) in enumerate(modules)
    ]
    for folder, _ in modules[1:]:
        (directory / folder).mkdir(exist_ok=True)
    write_json(directory / "modules.json", entries)
    write_json(
        directory / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": dimensions,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    write_json(
        directory / "sentence_bert_config.json",
        {"max_seq_length": max_length, "do_lower_case": False},
    )
    prompts = {"query": "query: ", "passage": "passage: "}
    write_json(directory / "config_sentence_transformers.json", {"prompts": prompts})


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
