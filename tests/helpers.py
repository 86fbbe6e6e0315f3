"""What tests of several folders do alike."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lexbeam.transforms import storage


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Return when the condition holds; fail where it does not come to that."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def free_port() -> int:
    """A port of this host that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def race(attempt: Callable[[int], bool], writers: int = 8) -> list[bool]:
    """Results of so many calls that start together."""
    barrier = threading.Barrier(writers)
    results = [False] * writers

    def run(index: int) -> None:
        barrier.wait()
        results[index] = attempt(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def upload(local: Path, url: str) -> str:
    """Copy a file, or what lies in a folder; returns the URL."""
    for path in sorted(local.rglob("*")) if local.is_dir() else [local]:
        if path.is_file():
            name = path.relative_to(local).as_posix() if local.is_dir() else ""
            assert storage.put_if_absent(storage.join(url, name), path.read_bytes())
    return url


def download(url: str, folder: Path) -> Path:
    """Copy what lies below a URL, hidden files left out; returns the folder."""
    for file in storage.list_tree(url):
        target = folder / file.path[len(url) :].lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        storage.fetch(file.path, str(target))
    return folder
