"""The one decision on backend, number format and device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lexbeam.models import encoder_backend, encoder_precision
from lexbeam.models.config import ConfigError, EncoderConfig
from lexbeam.models.encoder_backend import (
    check_encoder_config,
    cpu_has_bfloat16,
    cpu_has_vnni,
    resolve_backend,
)
from lexbeam.models.encoder_spec import ModelSpec

SPEC = ModelSpec(
    name="tiny",
    directory=Path("nowhere"),
    fingerprint="0" * 64,
    model_type="bert",
    dimensions=32,
    max_positions=512,
    pooling="mean",
    document_prefix="",
    query_prefix="",
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> object:
    """`machine(cuda=…, …)` pretends that this machine has these, or a model of that kind."""

    def pretend(
        *,
        cuda: bool = False,
        bfloat16: bool = False,
        openvino: bool = True,
        nncf: bool = True,
        sensitive: bool = False,
    ) -> None:
        lacks = {name for name, has in (("openvino", openvino), ("nncf", nncf)) if not has}
        monkeypatch.setattr(encoder_backend, "_driver_has_cuda", lambda: cuda)
        monkeypatch.setattr(encoder_backend, "_torch_has_cuda", lambda: cuda)
        monkeypatch.setattr(encoder_backend, "cpu_has_bfloat16", lambda: bfloat16)
        monkeypatch.setattr(
            encoder_backend.importlib.util,
            "find_spec",
            lambda name: None if name in lacks else object(),
        )
        monkeypatch.setattr(encoder_backend, "_keeps_cosine", lambda *_: not sensitive)

    return pretend


@pytest.mark.parametrize(
    ("has", "asked", "expected"),
    [
        ({"bfloat16": True}, {}, ("openvino", "bfloat16", "cpu", 1024)),
        ({}, {}, ("openvino", "float32", "cpu", 1024)),
        ({"openvino": False}, {}, ("torch", "float32", "cpu", 1024)),
        ({"openvino": False, "bfloat16": True}, {}, ("torch", "bfloat16", "cpu", 1024)),
        ({"bfloat16": True, "sensitive": True}, {}, ("openvino", "float32", "cpu", 1024)),
        ({"cuda": True, "sensitive": True}, {}, ("torch", "float32", "cuda", 32768)),
        (
            {"bfloat16": True, "sensitive": True},
            {"dtype": "bfloat16"},
            ("openvino", "bfloat16", "cpu", 1024),
        ),
        ({}, {"dtype": "int8"}, ("openvino", "int8", "cpu", 1024)),
        ({"cuda": True}, {"dtype": "int8"}, ("openvino", "int8", "cpu", 1024)),
        ({"cuda": True}, {}, ("torch", "float16", "cuda", 32768)),
        ({"cuda": True}, {"device": "cpu"}, ("openvino", "float32", "cpu", 1024)),
        ({"cuda": True}, {"backend": "openvino"}, ("openvino", "float32", "cpu", 1024)),
        ({"cuda": True}, {"dtype": "bfloat16"}, ("torch", "bfloat16", "cuda", 32768)),
        ({"bfloat16": True}, {"backend": "torch"}, ("torch", "bfloat16", "cpu", 1024)),
        ({"bfloat16": True}, {"dtype": "float32"}, ("openvino", "float32", "cpu", 1024)),
        ({}, {"backend": "torch", "dtype": "bfloat16"}, ("torch", "bfloat16", "cpu", 1024)),
        ({}, {"max_batch_tokens": 99}, ("openvino", "float32", "cpu", 99)),
    ],
)
def test_choices(machine, has: dict, asked: dict, expected: tuple) -> None:
    machine(**has)
    got = resolve_backend(SPEC, EncoderConfig(**asked))
    assert (got.backend, got.dtype, got.device, got.max_batch_tokens) == expected
    assert (got.model_id, got.pooling) == ("tiny", "mean")
    assert resolve_backend(SPEC, got) == got


@pytest.mark.parametrize(
    ("has", "asked", "option"),
    [
        ({}, {"device": "cuda"}, "device"),
        ({"cuda": True}, {"device": "cuda", "backend": "openvino"}, "device"),
        ({}, {"dtype": "float16"}, "dtype"),
        ({}, {"dtype": "bfloat16"}, "dtype"),
        ({"nncf": False}, {"dtype": "int8"}, "dtype"),
        ({"openvino": False}, {"dtype": "int8"}, "dtype"),
        ({"cuda": True}, {"dtype": "int8", "device": "cuda"}, "dtype"),
        ({}, {"dtype": "int8", "backend": "torch"}, "dtype"),
        ({"openvino": False}, {"backend": "openvino"}, "backend"),
    ],
)
def test_what_cannot_be_met_is_a_usage_error(machine, has: dict, asked: dict, option: str) -> None:
    machine(**has)
    with pytest.raises(ConfigError) as caught:
        resolve_backend(SPEC, EncoderConfig(**asked))
    assert caught.value.option == option
    assert caught.value.value == asked[option]


def test_window_longer_than_the_model() -> None:
    check_encoder_config(SPEC, EncoderConfig(max_seq_length=512))
    with pytest.raises(ConfigError, match="512 positions") as caught:
        check_encoder_config(SPEC, EncoderConfig(max_seq_length=513))
    assert caught.value.option == "max_seq_length"


def test_unknown_pooling_of_a_model_must_be_overridden() -> None:
    import dataclasses

    spec = dataclasses.replace(SPEC, pooling="max")
    with pytest.raises(ConfigError, match="pools by 'max'"):
        check_encoder_config(spec, EncoderConfig())
    check_encoder_config(spec, EncoderConfig(pooling="mean"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx512f avx512bw\n", False),
        ("model name: avx512_bf16\n", False),
    ],
)
def test_bfloat16_hardware(tmp_path: Path, flags: str, expected: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\n" + flags)
    assert cpu_has_bfloat16(path) is expected
    assert cpu_has_bfloat16(tmp_path / "missing") is False


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512f avx512_vnni", True), ("fpu avx2 avx_vnni", True), ("fpu avx2 avx512f", False)],
)
def test_vnni_hardware(tmp_path: Path, flags: str, expected: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert cpu_has_vnni(path) is expected
    assert cpu_has_vnni(tmp_path / "missing") is False


def test_deciding_for_the_cpu_imports_nothing_heavy(tmp_path: Path) -> None:
    """Not even where `auto` asks what bfloat16 does to the model, once that was measured."""
    code = (
        "import sys; from lexbeam.models import catalogue, encoder_backend, encoder_precision; "
        "from lexbeam.models.config import EncoderConfig; "
        "from tests.models.test_encoder_backend import SPEC; "
        "encoder_backend.cpu_has_bfloat16 = lambda: True; "
        "wanted = EncoderConfig(device='cpu', dtype='bfloat16'); "
        "key = encoder_precision._key(SPEC, encoder_backend.resolve_backend(SPEC, wanted)); "
        "path = catalogue.cache_dir() / 'precision' / f'{key}.json'; "
        "path.parent.mkdir(); path.write_text('{\"min_cosine\": 1.0}'); "
        "found = encoder_backend.resolve_backend(SPEC, EncoderConfig(device='cpu')); "
        "assert found.dtype == 'bfloat16'; "
        "heavy = {'torch', 'transformers', 'openvino', 'tokenizers'} & set(sys.modules); "
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LEXBEAM_CACHE": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr


class TestGpuElsewhere:
    def test_it_is_not_looked_for_here_and_its_format_is_measured_on_the_cpu(
        self, tiny_bert: ModelSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measured = []

        def keeps_cosine(spec: ModelSpec, config: EncoderConfig, report: object) -> bool:
            measured.append((config.device, config.dtype, config.max_batch_tokens))
            return encoder_precision.min_cosine(spec, config) > 0.99

        monkeypatch.setattr(encoder_backend, "_driver_has_cuda", lambda: False)
        monkeypatch.setattr(encoder_precision, "keeps_cosine", keeps_cosine)
        found = resolve_backend(tiny_bert, EncoderConfig(max_seq_length=64), gpu_elsewhere=True)
        assert (found.backend, found.device, found.dtype) == ("torch", "cuda", "float16")
        assert found.max_batch_tokens == 32_768
        assert measured == [("cpu", "float16", 1_024)]

    @pytest.mark.parametrize(
        ("wrong", "option"),
        [
            ({"backend": "openvino"}, "device"),
            ({"dtype": "int8"}, "dtype"),
            ({"device": "cpu"}, "device"),
        ],
    )
    def test_what_contradicts_it_is_named(self, wrong: dict[str, str], option: str) -> None:
        with pytest.raises(ConfigError) as error:
            resolve_backend(SPEC, EncoderConfig(**wrong), gpu_elsewhere=True)
        assert error.value.option == option
