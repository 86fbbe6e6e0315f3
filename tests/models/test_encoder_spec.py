"""What is read from a model directory, and how a damaged one is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from lexbeam.models.encoder_spec import ModelError, ModelSpec, read_spec


@pytest.fixture
def directory(tiny_bert: ModelSpec, tmp_path: Path) -> Path:
    """A copy of a tiny model, to be damaged."""
    return Path(shutil.copytree(tiny_bert.directory, tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_pooling(directory: Path, options: dict[str, object], extra: str = "Normalize") -> None:
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(options))
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2", extra)]
    modules = [{"path": p, "type": f"sentence_transformers.models.{k}"} for p, k in kinds]
    (directory / "modules.json").write_text(json.dumps(modules))


def test_sizes(tiny_model, own_cache: Path) -> None:
    for family in ("bert", "roberta", "xlm-roberta", "mpnet", "distilbert"):
        spec = tiny_model(family)
        assert (spec.model_type, spec.dimensions, spec.max_positions) == (family, 32, 64)
        assert (spec.pooling, spec.document_prefix, spec.query_prefix) == ("mean", "", "")


def test_prompts_become_prefixes(tiny_model, own_cache: Path) -> None:
    spec = tiny_model("bert", "passage: ")
    assert (spec.document_prefix, spec.query_prefix) == ("passage: ", "ask: ")
    given = read_spec("x", spec.directory, own_cache, ("a ", "b "))
    assert (given.document_prefix, given.query_prefix) == ("a ", "b ")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls+mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["mean", "max"]}, "mean+max"),
    ],
)
def test_pooling_of_sentence_transformers(
    directory: Path, own_cache: Path, options: dict[str, object], expected: str
) -> None:
    write_pooling(directory, options)
    assert read_spec("m", directory, own_cache).pooling == expected


def test_module_that_changes_embeddings_is_refused(directory: Path, own_cache: Path) -> None:
    write_pooling(directory, {"pooling_mode": "mean"}, extra="Dense")
    with pytest.raises(ModelError, match=r"modules\.json.*Dense"):
        read_spec("m", directory, own_cache)


@pytest.mark.parametrize("path", ["../outside", "/etc"])
def test_pooling_folder_outside_is_refused(directory: Path, own_cache: Path, path: str) -> None:
    modules = [{"path": path, "type": "sentence_transformers.models.Pooling"}]
    (directory / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="outside"):
        read_spec("m", directory, own_cache)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"\xff\xfe"),
        ("config.json", b"[]"),
        ("config.json", b'{"model_type": "gpt2"}'),
        ("config.json", b'{"model_type": "bert"}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"not safetensors at all"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0[]"),
        ("tokenizer.json", b'{"version": "1.0", '),
        ("modules.json", b"{}"),
        ("config_sentence_transformers.json", b"nonsense"),
    ],
)
def test_damaged_file_is_named(directory: Path, own_cache: Path, file: str, content: bytes) -> None:
    (directory / file).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_spec("m", directory, own_cache)
    assert file in str(caught.value)
    assert str(directory) in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file_is_named(directory: Path, own_cache: Path, file: str) -> None:
    (directory / file).unlink()
    with pytest.raises(ModelError, match=file):
        read_spec("m", directory, own_cache)


@pytest.mark.parametrize("change", [-1, -1000, 1])
def test_weights_of_the_wrong_size(directory: Path, own_cache: Path, change: int) -> None:
    path = directory / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"\0" * change)
    with pytest.raises(ModelError, match=r"model\.safetensors: cut short"):
        read_spec("m", directory, own_cache)


def test_pickled_weights_are_never_used(directory: Path, own_cache: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights are never loaded"):
        read_spec("m", directory, own_cache)


def test_sharded_weights(directory: Path, own_cache: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    assert len(read_spec("m", directory, own_cache).fingerprint) == 64
    index.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(ModelError, match="outside"):
        read_spec("m", directory, own_cache)


def test_fingerprint_follows_the_content(directory: Path, own_cache: Path) -> None:
    first = read_spec("m", directory, own_cache).fingerprint
    assert read_spec("other name", directory, own_cache).fingerprint == first
    copy = Path(shutil.copytree(directory, directory.parent / "copy"))
    assert read_spec("m", copy, own_cache).fingerprint == first
    edit(directory / "config.json", layer_norm_eps=1e-5)
    assert read_spec("m", directory, own_cache).fingerprint != first


def test_changed_weights_of_the_same_size_are_noticed(directory: Path, own_cache: Path) -> None:
    first = read_spec("m", directory, own_cache).fingerprint
    path = directory / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert read_spec("m", directory, own_cache).fingerprint != first


def test_nothing_is_written_into_the_directory(directory: Path, own_cache: Path) -> None:
    before = sorted(path.name for path in directory.iterdir())
    read_spec("m", directory, own_cache)
    assert sorted(path.name for path in directory.iterdir()) == before
    assert list((own_cache / "fingerprints").iterdir())


def test_cache_that_cannot_be_written_only_costs_time(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len(read_spec("m", directory, tmp_path / "file").fingerprint) == 64
