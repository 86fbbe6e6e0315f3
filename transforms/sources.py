"""The input's files: what was asked for, what was found, and whether it is still the same.

No import beyond the standard library at the top: the command line starts with this module.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lexbeam.models.config import ConfigError, require, require_at_least, require_choice
from lexbeam.transforms import storage
from lexbeam.transforms.storage import FileInfo

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "txt",
}
COMPRESSIONS = {".gz": "gz", ".bz2": "bz2", ".zst": "zst"}
SUPPORTED = f"{', '.join(FORMATS)}, each also with {', '.join(COMPRESSIONS)}"
_CHECKING_THREADS = 16


class SourceChanged(ValueError):
    """A source is not the file any more that the plan was made for.

    Attributes:
        path: the file.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        super().__init__(f"{path}: {reason} since this run was planned")


@dataclass(frozen=True)
class InputConfig:
    """What is read, and which fields of it make a document.

    Attributes:
        inputs: files, folders (read with all below them) and globs, local or URLs, in order.
        id_key, text_key, title_key: names of a record's fields.
        text_lines: a .txt file holds a document a line, instead of being one.
        id_scope: `corpus`, or `file` to put a file's name before its documents' ids.
        keep_columns: further fields to carry into the output.
        label_key: of these the one that every document must have a class in, or None.
        pair_key: of these the one that every document must have a second text in, or None.
        title_apart: the title is no part of the text, and every document must have one.
        limit: only so many documents, the first ones; None for all.
    """

    inputs: tuple[str, ...]
    id_key: str = "id"
    text_key: str = "text"
    title_key: str = "title"
    text_lines: bool = False
    id_scope: str = "corpus"
    keep_columns: tuple[str, ...] = ()
    label_key: str | None = None
    pair_key: str | None = None
    title_apart: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        require(bool(self.inputs), "input", self.inputs, "name at least one file")
        for path in self.inputs:
            require(bool(path.strip()), "input", path, "must not be empty")
        for option in ("id_key", "text_key", "title_key"):
            value = getattr(self, option)
            require(isinstance(value, str) and bool(value), option, value, "must not be empty")
        require(self.id_key != self.text_key, "id_key", self.id_key, "is the --text_key as well")
        require_choice("id_scope", self.id_scope, ("corpus", "file"))
        if self.limit is not None:
            require_at_least("limit", self.limit, 1)
        for option in ("label_key", "pair_key"):
            value = getattr(self, option)
            if value is not None:
                self._check_kept(option, value)
        self._check_keep_columns()

    def _check_kept(self, option: str, value: str) -> None:
        require(bool(value), option, value, "must not be empty")
        for other in ("id_key", "text_key"):
            require(value != getattr(self, other), option, value, f"is the --{other} as well")
        if value not in self.keep_columns:
            raise ValueError(f"{option} {value!r} is not among the kept columns")

    def _check_keep_columns(self) -> None:
        if not self.keep_columns:
            return
        from lexbeam.models import schemas

        taken = set(schemas.documents_schema(1, keep_text=True).names)
        taken.update(schemas.tokens_schema().names)
        taken.update(schemas.encoded_part_schema(1, labels=True).names)
        taken.update(schemas.BOW.names)
        taken.update(schemas.MARKS)
        seen = set()
        for name in self.keep_columns:
            require(bool(name), "keep_columns", self.keep_columns, "a name is empty")
            require(name not in seen, "keep_columns", name, "is named twice")
            keys = {self.label_key: "label_key", self.pair_key: "pair_key"}
            reason = "is a column of the output or of its making; rename the field"
            require(name not in taken, keys.get(name, "keep_columns"), name, reason)
            seen.add(name)

    def check_named_keys(self, columns: Sequence[str], path: str) -> None:
        """Raise ConfigError where a file lacks the id or title column that the user named."""
        for option, default in (("id_key", "id"), ("title_key", "title")):
            name = getattr(self, option)
            reason = f"{path} has no such column; it has: {', '.join(columns)}"
            require(name == default or name in columns, option, name, reason)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that from_json takes back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InputConfig:
        """The configuration that to_json gave; raises ConfigError, TypeError where it is wrong."""
        tuples = {name: tuple(value[name]) for name in ("inputs", "keep_columns") if name in value}
        return cls(**{**value, **tuples})


