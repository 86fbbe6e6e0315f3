"""The source distribution installs in a clean environment and runs there."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    code = (
        "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    (archive,) = folder.glob("*.tar.gz")
    return archive


def test_the_sdist_holds_the_three_folders_and_the_licence(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for wanted in ("setup.py", "LICENSE", "README.md", "models/tfidf.py", "pipeline/cli.py"):
        assert wanted in names
    assert not {name for name in names if name.startswith((".venv", "out/", "build/"))}


def test_it_runs_from_a_clean_environment(sdist, tmp_path):
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    # The locked dependencies of the environment that runs this test are lent, so that several
    # gigabytes are not installed again; lexbeam itself comes from the sdist alone.
    lent = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    site = next((home / "lib").glob("python*/site-packages"))
    (site / "lent.pth").write_text(f"{lent}\n")
    # Python's bundled setuptools would hide the locked one, which the build needs.
    uninstall = [python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"]
    subprocess.run(uninstall, check=True, cwd=tmp_path)
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", sdist],
        check=True,
        cwd=tmp_path,
    )
    where = subprocess.run(
        [python, "-c", "import lexbeam.models as m; print(m.__file__)"],
        check=True, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(home)
    job = [home / "bin" / "lexbeam", "run", "--input", ROOT / "examples" / "corpus"]
    job += ["--output", tmp_path / "out", "--features", "tfidf", "--num_topics", "4"]
    done = subprocess.run(job, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    latest = json.loads((tmp_path / "out" / "latest.json").read_text())
    assert (tmp_path / "out" / "runs" / latest["run_id"] / "_SUCCESS").exists()
