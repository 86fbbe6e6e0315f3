"""Leases on a store: one holder, a dead one's lease is free, a slow one hears that it lost it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from lexbeam.transforms import storage
from lexbeam.transforms.leases import HOLDER, Lease, LeaseHeldError, taking_turns
from tests.helpers import race

SHORT = 0.6


@pytest.fixture(params=["memory", "local"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://leases-{uuid.uuid4().hex}/run/.lock"
    return str(tmp_path / ".lock")


def never() -> None:
    raise AssertionError("the lease was lost")


class Crowd:
    """How many are inside at once.

    Attributes:
        most: of all times.
    """

    def __init__(self) -> None:
        self.most = self._inside = 0
        self._lock = threading.Lock()

    def stay(self, seconds: float) -> None:
        """Be inside for a while."""
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        time.sleep(seconds)
        with self._lock:
            self._inside -= 1


def acquire(path: str) -> Callable[[], bool]:
    """Try to hold the lease for a moment; tells whether that went well."""

    def run() -> bool:
        try:
            with Lease(path, SHORT).held(never):
                return True
        except LeaseHeldError:
            return False

    return run


def test_a_living_holder_keeps_it_and_gives_it_back(path):
    with Lease(path, SHORT).held(never):
        time.sleep(2 * SHORT)
        assert not acquire(path)()
    began = time.monotonic()
    assert acquire(path)()
    assert time.monotonic() - began < SHORT, "nothing to wait for: it was given back"
    assert len(storage.list_tree(path)) == 1


def test_a_dead_holder_loses_it(path):
    storage.make_parent(f"{path}/00000001")
    storage.put_if_absent(f"{path}/00000001", b'{"holder": "dead", "beat": 7}')
    began = time.monotonic()
    assert acquire(path)()
    assert time.monotonic() - began > SHORT
    assert [file.path.rsplit("/", 1)[-1] for file in storage.list_tree(path)] == ["00000002"]


def test_of_many_that_want_a_dead_holders_lease_one_gets_it(path):
    storage.make_parent(f"{path}/00000001")
    storage.put_if_absent(f"{path}/00000001", b"dead")
    crowd = Crowd()

    def contend(_: int) -> bool:
        try:
            with Lease(path, SHORT).held(never):
                crowd.stay(SHORT)
        except LeaseHeldError:
            return False
        return True

    won = race(contend)
    assert crowd.most == 1
    assert won.count(True) >= 1
    assert len(won) == 8


def test_a_holder_hears_that_it_was_taken_for_dead(path):
    lost = threading.Event()
    with Lease(path, SHORT).held(lost.set):
        number = 1 + max(int(file.path[-8:]) for file in storage.list_tree(path))
        storage.put_if_absent(f"{path}/{number:08d}", b"another")
        assert lost.wait(5 * SHORT)
    # It does not give back what is another's.
    assert storage.read_bytes(f"{path}/{number:08d}") == b"another"


def test_an_error_inside_gives_it_back(path):
    def fail() -> None:
        with Lease(path, SHORT).held(never):
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert acquire(path)()


def test_a_process_that_is_started_again_holds_what_its_predecessor_held(path, monkeypatch):
    monkeypatch.setenv(HOLDER, "supervisor-7")
    storage.make_parent(f"{path}/00000001")
    # As it stands there when the process was killed.
    storage.put_if_absent(f"{path}/00000001", b'{"holder": "supervisor-7", "beat": 3}')
    began = time.monotonic()
    assert acquire(path)()
    assert time.monotonic() - began < SHORT


def test_turns_on_a_folder_are_taken_one_after_the_other(tmp_path, path):
    folder = path.rpartition("/")[0]
    crowd = Crowd()

    def take_turn(_: int) -> bool:
        with taking_turns(folder):
            crowd.stay(0.05)
        return True

    assert race(take_turn, writers=5) == [True] * 5
    assert crowd.most == 1
