"""`pipeline` imports `transforms` imports `models`, never back; and what must stay light is."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ALLOWED = {
    "models": {"models"},
    "transforms": {"models", "transforms"},
    "pipeline": {"models", "transforms", "pipeline"},
}
HEAVY = (
    "apache_beam",
    "torch",
    "transformers",
    "numba",
    "pyarrow",
    "sklearn",
    "gensim",
    "openvino",
)


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layers_of(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("lexbeam.")}


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_never_go_back(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert len(files) > 3
    for path in files:
        assert layers_of(imported_names(path)) <= ALLOWED[folder], path


def test_models_do_not_know_beam():
    for path in (ROOT / "models").rglob("*.py"):
        assert not {name for name in imported_names(path) if name.startswith("apache_beam")}, path


@pytest.mark.parametrize(
    "module",
    [
        "lexbeam.pipeline.cli",
        "lexbeam.pipeline.options",
        "lexbeam.models.config",
        "lexbeam.transforms.splits",
        "lexbeam.transforms.storage",
    ],
)
def test_what_answers_at_once_imports_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_preparing_a_run_needs_neither_beam_nor_torch():
    code = (
        "import sys, lexbeam.pipeline.prepare; "
        "print([m for m in ('apache_beam', 'torch', 'numba', 'sklearn') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["models", "transforms", "pipeline"])
def test_the_bare_names_are_not_on_the_import_path(name, tmp_path):
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert found.stdout.strip() == "None"
