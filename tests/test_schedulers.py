"""The examples of scheduled jobs, run as their files and READMEs say."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, skip_or_fail

pytestmark = pytest.mark.schedulers

NIGHTLY = ROOT / "examples" / "nightly"
AIRFLOW = ROOT / "examples" / "airflow"
# What cron and systemd give a job, and no more.
BARE = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
FAST = "--features tfidf,textrank,lda --num_topics 6"


@pytest.fixture
def installed(tmp_path) -> Path:
    """The folder that the examples call /opt/lexbeam."""
    folder = tmp_path / "opt" / "lexbeam"
    folder.mkdir(parents=True)
    for name in (".venv", "examples"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def placed(text: str, installed: Path, tmp_path: Path) -> str:
    """The text with its paths below the test's folder."""
    text = text.replace("/opt/lexbeam", str(installed))
    text = text.replace("/srv/corpus", str(ROOT / "examples" / "corpus"))
    return text.replace("/srv/lexbeam", str(tmp_path / "out")).replace("/var/log", str(tmp_path))


def bash_block(readme: Path) -> str:
    (block,) = re.findall(r"```sh\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    return str(block)


def assert_tonights_run(output: Path) -> None:
    (run,) = (output / "runs").iterdir()
    assert run.name == datetime.date.today().isoformat()
    assert json.loads((run / "summary.json").read_text())["documents"]["out"] == 48


class TestNightly:
    def test_the_cron_line(self, installed, tmp_path):
        lines = placed((NIGHTLY / "crontab").read_text(), installed, tmp_path).splitlines()
        settings = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))
        (job,) = [line for line in lines if line and line[0] not in "#" and line[0].isdigit()]
        *schedule, command = job.split(None, 5)
        assert schedule == ["15", "2", "*", "*", "*"]
        # cron takes a bare % for the end of the line.
        assert "%" not in command
        command = command.replace(" >>", f" {FAST} >>")
        for _ in range(2):
            done = subprocess.run(["/bin/sh", "-c", command], env=BARE | settings, timeout=100)
            assert done.returncode == 0, (tmp_path / "lexbeam.log").read_text()
        assert_tonights_run(tmp_path / "out")
        said = (tmp_path / "lexbeam.log").read_text()
        assert "complete already" in said
        assert "remove 0 runs" in said

    def test_the_systemd_units(self, installed, tmp_path):
        units = tmp_path / "units"
        units.mkdir()
        for name in ("lexbeam.service", "lexbeam.timer"):
            text = placed((NIGHTLY / name).read_text(), installed, tmp_path)
            (units / name).write_text(text)
        if shutil.which("systemd-analyze") is None:
            skip_or_fail("systemd-analyze is not installed")
        command = ["systemd-analyze", "verify", "--man=no", *map(str, units.iterdir())]
        checked = subprocess.run(command, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        assert "lexbeam" not in checked.stderr
        service = (units / "lexbeam.service").read_text()
        (start,) = re.findall(r"^ExecStart=(.*)$", service, re.MULTILINE)
        (name, value) = re.findall(r"^Environment=(\w+)=(.*)$", service, re.MULTILINE)[0]
        environment = BARE | {name: value, "METRICS": str(tmp_path / "lexbeam.prom")}
        done = subprocess.run(
            [*start.split(), *FAST.split()], env=environment, capture_output=True, text=True,
            timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert_tonights_run(tmp_path / "out")
        assert 'lexbeam_documents{state="out"} 48' in (tmp_path / "lexbeam.prom").read_text()

    def test_a_timer_that_says_when(self):
        if shutil.which("systemd-analyze") is None:
            skip_or_fail("systemd-analyze is not installed")
        timer = (NIGHTLY / "lexbeam.timer").read_text()
        (when,) = re.findall(r"^OnCalendar=(.*)$", timer, re.MULTILINE)
        command = ["systemd-analyze", "calendar", when]
        assert subprocess.run(command, capture_output=True).returncode == 0

    def test_the_readme(self, installed):
        done = subprocess.run(
            ["sh", "-e", "-c", bash_block(NIGHTLY / "README.md")], cwd=installed, env=BARE,
            capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert_tonights_run(installed / "out" / "nightly")


def test_airflow_as_its_readme_says(installed):
    """A real Airflow, in an environment of its own."""
    done = subprocess.run(
        ["sh", "-e", "-c", bash_block(AIRFLOW / "README.md")], cwd=installed,
        env=BARE | {"PATH": f"{ROOT / '.venv' / 'bin'}:/usr/bin:/bin", "HOME": str(installed)},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (run,) = (installed / "out" / "airflow" / "runs").iterdir()
    assert run.name == "2026-11-23"
    assert json.loads((run / "summary.json").read_text())["documents"]["out"] == 48
    # What the day's last command prints.
    assert "2026-11-23 *" in done.stdout
    # Airflow's own word for it, and each command's in its task's log.
    said = done.stdout + done.stderr
    assert re.search(r"Marking run <DagRun lexbeam_daily @ 2026-11-23.*> successful", said)
    for text in ("documents in = ", "remove 0 runs"):
        assert text in said
