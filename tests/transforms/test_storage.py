"""Storage: local files and fsspec's memory store behave alike; of racing writers one wins."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from lexbeam.transforms import local_files, storage
from tests.helpers import race


@pytest.fixture(params=["local", "file-url", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    names = {
        "local": str(tmp_path),
        "file-url": f"file://{tmp_path}",
        "memory": f"memory://{uuid.uuid4().hex}",
    }
    return names[request.param]


def put(root: str, *names: str) -> None:
    for name in names:
        assert storage.put_if_absent(storage.join(root, name), name.encode())


def relative(root: str, paths: list[str]) -> list[str]:
    return [path[len(storage.local_path(root)) :].lstrip("/") for path in paths]


def test_put_if_absent_keeps_the_first(root: str) -> None:
    path = storage.join(root, "deep/er", "name")
    assert not storage.exists(path)
    assert storage.put_if_absent(path, b"one")
    assert not storage.put_if_absent(path, b"two")
    assert storage.exists(path)
    assert storage.read_bytes(path) == b"one"


def test_one_of_racing_writers_wins(root: str) -> None:
    path = storage.join(root, "lock")
    results = race(lambda index: storage.put_if_absent(path, b"%d" % index))
    assert results.count(True) == 1
    assert storage.read_bytes(path) == b"%d" % results.index(True)


def test_commit_file_publishes_once_and_takes_the_local_file(root: str, tmp_path: Path) -> None:
    path = storage.join(root, "part-0")
    files = [tmp_path / f"worker-{index}" for index in range(8)]
    for index, file in enumerate(files):
        file.write_bytes(b"%d" % index)
    results = race(lambda index: storage.commit_file(str(files[index]), path))
    assert results.count(True) == 1
    assert storage.read_bytes(path) == b"%d" % results.index(True)
    assert not any(file.exists() for file in files)


def test_nothing_temporary_stays_and_files_are_readable_by_others(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.touch(mode=0o600)
    storage.commit_file(str(private), str(tmp_path / "a"))
    storage.put_if_absent(str(tmp_path / "b"), b"1")
    storage.put_if_absent(str(tmp_path / "b"), b"2")
    storage.put_overwrite(str(tmp_path / "c"), b"3")
    (tmp_path / "plain").touch()
    expected = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c", "plain"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {expected}


def test_the_hidden_file_is_gone_before_the_folder_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(local_files, "_sync_folder", lambda folder: seen.append(os.listdir(folder)))
    storage.put_if_absent(str(tmp_path / "a"), b"1")
    assert seen == [["a"]]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_still_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_link(source: str, target: str) -> None:
        raise OSError(number, os.strerror(number), target)

    monkeypatch.setattr(os, "link", no_link)
    path = str(tmp_path / "lock")
    results = race(lambda index: storage.put_if_absent(path, b"%d" % index))
    assert results.count(True) == 1
    assert storage.read_bytes(path) == b"%d" % results.index(True)
    assert os.listdir(tmp_path) == ["lock"]


def test_other_link_errors_pass_through_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left"):
        storage.put_if_absent(str(tmp_path / "x"), b"data")
    assert os.listdir(tmp_path) == []


def test_a_file_of_another_file_system_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across(source: str, target: str) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source)

    file = tmp_path / "elsewhere"
    file.write_bytes(b"data")
    monkeypatch.setattr(os, "rename", across)
    assert storage.commit_file(str(file), str(tmp_path / "out" / "part"))
    assert (tmp_path / "out" / "part").read_bytes() == b"data"
    assert os.listdir(tmp_path / "out") == ["part"]


def test_an_error_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="file"):
        storage.put_if_absent(str(tmp_path / "file" / "below"), b"")
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        storage.read_bytes(str(tmp_path / "nothing-here"))


def test_put_overwrite_replaces(root: str) -> None:
    path = storage.join(root, "latest.json")
    storage.put_overwrite(path, b"old")
    storage.put_overwrite(path, b"new")
    assert storage.read_bytes(path) == b"new"


def test_open_read_gives_independent_seekable_files(root: str) -> None:
    put(root, "name")
    path = storage.join(root, "name")
    with storage.open_read(path) as one, storage.open_read(path) as two:
        one.seek(2)
        assert (two.read(2), one.read(), two.read()) == (b"na", b"me", b"me")
    assert storage.sha256_file(path) == hashlib.sha256(b"name").hexdigest()


def test_list_glob_is_sorted_and_leaves_hidden_files_out(root: str) -> None:
    put(root, "b.x", "a.x", "a.y", ".hidden.x", "sub/c.x", "sub/deep/d.x", ".git/e.x", "Z.x")
    listed = {
        pattern: relative(root, storage.list_glob(storage.join(root, pattern)))
        for pattern in ("*.x", "**/*.x", "sub/*", "none*", "a.x", "[ab].x", "missing/*.x")
    }
    assert listed == {
        "*.x": ["Z.x", "a.x", "b.x"],
        "**/*.x": ["Z.x", "a.x", "b.x", "sub/c.x", "sub/deep/d.x"],
        "sub/*": ["sub/c.x"],
        "none*": [],
        "a.x": ["a.x"],
        "[ab].x": ["a.x", "b.x"],
        "missing/*.x": [],
    }


def test_what_is_listed_can_be_read(root: str) -> None:
    put(root, "sub/a.x")
    (path,) = storage.list_glob(storage.join(root, "**", "*.x"))
    assert storage.read_bytes(path) == b"sub/a.x"


def test_list_tree_and_stat_agree(root: str) -> None:
    put(root, "b", "sub/a", ".hidden", "sub/.git/c")
    infos = storage.list_tree(root)
    assert relative(root, [info.path for info in infos]) == ["b", "sub/a"]
    assert [info.size for info in infos] == [1, 5]
    assert [storage.stat(info.path) for info in infos] == infos


def test_version_changes_when_the_file_does(root: str) -> None:
    path = storage.join(root, "a")
    storage.put_overwrite(path, b"1")
    before = storage.stat(path)
    assert storage.stat(path) == before
    time.sleep(0.02)  # a file system's clock ticks
    storage.put_overwrite(path, b"2")
    assert storage.stat(path) != before


def test_stat_of_nothing(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.stat(storage.join(root, "nothing"))


def test_delete(root: str) -> None:
    put(root, "a")
    storage.delete(storage.join(root, "a"))
    storage.delete(storage.join(root, "a"))
    assert not storage.exists(storage.join(root, "a"))


def test_delete_tree_removes_what_lies_below_and_nothing_else(root: str) -> None:
    put(root, "runs/one/a", "runs/one/deep/b", "runs/one-more/c", "top")
    storage.delete_tree(storage.join(root, "runs/one"), root)
    storage.delete_tree(storage.join(root, "runs/none"), root)
    assert relative(root, [info.path for info in storage.list_tree(root)]) == [
        "runs/one-more/c",
        "top",
    ]


@pytest.mark.parametrize("name", ["", "..", "../other", "runs/../..", "."])
def test_delete_tree_stays_below_its_root(root: str, name: str) -> None:
    put(root, "inside/runs/a", "other/b")
    with pytest.raises(ValueError, match="does not lie below"):
        storage.delete_tree(root + "/inside/" + name, storage.join(root, "inside"))
    assert len(storage.list_tree(root)) == 2


def test_delete_tree_follows_no_links(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "precious")
    storage.delete_tree(str(tmp_path / "root" / "link"), str(tmp_path / "root"))
    assert not (tmp_path / "root" / "link").is_symlink()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="does not lie below"):
        storage.delete_tree(str(tmp_path / "root/link/precious"), str(tmp_path / "root"))
    assert (tmp_path / "precious" / "file").exists()


def test_delete_tree_below_a_root_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "run").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    storage.delete_tree(str(tmp_path / "out" / "run"), str(tmp_path / "out"))
    assert os.listdir(tmp_path / "disk") == []


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("a", "b"), "a/b"),
        (("a/", "/b/", "c"), "a/b/c"),
        (("/", "a"), "/a"),
        (("s3://bucket", "a"), "s3://bucket/a"),
        (("memory://", "a"), "memory://a"),
        (("a/",), "a"),
        (("a", "", "b"), "a/b"),
    ],
)
def test_join(parts: tuple[str, ...], joined: str) -> None:
    assert storage.join(*parts) == joined


def test_unknown_schemes_and_read_only_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ftp:// is not supported"):
        storage.read_bytes("ftp://host/a")
    with pytest.raises(ValueError, match="hdfs:// can only be read"):
        storage.put_if_absent("hdfs://host/a", b"")
    with pytest.raises(ValueError, match="hdfs:// can only be read"):
        storage.put_overwrite("hdfs://host/a", b"")
    assert not storage.is_writable_scheme("hdfs://host/a")
    assert storage.is_writable_scheme("s3://bucket/a")


class FakeStore:
    """A store whose conditional put fails as s3fs's does."""

    def __init__(self, errors: list[OSError], present: bool) -> None:
        self.errors, self.present, self.puts = errors, present, 0

    def exists(self, path: str) -> bool:
        return self.present

    def pipe_file(self, path: str, data: bytes, mode: str) -> None:
        assert mode == "create"
        self.puts += 1
        if self.errors:
            raise self.errors.pop(0)


