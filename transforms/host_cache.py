"""What lies on a store and is read again and again: copied to this host once, mapped from there.

Corpus models, dictionaries and encoders are small beside the corpus and read by every process of a
host. Copies lie in the user's cache, by name and version of what they are copies of, so that a file
that changes is copied anew; what nobody has read for a week is removed. Local paths are left alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lexbeam.models.catalogue import cache_dir
from lexbeam.models.config import TextConfig
from lexbeam.transforms import local_files, storage

# Folder of what the next fit can add to and take away from; no part of what a transform needs.
STATE = "state"
SECONDS_UNUSED = 7 * 24 * 3600.0


def copy_of_file(path: str) -> str:
    """Local path of a file, or of its copy; raises OSError where it cannot be read."""
    if storage.is_local(path):
        return storage.local_path(path)
    folder, _, name = path.rpartition("/")
    return str(_copy(folder, [storage.stat(path)]) / name)


def copy_of_folder(path: str, wanted: Callable[[str], bool] = lambda name: True) -> str:
    """Local path of a folder, or of its copy.

    Args:
        path: the folder, local or a URL.
        wanted: which files of a URL are copied, by their paths below it.

    Raises:
        OSError: a file cannot be read, or there is none.
    """
    if storage.is_local(path):
        return storage.local_path(path)
    path = path.rstrip("/")
    files = [file for file in storage.list_tree(path) if wanted(_relative(path, file))]
    if not files:
        raise FileNotFoundError(errno.ENOENT, "no such folder, or nothing in it", path)
    return str(_copy(path, files))


def copy_of_corpus_model(model_dir: str) -> str:
    """Local path of a corpus model's folder, or of a copy of what a transform needs of it."""
    return copy_of_folder(model_dir, lambda name: not name.startswith(f"{STATE}/"))


def text_on_host(config: TextConfig) -> TextConfig:
    """The configuration with dictionaries that lie on this host."""
    paths = {option: getattr(config, option) for option in ("user_dict", "stopwords")}
    return replace(
        config, **{option: path and copy_of_file(path) for option, path in paths.items()}
    )


@contextmanager
def taking_turns(what: str) -> Iterator[None]:
    """Hold a name while the body runs, against all threads and processes of this host."""
    # Never removed: who waits for a lock that is removed would hold it beside a new one.
    lock = cache_dir() / "turns" / hashlib.sha256(what.encode()).hexdigest()[:32]
    lock.mkdir(parents=True, exist_ok=True)
    with local_files.locked_folder(str(lock)):
        yield


def _relative(folder: str, file: storage.FileInfo) -> str:
    return file.path[len(folder) :].lstrip("/")


def _copy(folder: str, files: Sequence[storage.FileInfo]) -> Path:
    """Folder of this host with copies of the files, which lie below `folder`."""
    text = "\n".join(f"{file.path}\t{file.size}\t{file.version}" for file in files)
    copies = cache_dir() / "copies"
    target = copies / hashlib.sha256(text.encode()).hexdigest()[:32]
    copies.mkdir(parents=True, exist_ok=True)
    with taking_turns(str(target)):
        if not target.is_dir():
            _fetch(folder, files, target)
        os.utime(target)
    return target


def _fetch(folder: str, files: Sequence[storage.FileInfo], target: Path) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=".copy-", dir=target.parent))
    try:
        for file in files:
            local = temporary / _relative(folder, file)
            local.parent.mkdir(parents=True, exist_ok=True)
            storage.fetch(file.path, str(local))
            if local.stat().st_size != file.size:
                raise OSError(f"{file.path}: {local.stat().st_size} bytes came, not {file.size}")
        # Private to its owner until now.
        temporary.chmod(0o755)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _remove_unused(target.parent)


def _remove_unused(copies: Path) -> None:
    """Remove copies of long ago; whoever has mapped one keeps its pages."""
    oldest = time.time() - SECONDS_UNUSED
    for folder in copies.iterdir():
        try:
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            continue
