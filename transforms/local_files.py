"""How a local file gets its name: whole or not at all, once, and to stay after a power cut."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Errors of os.link on file systems that have no hard links.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def make_parent(target: str) -> None:
    """Make the folder that a file will lie in."""
    parent = os.path.dirname(target)
    if not parent:
        return
    try:
        os.makedirs(parent, exist_ok=True)
    except FileExistsError:
        # Nobody shall take this for a lost race.
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", parent) from None


def _temporary_beside(target: str) -> str:
    """A new hidden name in the same folder."""
    return os.path.join(os.path.dirname(target), f".{uuid.uuid4().hex}.tmp")


def write_beside(target: str, data: bytes) -> str:
    """Write a new hidden file in the target's folder, which is made; returns its path."""
    make_parent(target)
    temporary = _temporary_beside(target)
    try:
        # Not tempfile: its files can be read by their owner only.
        with open(temporary, "xb") as file:
            file.write(data)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    return temporary


def bring_beside(local_file: str, target: str) -> str:
    """Move (or copy) a file to a hidden name in the target's folder; returns that path."""
    temporary = write_beside(target, b"")
    # A file made by tempfile is private to its owner: give it a new file's permissions.
    mode = os.stat(temporary).st_mode & 0o777
    try:
        try:
            os.rename(local_file, temporary)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.copyfile(local_file, temporary)
        os.chmod(temporary, mode)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    return temporary


def publish(temporary: str, target: str) -> bool:
    """Give a complete file its final name unless that is taken; the temporary name is gone."""
    try:
        _sync(temporary)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if not _rename_if_absent(temporary, target):
                return False
    finally:
        # Before the folder is synced, which takes long: a writer that is killed leaves no trace.
        Path(temporary).unlink(missing_ok=True)
    _sync_folder(os.path.dirname(target))
    return True


def publish_copy(source: str, target: str) -> bool:
    """Give a finished file another name unless that is taken; a copy where links cannot be."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (*_NO_LINKS, errno.EXDEV):
            raise
        temporary = _temporary_beside(target)
        shutil.copyfile(source, temporary)
        return publish(temporary, target)
    _sync_folder(os.path.dirname(target))
    return True


def replace(data: bytes, target: str) -> None:
    """Write a file in place of an earlier one: readers see the old or the new content."""
    temporary = write_beside(target, data)
    try:
        _sync(temporary)
        os.replace(temporary, target)
    except OSError:
        os.unlink(temporary)
        raise
    _sync_folder(os.path.dirname(target))


def _rename_if_absent(temporary: str, target: str) -> bool:
    """For file systems without hard links: all writers of a folder take turns."""
    with locked_folder(os.path.dirname(target)):
        if os.path.lexists(target):
            return False
        os.rename(temporary, target)
        return True


@contextmanager
def locked_folder(folder: str) -> Iterator[None]:
    """Hold a folder while the body runs: all that do so take turns."""
    descriptor = os.open(folder or ".", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: str) -> None:
    """Make the folder's entries durable, where the file system can."""
    try:
        _sync(folder or ".")
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP):
            raise
