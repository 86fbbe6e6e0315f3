"""`lexbeam runs list` and `prune`: what stays, what goes, and what is said before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lexbeam.pipeline import stages
from lexbeam.pipeline.run_lock import run_lock
from lexbeam.pipeline.runs import RunDir
from lexbeam.pipeline.runs_command import readable_size
from tests.pipeline.conftest import good_documents, write_jsonl


@pytest.fixture
def source(tmp_path) -> Path:
    return write_jsonl(tmp_path / "in.jsonl", good_documents())


@pytest.fixture
def run_named(lexbeam, source, tmp_path):
    """`run_named(id)`: a finished run; with `stop`, one that was cut off."""

    def run(name: str, *, stop: bool = False, command: str = "run", **options: Path) -> Path:
        arguments = [command, "--input", source, "--output", tmp_path / "out", "--run_id", name]
        for option, value in options.items():
            arguments += [f"--{option}", value]
        if command != "transform":
            arguments += ["--features", "tfidf"]
        with pytest.MonkeyPatch.context() as patch:
            if stop:
                patch.setattr(stages, "bag_of_words", lambda work: 1 / 0)
            assert lexbeam(*arguments).code == (1 if stop else 0)
        return tmp_path / "out" / "runs" / name

    return run


def names(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "runs").iterdir())


def test_the_list_shows_every_run_and_its_state(lexbeam, run_named, tmp_path):
    for name in ("monday", "tuesday"):
        run_named(name)
    run_named("broken", stop=True)
    (tmp_path / "out" / "runs" / "ruin").mkdir()
    busy = run_named("busy", stop=True)
    with run_lock(RunDir(str(tmp_path / "out"), busy.name)):
        shown = lexbeam("runs", "list", tmp_path / "out")
    assert shown.code == 0
    rows = [line.split() for line in shown.out.splitlines()[2:-2]]
    assert [row[0] for row in rows] == ["busy", "broken", "tuesday", "monday", "ruin"]
    assert "in progress" in shown.out.splitlines()[2]
    assert rows[1][1:3] == ["run", "unfinished"]
    assert rows[2][1:4] == ["*", "run", "done"]
    assert rows[2][-4:-2] == ["4", "0"]
    assert rows[4][1] == "remains"


def test_no_runs_is_wrong_usage(lexbeam, tmp_path):
    shown = lexbeam("runs", "list", tmp_path)
    assert shown.code == 2
    assert "holds no runs" in shown.err


def test_prune_keeps_the_newest_and_says_so_before(lexbeam, run_named, tmp_path):
    output = tmp_path / "out"
    run_named("old-broken", stop=True)
    for name in ("d1", "d2", "d3", "d4"):
        run_named(name)
    run_named("new-broken", stop=True)
    (output / "runs" / "ruin").mkdir()
    before = names(output)
    said = lexbeam("runs", "prune", output, "--keep", "2", "--dry-run")
    assert said.code == 0
    assert names(output) == before
    assert "would remove 4 runs" in said.out
    done = lexbeam("runs", "prune", output, "--keep", "2")
    assert done.code == 0
    assert done.out.splitlines()[:-1] == said.out.splitlines()[:-1]
    assert names(output) == ["d3", "d4", "new-broken"]
    assert lexbeam("verify", output).code == 0
    assert "remove 0 runs" in lexbeam("runs", "prune", output, "--keep", "2").out


def test_prune_never_removes_the_latest_nor_one_in_progress(lexbeam, run_named, tmp_path):
    output = tmp_path / "out"
    for name in ("d1", "d2", "d3"):
        run_named(name)
    run_named("busy", stop=True)
    # As where somebody has put the oldest run back into use.
    (output / "latest.json").write_text(json.dumps({"run_id": "d1"}))
    with run_lock(RunDir(str(output), "busy")):
        assert lexbeam("runs", "prune", output, "--keep", "1").code == 0
    assert names(output) == ["busy", "d1", "d3"]


def test_prune_keeps_the_model_that_a_kept_run_used(lexbeam, run_named, tmp_path):
    output = tmp_path / "out"
    fitted = run_named("model", command="fit")
    run_named("between")
    run_named("new", command="transform", model=fitted)
    said = lexbeam("runs", "prune", output, "--keep", "1")
    assert said.code == 0
    assert "model  (its model is used by new)" in said.out
    assert names(output) == ["model", "new"]


def test_prune_keeps_what_an_unfinished_run_reads(lexbeam, run_named, tmp_path):
    output = tmp_path / "out"
    run_named("d1")
    run_named("cut", stop=True)
    for name in ("d2", "d3"):
        run_named(name)
    # As where it was begun last of all.
    plan = output / "runs" / "cut" / "plan.json"
    values = json.loads(plan.read_text()) | {"created": "2999-01-01T00:00:00+00:00"}
    plan.write_text(json.dumps(values))
    said = lexbeam("runs", "prune", output, "--keep", "1")
    assert said.code == 0, said.err
    assert "d1  (it is read by cut)" in said.out
    assert names(output) == ["cut", "d1", "d3"]


def test_a_removal_that_was_cut_off_leaves_no_run(lexbeam, run_named, tmp_path, monkeypatch):
    from lexbeam.pipeline import runs_command

    output = tmp_path / "out"
    for name in ("d1", "d2"):
        run_named(name)

    def stop(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_command.storage, "delete_tree", stop)
        assert lexbeam("runs", "prune", output, "--keep", "1").code == 130
    assert "remains" in lexbeam("runs", "list", output).out
    assert lexbeam("verify", output / "runs" / "d1").code == 2
    assert lexbeam("runs", "prune", output, "--keep", "1").code == 0
    assert names(output) == ["d2"]


def test_nothing_outside_the_runs_is_removed(lexbeam, run_named, tmp_path):
    output = tmp_path / "out"
    for name in ("d1", "d2"):
        run_named(name)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    shutil.rmtree(output / "runs" / "d1" / "model")
    (output / "runs" / "d1" / "model").symlink_to(outside)
    assert lexbeam("runs", "prune", output, "--keep", "1").code == 0
    assert (outside / "precious").exists()


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (3_400_000_000, "3.4 GB")]
)
def test_sizes_can_be_read(size, text):
    assert readable_size(size) == text