@pytest.mark.parametrize(
    ("error", "present", "result", "puts"),
    [
        (OSError(errno.EINVAL, "PreconditionFailed"), True, False, 1),
        (FileExistsError("taken"), True, False, 1),
        (OSError(errno.EBUSY, "ConditionalRequestConflict"), False, True, 2),
    ],
)
def test_how_a_store_reports_a_lost_race(
    monkeypatch: pytest.MonkeyPatch, error: OSError, present: bool, result: bool, puts: int
) -> None:
    store = FakeStore([error], present)
    monkeypatch.setattr(storage, "_store", lambda path: (store, "bucket/a", "s3://"))
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    assert storage.put_if_absent("s3://bucket/a", b"") is result
    assert store.puts == puts


def test_a_store_that_always_fails_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (PermissionError("denied"), OSError(errno.EIO, "no answer")):
        store = FakeStore([error] * 9, present=False)
        monkeypatch.setattr(storage, "_store", lambda path, store=store: (store, "a", "s3://"))
        monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
        with pytest.raises(type(error)):
            storage.put_if_absent("s3://bucket/a", b"")


def test_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys; from lexbeam.transforms import splits, storage; storage.exists('/');"
        "print([name for name in ('pyarrow', 'fsspec', 'numpy', 'apache_beam')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
