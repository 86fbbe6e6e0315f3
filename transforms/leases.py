"""Mutual exclusion on a store that knows nothing but conditional creates.

A lease is a hidden folder of numbered files, of which the highest counts. Who holds it rewrites its
file again and again; who wants it watches that file, and takes the next number once it has stood
still for longer than a living holder would leave it. No clock is compared with another: what counts
is how long the watcher itself has waited. Of several that take a number one wins.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from lexbeam.transforms import local_files, storage

LEASE_SECONDS = 60.0
# Set by whoever starts a process again when it has died: the new one holds what the old one held.
HOLDER = "LEXBEAM_LEASE_HOLDER"
SECONDS_OF_A_TURN = 10.0
_SECONDS_BETWEEN_TURNS = 0.2


class LeaseHeldError(RuntimeError):
    """Somebody else holds the lease, and lives."""


@dataclass(frozen=True)
class Lease:
    """A lease.

    Attributes:
        path: its folder, local or a URL.
        seconds: after which a holder that shows no life is taken for dead.
    """

    path: str
    seconds: float = LEASE_SECONDS
    _name: str = field(default_factory=lambda: os.environ.get(HOLDER) or uuid.uuid4().hex)

    @contextmanager
    def held(self, on_lost: Callable[[], None]) -> Iterator[None]:
        """Hold the lease while the body runs.

        Args:
            on_lost: called, in a thread, where another process has taken the lease over since this
                one showed no life for too long: it must stop.

        Raises:
            LeaseHeldError: a living process holds it.
        """
        number = self._take()
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(number, stop, on_lost), daemon=True)
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
            if self._highest() == number:
                storage.put_overwrite(self._file(number), b"")

    def _take(self) -> int:
        """The number under which the lease is ours."""
        while True:
            number = self._highest()
            if number and not self._is_free(number):
                raise LeaseHeldError(self.path)
            wanted = number + 1
            storage.make_parent(self._file(wanted))
            mine = self._content(0)
            # A store may answer False to the winner: what is there decides.
            storage.put_if_absent(self._file(wanted), mine)
            if storage.read_bytes(self._file(wanted)) == mine:
                self._remove_before(wanted)
                return wanted

    def _is_free(self, number: int) -> bool:
        """Whether the holder has given the lease back, or shows no life while it is watched."""
        began, seen = time.monotonic(), self._read(number)
        if self._is_own(seen):
            return True
        while seen and time.monotonic() - began <= self.seconds:
            time.sleep(self.seconds / 20)
            now = self._read(number)
            if now != seen:
                return not now
        return True

    def _beat(self, number: int, stop: threading.Event, on_lost: Callable[[], None]) -> None:
        count = 0
        while not stop.wait(self.seconds / 6):
            count += 1
            try:
                if self._highest() != number:
                    on_lost()
                    return
                storage.put_overwrite(self._file(number), self._content(count))
            except OSError:
                # A store that does not answer now may answer the next time.
                continue

    def _content(self, count: int) -> bytes:
        return json.dumps({"holder": self._name, "beat": count}).encode()

    def _read(self, number: int) -> bytes:
        """What stands in a file; empty where the lease was given back or is gone."""
        try:
            return storage.read_bytes(self._file(number))
        except FileNotFoundError:
            return b""

    def _is_own(self, content: bytes) -> bool:
        """Whether this holder wrote it: then in a process that has died since."""
        return json.dumps(self._name).encode() in content

    def _file(self, number: int) -> str:
        return storage.join(self.path, f"{number:08d}")

    def _numbers(self) -> list[int]:
        names = [file.path.rsplit("/", 1)[-1] for file in storage.list_tree(self.path)]
        return sorted(int(name) for name in names if name.isdigit())

    def _highest(self) -> int:
        return max(self._numbers(), default=0)

    def _remove_before(self, number: int) -> None:
        for earlier in self._numbers():
            if earlier < number:
                storage.delete(self._file(earlier))


@contextmanager
def taking_turns(folder: str) -> Iterator[None]:
    """Hold a folder while the body runs, against others that do so: for moments, not for a job."""
    if storage.is_local(folder):
        with local_files.locked_folder(storage.local_path(folder)):
            yield
        return
    # No one holds it twice at a time: the name is of this turn, and not of the process.
    lease = Lease(storage.join(folder, ".turn"), SECONDS_OF_A_TURN, uuid.uuid4().hex)
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(lease.held(lambda: None))
                break
            except LeaseHeldError:
                time.sleep(_SECONDS_BETWEEN_TURNS)
        yield
