"""Files, local or on an object store, through one small interface on fsspec.

A path is a local path, `file://…`, or a URL of `s3`, `gs` or `memory`; `hdfs` is for reading only,
as it has no conditional create. Local paths never load fsspec. Nothing is ever renamed on a store:
a file gets its final name when it is written, and of two writers of one name the first wins.
"""

from __future__ import annotations

import errno
import functools
import glob
import hashlib
import io
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar, cast

from lexbeam.transforms import local_files

SCHEMES = ("file", "s3", "gs", "memory", "hdfs")
WRITABLE_SCHEMES = ("file", "s3", "gs", "memory")

_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_MAGIC = re.compile(r"[*?\[]")
_CREATE_ATTEMPTS = 5
_VERSION_KEYS = ("generation", "ETag", "etag", "LastModified", "mtime", "created")
_memory_lock = threading.Lock()
# Packages whose errors are those of a store.
_CLIENTS = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "s3fs")
_EXTRAS = {"s3": "aws", "gs": "gcp"}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _naming_path(
    function: Callable[Concatenate[str, Arguments], Result],
) -> Callable[Concatenate[str, Arguments], Result]:
    """Errors of a store's client become OSError, and name the path."""

    @functools.wraps(function)
    def call(path: str, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(path, *args, **kwargs)
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in _CLIENTS:
                raise
            raise OSError(f"{path}: {error}") from error

    return call


@dataclass(frozen=True)
class FileInfo:
    """A file as it is now.

    Attributes:
        path: as the other functions of this module take it.
        size: bytes, as stored.
        version: changes when the file does: time of change in ns, or a store's etag or generation.
    """

    path: str
    size: int
    version: str


def scheme_of(path: str) -> str:
    """`file` for local paths; raises ValueError where the scheme is not one of SCHEMES."""
    match = _URL.match(path)
    scheme = match[1].lower() if match else "file"
    if scheme not in SCHEMES:
        raise ValueError(f"{path!r}: {scheme}:// is not supported, only {', '.join(SCHEMES)}")
    return scheme


def is_local(path: str) -> bool:
    """Whether the path is on this machine's file system."""
    return scheme_of(path) == "file"


def is_writable_scheme(path: str) -> bool:
    """Whether files can be committed there: hdfs has no conditional create."""
    return scheme_of(path) in WRITABLE_SCHEMES


def is_glob(path: str) -> bool:
    """Whether the path has glob characters (`*`, `?`, `[`)."""
    return _MAGIC.search(path) is not None


def local_path(path: str) -> str:
    """A local path without `file://`; `~` is left alone."""
    return path[len("file://") :] if path.lower().startswith("file://") else path


def join(folder: str, *names: str) -> str:
    """Path of something below a folder, with single slashes."""
    parts = [folder.rstrip("/") if folder.strip("/") and not folder.endswith("://") else folder]
    parts += [name.strip("/") for name in names if name.strip("/")]
    head = parts[0]
    if len(parts) > 1 and not head.endswith("/"):
        head += "/"
    return head + "/".join(parts[1:])


def _store(path: str) -> tuple[Any, str, str]:
    """The file system of a URL, the path in it, and what such paths lack to be URLs again."""
    from fsspec.core import url_to_fs

    scheme = scheme_of(path)
    options = {} if scheme in ("memory", "hdfs") else {"use_listings_cache": False}
    try:
        file_system, inner = url_to_fs(path, **options)
    except ImportError as error:
        if scheme not in _EXTRAS:
            raise OSError(f"{path}: {error}") from error
        reason = f"{scheme}:// needs `pip install 'lexbeam[{_EXTRAS[scheme]}]'`"
        raise OSError(f"{path}: {reason}") from error
    prefix = f"{scheme}://"
    if scheme == "hdfs":
        prefix += path.split("://", 1)[1].split("/", 1)[0] + "/"
    return file_system, inner, prefix


@_naming_path
def open_read(path: str) -> BinaryIO:
    """Open for reading bytes, with seek; raises OSError naming the path."""
    if is_local(path):
        return open(local_path(path), "rb")
    if scheme_of(path) == "memory":
        # fsspec hands out one shared object, position and all.
        return io.BytesIO(read_bytes(path))
    file_system, inner, _ = _store(path)
    return cast(BinaryIO, file_system.open(inner, "rb"))


@_naming_path
def read_bytes(path: str) -> bytes:
    """The whole file; raises OSError naming the path."""
    if is_local(path):
        return Path(local_path(path)).read_bytes()
    file_system, inner, _ = _store(path)
    return bytes(file_system.cat_file(inner))


def fetch(path: str, local_file: str) -> None:
    """Copy a file to this machine; raises OSError naming the path."""
    with open_read(path) as source, open(local_file, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def sha256_file(path: str) -> str:
    """Hexadecimal SHA-256 of the file's bytes."""
    digest = hashlib.sha256()
    with open_read(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _version(info: dict[str, Any]) -> str:
    for key in _VERSION_KEYS:
        value = info.get(key)
        if value:
            # fsspec's memory store gives a time stamp in lists, a datetime for one file.
            return str(value.timestamp() if hasattr(value, "timestamp") else value)
    return ""


def _local_info(path: str) -> FileInfo:
    status = os.stat(local_path(path))
    return FileInfo(path, status.st_size, str(status.st_mtime_ns))


def _local_files(paths: Iterable[str]) -> list[FileInfo]:
    infos = []
    for path in paths:
        # Gone since it was listed, or a link to nowhere.
        with suppress(FileNotFoundError):
            if os.path.isfile(path):
                infos.append(_local_info(path))
    return infos


@_naming_path
def stat(path: str) -> FileInfo:
    """Size and version of a file; raises FileNotFoundError, also for a folder on a store."""
    if is_local(path):
        return _local_info(path)
    file_system, inner, _ = _store(path)
    info = file_system.info(inner)
    if info["type"] != "file":
        raise FileNotFoundError(errno.ENOENT, "not a file", path)
    return FileInfo(path, int(info["size"]), _version(info))


@_naming_path
def exists(path: str) -> bool:
    """Whether there is a file (or, locally, a folder) of this name."""
    if is_local(path):
        return os.path.exists(local_path(path))
    file_system, inner, _ = _store(path)
    return bool(file_system.exists(inner))


@_naming_path
def is_folder(path: str) -> bool:
    """Whether the path is a folder, on a store: whether there are files below it."""
    if is_local(path):
        return os.path.isdir(local_path(path))
    file_system, inner, _ = _store(path)
    return bool(file_system.isdir(inner))


def glob_root(pattern: str) -> str:
    """The folder above a pattern's first glob character: all that matches lies below it."""
    fixed = pattern[: match.start()] if (match := _MAGIC.search(pattern)) else pattern
    return fixed[: fixed.rfind("/") + 1]


def list_glob(pattern: str) -> list[str]:
    """Files that match, sorted by code points; hidden ones only where the pattern names them.

    `**` stands for any number of folders; a pattern without glob characters matches itself.
    """
    return [info.path for info in glob_files(pattern)]


@_naming_path
def glob_files(pattern: str) -> list[FileInfo]:
    """As list_glob, with sizes and versions.

    Raises:
        OSError: a folder below a `**` cannot be listed, which glob would pass over in silence.
    """
    if is_local(pattern):
        if "**" in pattern:
            for _ in _walk(glob_root(local_path(pattern)) or "."):
                pass
        infos = _local_files(glob.iglob(local_path(pattern), recursive=True))
    else:
        file_system, inner, prefix = _store(pattern)
        details = _detailed_glob(file_system, inner)
        infos = _visible(glob_root(pattern), _remote_infos(details, prefix))
    return sorted(infos, key=lambda info: info.path)


def _detailed_glob(file_system: Any, pattern: str) -> Iterable[dict[str, Any]]:
    if not is_glob(pattern):
        return [file_system.info(pattern)] if file_system.exists(pattern) else []
    return list(file_system.glob(pattern, detail=True).values())


@_naming_path
def list_tree(folder: str) -> list[FileInfo]:
    """Every file below a folder but hidden ones, sorted by path.

    Raises:
        OSError: a folder cannot be listed.
    """
    if is_local(folder):
        infos = []
        for parent, names in _walk(local_path(folder)):
            paths = (os.path.join(parent, name) for name in names if not name.startswith("."))
            infos += _local_files(paths)
    else:
        file_system, inner, prefix = _store(folder)
        details = file_system.find(inner, detail=True).values()
        infos = _visible(join(folder, "/") + "/", _remote_infos(details, prefix))
    return sorted(infos, key=lambda info: info.path)


@_naming_path
def list_folders(folder: str) -> list[str]:
    """Names of the folders in a folder, sorted; none where it is not there."""
    if is_local(folder):
        try:
            with os.scandir(local_path(folder)) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []
    file_system, inner, _ = _store(folder)
    if not file_system.exists(inner):
        return []
    found = file_system.ls(inner, detail=True)
    names = (info["name"].rstrip("/") for info in found if info["type"] == "directory")
    return sorted(name.rsplit("/", 1)[-1] for name in names)


def remove_temporaries(folder: str) -> None:
    """Remove what a writer that was killed left below a local folder: hidden `.tmp` files.

    Only where no other process writes there. Stores have no such files.
    """
    if not is_local(folder):
        return
    for parent, _, names in os.walk(local_path(folder)):
        for name in names:
            if name.startswith(".") and name.endswith(".tmp"):
                Path(parent, name).unlink(missing_ok=True)


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Every folder that is not hidden, with the names in it that are no folders."""

    def fail(error: OSError) -> None:
        raise error

    if not os.path.isdir(folder):
        return
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield parent, names


def _remote_infos(details: Iterable[dict[str, Any]], prefix: str) -> list[FileInfo]:
    # A store may hold empty objects that stand for folders.
    files = (info for info in details if info["type"] == "file" and not info["name"].endswith("/"))
    return [
        FileInfo(prefix + info["name"].lstrip("/"), int(info["size"]), _version(info))
        for info in files
    ]


def _visible(root: str, infos: list[FileInfo]) -> list[FileInfo]:
    return [info for info in infos if "/." not in "/" + info.path[len(root) :]]


def make_parent(path: str) -> None:
    """Make the folder that the file will lie in; nothing to do on a store."""
    if is_local(path):
        local_files.make_parent(local_path(path))


@_naming_path
def delete(path: str) -> None:
    """Delete a file; one that is not there is no error."""
    if is_local(path):
        Path(local_path(path)).unlink(missing_ok=True)
        return
    file_system, inner, _ = _store(path)
    with suppress(FileNotFoundError):
        file_system.rm_file(inner)


@_naming_path
def delete_tree(folder: str, root: str) -> None:
    """Delete a folder and all in it; it must lie below `root`, else ValueError.

    Symbolic links are removed, never followed. A folder that is not there is no error.
    """
    if is_local(folder):
        if not is_local(root):
            raise ValueError(f"{folder!r} does not lie below {root!r}")
        target = _real_parent(local_path(folder))
        _require_below(target, os.path.realpath(local_path(root)), folder, root)
        if os.path.islink(target):
            os.unlink(target)
        elif os.path.exists(target):
            shutil.rmtree(target)
        return
    _require_below(folder.rstrip("/"), root.rstrip("/"), folder, root)
    file_system, inner, _ = _store(folder)
    names = file_system.find(inner)
    if names:
        # Many at a time, where the store can.
        file_system.rm(names)


def _real_parent(path: str) -> str:
    """The path with links above its last name resolved."""
    absolute = os.path.abspath(path)
    return os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))


def _require_below(target: str, top: str, folder: str, root: str) -> None:
    names = target[len(top) + 1 :].split("/")
    if not target.startswith(top + "/") or any(name in ("", ".", "..") for name in names):
        raise ValueError(f"{folder!r} does not lie below {root!r}")


def put_if_absent(path: str, data: bytes) -> bool:
    """Create a file with this content, whole or not at all; False where the name is taken.

    Of writers that race for one name exactly one gets True. A store may answer False to the
    winner where its answer was lost and the request sent again: a lock's holder should write
    something unique and read it back.
    """
    if is_local(path):
        target = local_path(path)
        return local_files.publish(local_files.write_beside(target, data), target)
    return _create(path, lambda store, inner: store.pipe_file(inner, data, mode="create"))


def commit_file(local_file: str, path: str) -> bool:
    """Publish a finished local file under its final name, once; False where the name is taken.

    The local file is gone afterwards, whether it won or lost. A local target is linked, so that
    it is seen whole or not at all, also after a crash of the machine; a file that lies on another
    file system is copied beside it first.
    """
    try:
        if is_local(path):
            target = local_path(path)
            return local_files.publish(local_files.bring_beside(local_file, target), target)
        return _create(path, lambda store, inner: store.put_file(local_file, inner, mode="create"))
    finally:
        Path(local_file).unlink(missing_ok=True)


def copy_file(source: str, path: str) -> bool:
    """Publish a copy of a finished file under another name, once; False where that is taken.

    Two local names of one file system share the file, which must not be changed from then on.
    """
    make_parent(path)
    if is_local(source) and is_local(path):
        return local_files.publish_copy(local_path(source), local_path(path))
    return put_if_absent(path, read_bytes(source))


@_naming_path
def put_overwrite(path: str, data: bytes) -> None:
    """Write a file, replacing an earlier one at once: readers see the old or the new content."""
    if is_local(path):
        local_files.replace(data, local_path(path))
        return
    _require_writable(path)
    file_system, inner, _ = _store(path)
    file_system.pipe_file(inner, data)


def _require_writable(path: str) -> None:
    if not is_writable_scheme(path):
        raise ValueError(f"{path!r}: {scheme_of(path)}:// can only be read")


@_naming_path
def _create(path: str, put: Callable[[Any, str], None]) -> bool:
    """A conditional put on a store, tried again where writers collided without a winner."""
    _require_writable(path)
    file_system, inner, _ = _store(path)
    for attempt in range(1, _CREATE_ATTEMPTS + 1):
        try:
            # fsspec's memory store looks first and writes then.
            with _memory_lock if scheme_of(path) == "memory" else nullcontext():
                put(file_system, inner)
            return True
        except FileExistsError:
            return False
        except (PermissionError, FileNotFoundError):
            raise
        except OSError:
            # s3fs reports a lost race as EINVAL, and a collision in various ways.
            if file_system.exists(inner):
                return False
            if attempt == _CREATE_ATTEMPTS:
                raise
            time.sleep(0.1 * 2**attempt)
    raise AssertionError("not reached")