@dataclass(frozen=True)
class Source:
    """One input file.

    Attributes:
        path: absolute local path, or URL.
        relative: path below the inputs' common root, with `/`: the `source` of its documents.
        size: bytes, as stored.
        version: time of change in ns, or a store's etag or generation.
        format: `jsonl`, `parquet`, `csv`, `tsv`, `txt` (one document) or `lines`.
        compression: `gz`, `bz2`, `zst` or empty.
        row_groups: rows and uncompressed bytes (of the columns that are read) of each row group
            of a readable Parquet file; not kept in the plan.
    """

    path: str
    relative: str
    size: int
    version: str
    format: str
    compression: str = ""
    row_groups: tuple[tuple[int, int], ...] | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that from_json takes back, without the row groups."""
        value = asdict(self)
        del value["row_groups"]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Source:
        """The source that to_json gave."""
        return cls(**value)


def check_unchanged(source: Source) -> None:
    """Raise SourceChanged unless the file has the size and version that were planned."""
    try:
        info = storage.stat(source.path)
    except FileNotFoundError:
        raise SourceChanged(source.path, "the file has gone") from None
    if info.size != source.size:
        raise SourceChanged(source.path, f"{source.size} bytes have become {info.size}")
    if info.version != source.version:
        raise SourceChanged(source.path, "the file was written again")


def list_sources(config: InputConfig, notes: list[str] | None = None) -> tuple[Source, ...]:
    """The files of the input: in the order of `inputs`, those of one glob or folder by path.

    A file that is matched twice (also through a symbolic link) is read once, where it comes first.
    Folders and globs leave out hidden files, and files of other formats with a note.

    Raises:
        ConfigError: nothing matches; an unsupported extension; no text column (the message names
            the columns that are there); a column of a wrong type; a doubled column name.
    """
    inputs = [_absolute(path) for path in config.inputs]
    files: dict[str, FileInfo] = {}
    for given, path in zip(config.inputs, inputs, strict=True):
        for info in _match(given, path, notes):
            files.setdefault(_identity(info.path), info)
    root = common_root(inputs)
    sources = [_source(info, root, config) for info in files.values()]
    with ThreadPoolExecutor(_CHECKING_THREADS) as pool:
        return tuple(pool.map(lambda source: _checked(source, config), sources))


def common_root(paths: Iterable[str]) -> str:
    """The deepest folder (with a final `/`) above all inputs; empty where there is none.

    It follows from the inputs as given, not from what globs match today: a file that appears
    tomorrow leaves the names of today's files as they are.
    """
    folders = [_folder_of(path).split("/")[:-1] for path in paths]
    shared = os.path.commonprefix(folders)
    return "/".join(shared) + "/" if shared else ""


def _folder_of(path: str) -> str:
    if storage.is_glob(path) and not storage.exists(path):
        return storage.glob_root(path)
    if path.endswith("/") or storage.is_folder(path):
        return path.rstrip("/") + "/"
    return path[: path.rfind("/") + 1]


def _absolute(path: str) -> str:
    """Local paths from the root on, as a worker may run in another folder; URLs as they are."""
    try:
        if not storage.is_local(path):
            return path
    except ValueError as error:
        raise ConfigError("input", path, str(error)) from None
    return os.path.abspath(os.path.expanduser(storage.local_path(path)))


def _identity(path: str) -> str:
    return os.path.realpath(path) if storage.is_local(path) else path


def format_of(path: str) -> tuple[str, str] | None:
    """Format and compression by the extension, in any case; None where it is not supported."""
    stem, extension = os.path.splitext(path.lower())
    compression = COMPRESSIONS.get(extension, "")
    if compression:
        extension = os.path.splitext(stem)[1]
    return (FORMATS[extension], compression) if extension in FORMATS else None


def _match(given: str, path: str, notes: list[str] | None) -> list[FileInfo]:
    """The supported files of one --input."""
    try:
        found = _find(path)
    except ImportError as error:
        raise ConfigError("input", given, f"needs a package that is missing: {error}") from None
    except (FileNotFoundError, PermissionError) as error:
        raise ConfigError("input", given, f"cannot be listed: {error}") from None
    require(found is not None, "input", given, "matches no file")
    assert found is not None
    if isinstance(found, FileInfo):
        require(
            format_of(found.path) is not None,
            "input",
            given,
            f"unsupported extension; supported are {SUPPORTED}",
        )
        return [found]
    supported = [info for info in found if format_of(info.path)]
    reason = f"matches no file with a supported extension ({SUPPORTED})"
    require(bool(supported), "input", given, reason)
    skipped = [info.path for info in found if not format_of(info.path)]
    if skipped and notes is not None:
        notes.append(f"--input {given}: left out {len(skipped)} of other formats, as {skipped[0]}")
    return supported


def _find(path: str) -> FileInfo | list[FileInfo] | None:
    """A file, the files of a folder or glob, or None where there is nothing."""
    if storage.is_folder(path):
        return storage.list_tree(path)
    if storage.exists(path):
        return storage.stat(path)
    if storage.is_glob(path):
        return storage.glob_files(path) or None
    return None


def _source(info: FileInfo, root: str, config: InputConfig) -> Source:
    try:
        info.path.encode()
    except UnicodeEncodeError:
        raise ConfigError("input", info.path, "the file's name is not UTF-8") from None
    known = format_of(info.path)
    assert known is not None
    kind, compression = known
    if kind == "txt" and config.text_lines:
        kind = "lines"
    relative = info.path[len(root) :].lstrip("/")
    return Source(info.path, relative, info.size, info.version, kind, compression)


def _checked(source: Source, config: InputConfig) -> Source:
    """The source, its columns checked; one that cannot be read is left to the reader to report."""
    if source.format in ("csv", "tsv"):
        from lexbeam.transforms import read_csv

        read_csv.check_header(source, config)
    elif source.format == "parquet":
        from lexbeam.transforms import read_parquet

        return replace(source, row_groups=read_parquet.check_columns(source, config))
    return source
