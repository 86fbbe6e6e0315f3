"""What a model directory holds, read from its JSON files alone.

Nothing in a model directory is executed: weights are safetensors, never pickles, and no code
of the directory is imported. No heavy import either, so that a wrong model is found at once.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Families whose attention the encoder knows, by `model_type`.
FAMILIES = ("bert", "roberta", "xlm-roberta", "mpnet", "distilbert")
ROBERTA_FAMILIES = ("roberta", "xlm-roberta")  # positions are counted from the pad id on
POOLINGS = ("mean", "cls")
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
EXTRA_TOKENIZER_FILES = ("merges.txt", "added_tokens.json", "special_tokens_map.json")
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

_LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


class ModelError(ValueError):
    """A model that cannot be found, fetched or used; the message names it and the reason."""


@dataclass(frozen=True)
class ModelSpec:
    """An encoder on this machine.

    Attributes:
        name: what the user calls it, resolved: the catalogue's name, the hub id or the path.
        directory: a Hugging Face model directory.
        fingerprint: sha256 over the hashes of its weights, tokenizer and configuration.
        model_type: one of FAMILIES.
        dimensions: length of an embedding.
        max_positions: longest window, special tokens included.
        pooling: `mean` or `cls`, as the model's own files say, or what they say beyond those.
        document_prefix: put before every document.
        query_prefix: put before every query.
        labels: classes that are told beside the embedding; see `lexbeam.models.classifier`.
    """

    name: str
    directory: Path
    fingerprint: str
    model_type: str
    dimensions: int
    max_positions: int
    pooling: str
    document_prefix: str
    query_prefix: str
    labels: tuple[str, ...] = ()


def read_spec(
    name: str, directory: Path, cache: Path, prefixes: tuple[str, str] | None = None
) -> ModelSpec:
    """Describe the model in `directory`; hashes of its files are kept in `cache`.

    prefixes: document and query prefix; None takes those of its sentence-transformers files.
    Raises ModelError naming directory and file where the model is incomplete, damaged or of
    a family that the encoder does not know.
    """
    config = read_json(directory, "config.json")
    model_type = _family(config, directory)
    weights = weight_files(directory)
    tokenizer = _tokenizer_files(directory)
    if prefixes is None:
        prefixes = _prompts(directory)
    fingerprint = _fingerprint([directory / "config.json", *weights, *tokenizer], directory, cache)
    return ModelSpec(
        name=name,
        directory=directory,
        fingerprint=fingerprint,
        model_type=model_type,
        dimensions=_integer(config, ("hidden_size", "dim"), directory),
        max_positions=_max_positions(config, model_type, directory),
        pooling=_pooling(directory),
        document_prefix=prefixes[0],
        query_prefix=prefixes[1],
    )


def read_json(directory: Path, file: str) -> dict[str, Any]:
    """Object of a JSON file; raises ModelError naming directory and file if it is not one."""
    try:
        value = json.loads((directory / file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise damaged(directory, file, str(error)) from error
    if not isinstance(value, dict):
        raise damaged(directory, file, "not a JSON object")
    return value


def damaged(directory: Path, file: str, reason: str) -> ModelError:
    """The error of an unusable file of a model directory."""
    return ModelError(f"model directory {directory}: {file}: {reason}")


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model, each checked for completeness by its header.

    Raises ModelError if there are none (pickled weights are never loaded) or one is cut short.
    """
    if (directory / WEIGHTS).is_file():
        names = [WEIGHTS]
    elif (directory / WEIGHTS_INDEX).is_file():
        shards = read_json(directory, WEIGHTS_INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise damaged(directory, WEIGHTS_INDEX, "no weight_map")
        names = sorted({_plain_name(directory, str(shard)) for shard in shards.values()})
    else:
        raise damaged(directory, WEIGHTS, "missing (pickled weights are never loaded)")
    for name in names:
        read_header(directory, name)
    return [directory / name for name in names]


def _plain_name(directory: Path, name: str) -> str:
    if Path(name).name != name:
        raise damaged(directory, WEIGHTS_INDEX, f"names a file outside: {name!r}")
    return name


def read_header(directory: Path, file: str) -> dict[str, list[int]]:
    """Shapes of a safetensors file's tensors by name, from its header; nothing else is read.

    Raises ModelError where the file has not the size that the header announces.
    """
    path = directory / file
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size, 1 << 28):
                raise damaged(directory, file, "not a safetensors file, or cut short")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        ends = [entry["data_offsets"][1] for entry in header.values()]
        shapes = {name: list(entry["shape"]) for name, entry in header.items()}
    except (
        OSError,
        struct.error,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:
        if isinstance(error, ModelError):
            raise
        raise damaged(directory, file, f"not a safetensors file, or cut short: {error}") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise damaged(directory, file, f"cut short: {size} bytes instead of {expected}")
    return shapes


def _family(config: dict[str, Any], directory: Path) -> str:
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise damaged(directory, "config.json", f"model_type {model_type!r} is none of {known}")
    return str(model_type)


def _integer(config: dict[str, Any], keys: Iterable[str], directory: Path) -> int:
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and value > 0:
            return value
    raise damaged(directory, "config.json", f"no positive {' or '.join(keys)}")


def _max_positions(config: dict[str, Any], model_type: str, directory: Path) -> int:
    rows = _integer(config, ("max_position_embeddings",), directory)
    if model_type in ROBERTA_FAMILIES:
        return rows - int(config.get("pad_token_id", 1)) - 1
    if model_type == "mpnet":
        return rows - 2
    return rows


def _tokenizer_files(directory: Path) -> list[Path]:
    found = [directory / name for name in TOKENIZER_FILES if (directory / name).is_file()]
    if not found:
        raise damaged(directory, "tokenizer.json", "missing, and no vocabulary file either")
    if found[0].name == "tokenizer.json":
        _check_json_ends(directory, found[0])
        return found[:1]
    return found + [p for name in EXTRA_TOKENIZER_FILES if (p := directory / name).is_file()]


def _check_json_ends(directory: Path, path: Path) -> None:
    """Find a tokenizer.json that was cut short without parsing its megabytes."""
    with path.open("rb") as stream:
        head = stream.read(64).lstrip()
        stream.seek(max(0, path.stat().st_size - 64))
        tail = stream.read().rstrip()
    if not (head.startswith(b"{") and tail.endswith(b"}")):
        raise damaged(directory, path.name, "not a JSON object, or cut short")


def _pooling(directory: Path) -> str:
    """Pooling of the sentence-transformers files; `mean` where there are none."""
    if not (directory / "modules.json").is_file():
        return "mean"
    folder = None
    for module in _modules(directory):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind not in _KNOWN_MODULES:
            reason = f"has a {kind} module, which would change the embeddings and is not supported"
            raise damaged(directory, "modules.json", reason)
        if kind == "Pooling":
            folder = str(module.get("path", ""))
    if folder is None:
        return "mean"
    if folder and Path(folder).name != folder:
        raise damaged(directory, "modules.json", f"names a folder outside: {folder!r}")
    options = read_json(directory, f"{folder}/config.json" if folder else "config.json")
    return _pooling_mode(options)


def _modules(directory: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads((directory / "modules.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise damaged(directory, "modules.json", str(error)) from error
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise damaged(directory, "modules.json", "not a list of modules")
    return modules


def _pooling_mode(options: dict[str, Any]) -> str:
    mode = options.get("pooling_mode")
    if isinstance(mode, str):
        return mode
    active = [name for key, name in _LEGACY_POOLING.items() if options.get(key)]
    if isinstance(mode, list):
        active = [str(name) for name in mode]
    return "+".join(active) or "mean"


def _prompts(directory: Path) -> tuple[str, str]:
    """Document and query prefix, by the names that sentence-transformers looks for."""
    if not (directory / "config_sentence_transformers.json").is_file():
        return "", ""
    prompts = read_json(directory, "config_sentence_transformers.json").get("prompts")
    if not isinstance(prompts, dict):
        return "", ""
    names = ("document", "passage", "corpus")
    document = next((prompts[name] for name in names if prompts.get(name)), "")
    return str(document), str(prompts.get("query") or "")


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fingerprint(files: list[Path], directory: Path, cache: Path) -> str:
    """Hash of the files' names and hashes; a file unchanged in size and time is not read again."""
    key = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:32]
    sidecar = cache / "fingerprints" / f"{key}.json"
    try:
        known = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    hashes: dict[str, list[Any]] = {}
    for path in files:
        stat = path.stat()
        seen = known.get(path.name) if isinstance(known, dict) else None
        if isinstance(seen, list) and seen[:2] == [stat.st_size, stat.st_mtime_ns]:
            hashes[path.name] = seen
        else:
            hashes[path.name] = [stat.st_size, stat.st_mtime_ns, file_sha256(path)]
    if hashes != known:
        write_quietly(sidecar, json.dumps(hashes))
    text = "\n".join(f"{name} {hashes[name][2]}" for name in sorted(hashes))
    return hashlib.sha256(text.encode()).hexdigest()


def write_quietly(path: Path, text: str) -> None:
    """Write atomically; a cache that cannot be written only costs time."""
    import os
    import tempfile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(temporary, path)
    except OSError:
        return
