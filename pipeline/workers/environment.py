"""The interpreter that a job's workers run in: the host's own, with the job's packages on top.

A job may stage packages (`--extra_package`, `--requirements_file`, `--setup_file`). For each set of
them a virtual environment is made once, which sees everything that the host's interpreter sees, and
its own packages first: heavy ones are installed beforehand, the job's code comes with the job, and
two jobs with two versions of it are in nobody's way.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

# The names that Beam stages things under.
_EXTRA_PACKAGES, _REQUIREMENTS, _SETUP = (
    "extra_packages.txt",
    "requirements*.txt",
    "workflow.tar.gz",
)
_PIP = ("-m", "pip", "--no-input", "--disable-pip-version-check", "install", "--no-build-isolation")
_LINES_OF_ERROR = 12


class StagedPackagesError(RuntimeError):
    """A job's packages cannot be installed; the message says what pip said."""


class Environments:
    """The environments of one host, below a folder.

    Args:
        folder: where they are made.
        python: the host's interpreter.
    """

    def __init__(self, folder: Path, python: str) -> None:
        self._folder = folder
        self._python = python
        self._lock = threading.Lock()

    def interpreter(self, staged: Path) -> str:
        """The interpreter for a job.

        Args:
            staged: folder of what the job has staged.

        Raises:
            StagedPackagesError: its packages cannot be installed.
        """
        requirements, packages = _installable(staged)
        if not requirements and not packages:
            return self._python
        environment = self._folder / f"environment-{_digest([*requirements, *packages])}"
        python = environment / "bin" / "python"
        with self._lock:
            done = environment / "installed"
            if not done.exists():
                self._make(environment)
                _install(python, requirements, packages)
                done.touch()
        return str(python)

    def _make(self, environment: Path) -> None:
        _run(self._python, "-m", "venv", "--clear", "--without-pip", str(environment))
        paths = json.loads(_run(self._python, "-c", _SITE_FOLDERS))
        (site,) = environment.glob("lib/python*/site-packages")
        lines = [f"import site; site.addsitedir({path!r})\n" for path in paths]
        (site / "of_the_host.pth").write_text("".join(lines), encoding="utf-8")


_SITE_FOLDERS = """
import json, os, site
users = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
print(json.dumps([path for path in site.getsitepackages() + users if os.path.isdir(path)]))
"""


def _installable(staged: Path) -> tuple[list[Path], list[Path]]:
    """The requirement files, and the packages."""
    requirements = sorted(staged.glob(_REQUIREMENTS))
    names: list[str] = []
    if (staged / _EXTRA_PACKAGES).exists():
        names = (staged / _EXTRA_PACKAGES).read_text(encoding="utf-8").split()
    packages = [staged / Path(name).name for name in names]
    return requirements, packages + [path for path in [staged / _SETUP] if path.exists()]


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _install(python: Path, requirements: Sequence[Path], packages: Sequence[Path]) -> None:
    for path in requirements:
        _run(python, *_PIP, "--find-links", str(path.parent), "-r", str(path))
    if packages:
        paths = [str(path) for path in packages]
        # These very files, whatever the host has of that name; then only what they lack.
        _run(python, *_PIP, "--no-deps", "--force-reinstall", *paths)
        _run(python, *_PIP, *paths)


def _run(*command: str | Path) -> str:
    """Standard output; raises StagedPackagesError with the end of what was said."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        said = (result.stderr.strip() or result.stdout.strip()).splitlines()[-_LINES_OF_ERROR:]
        raise StagedPackagesError(f"{' '.join(map(str, command))}: " + "\n".join(said))
    return result.stdout
