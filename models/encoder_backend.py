"""Which backend, number format and device encode on this machine; decided once, by the driver.

Everything here answers without importing torch, unless CUDA is asked for or seems to be there.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from lexbeam.models.config import ConfigError, EncoderConfig, require
from lexbeam.models.encoder_spec import POOLINGS, ModelSpec

CPU_BATCH_TOKENS = 1_024
CUDA_BATCH_TOKENS = 32_768
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_CUDA_LIBRARIES = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}


def check_encoder_config(spec: ModelSpec, config: EncoderConfig) -> None:
    """Raise ConfigError naming the option if `config` does not fit the model."""
    length = config.max_seq_length
    reason = f"the model {spec.name} has {spec.max_positions} positions"
    require(length <= spec.max_positions, "max_seq_length", length, reason)
    if config.pooling == "auto":
        reason = f"the model {spec.name} pools by {spec.pooling!r}; choose mean or cls"
        require(spec.pooling in POOLINGS, "pooling", "auto", reason)
    if length <= 16 + len(spec.document_prefix):  # else the prefix leaves room for sure
        from lexbeam.models.encoder_windows import TextTokenizer

        check_capacity(spec, config, TextTokenizer(spec).capacity(length))


def check_capacity(spec: ModelSpec, config: EncoderConfig, capacity: int) -> None:
    """Raise ConfigError if prefix and special tokens leave less than half a dozen tokens."""
    reason = f"the prefix {spec.document_prefix!r} and special tokens leave no room for text"
    require(capacity >= 6, "max_seq_length", config.max_seq_length, reason)


def resolve_backend(
    spec: ModelSpec,
    config: EncoderConfig,
    report: Callable[[str], None] | None = None,
    *,
    gpu_elsewhere: bool = False,
) -> EncoderConfig:
    """Replace every `auto` and None of `config` by what this machine supports.

    `auto` takes CUDA in float16 where there is a device; else OpenVINO, in bfloat16 only where
    the CPU has instructions for it (elsewhere it is far slower than float32); else torch in
    the same formats. A format of fewer bits is only taken if the model's embeddings keep a
    cosine of .9999 to float32, which is measured once; `report` then gets a line. Raises
    ConfigError naming the option where an explicit choice cannot be met: it is never replaced
    in silence.

    With `gpu_elsewhere` the encoder runs on a CUDA device of another machine: this one is asked
    for none, and what a format moves is measured in the same format on its CPU.
    """
    check_encoder_config(spec, config)
    if gpu_elsewhere:
        reason = "contradicts --gpu_type: leave one of them out"
        require(config.device != "cpu", "device", config.device, reason)
        config = dataclasses.replace(config, device="cuda")
    _check_int8(config)
    device = _device(config, gpu_elsewhere=gpu_elsewhere)
    backend = _backend(config, device)
    tokens = CUDA_BATCH_TOKENS if device == "cuda" else CPU_BATCH_TOKENS
    resolved = dataclasses.replace(
        config,
        model_id=spec.name,
        pooling=spec.pooling if config.pooling == "auto" else config.pooling,
        max_batch_tokens=config.max_batch_tokens or tokens,
        backend=backend,
        device=device,
    )
    if config.dtype == "auto":
        return _with_fastest_dtype(spec, resolved, report)
    _check_dtype(config.dtype, device, backend)
    return resolved


def _check_int8(config: EncoderConfig) -> None:
    if config.dtype != "int8":
        return
    reason = "the torch backend has no 8-bit encoding; choose float32 or bfloat16"
    require(config.backend != "torch", "dtype", "int8", reason)
    reason = "8-bit encoding runs in OpenVINO on the CPU"
    require(config.device != "cuda", "dtype", "int8", reason)
    reason = "8-bit encoding needs openvino and nncf: pip install 'lexbeam[int8]'"
    installed = all(importlib.util.find_spec(name) for name in ("openvino", "nncf"))
    require(installed, "dtype", "int8", reason)


def _device(config: EncoderConfig, *, gpu_elsewhere: bool) -> str:
    if config.device == "cuda":
        reason = "the openvino backend runs on the CPU; choose --backend torch"
        require(config.backend != "openvino", "device", "cuda", reason)
        if gpu_elsewhere:
            return "cuda"
        reason = "torch finds no CUDA device on this machine"
        # Importing torch takes seconds, so the drivers (NVIDIA's, AMD's) are asked first.
        has_driver = _driver_has_cuda() or Path("/dev/kfd").exists()
        require(has_driver and _torch_has_cuda(), "device", "cuda", reason)
        return "cuda"
    if config.device == "cpu" or config.backend == "openvino" or config.dtype == "int8":
        return "cpu"
    # Importing torch takes seconds, so the driver library is asked first.
    return "cuda" if _driver_has_cuda() and _torch_has_cuda() else "cpu"


def _backend(config: EncoderConfig, device: str) -> str:
    has_openvino = importlib.util.find_spec("openvino") is not None
    if config.backend == "openvino":
        reason = "openvino is not installed: pip install openvino"
        require(has_openvino, "backend", "openvino", reason)
    if config.backend != "auto":
        return config.backend
    if device == "cuda":
        return "torch"
    return "openvino" if has_openvino and config.dtype != "float16" else "torch"


def _check_dtype(dtype: str, device: str, backend: str) -> None:
    if device == "cuda":
        return
    if dtype == "float16":
        raise ConfigError("dtype", "float16", "needs --device cuda; choose float32 or bfloat16")
    if dtype == "bfloat16" and backend == "openvino":
        reason = "this CPU has no bfloat16 instructions; choose float32"
        require(cpu_has_bfloat16(), "dtype", "bfloat16", reason)


def _with_fastest_dtype(
    spec: ModelSpec, config: EncoderConfig, report: Callable[[str], None] | None
) -> EncoderConfig:
    fewer_bits = None
    if config.device == "cuda":
        fewer_bits = "float16"
    elif cpu_has_bfloat16():
        fewer_bits = "bfloat16"
    if fewer_bits is not None:
        candidate = dataclasses.replace(config, dtype=fewer_bits)
        if _keeps_cosine(spec, candidate, report):
            return candidate
    return dataclasses.replace(config, dtype="float32")


def _keeps_cosine(
    spec: ModelSpec, config: EncoderConfig, report: Callable[[str], None] | None
) -> bool:
    from lexbeam.models.encoder_precision import keeps_cosine  # loads models, where it must

    if config.device == "cuda" and not _driver_has_cuda():  # a machine elsewhere has it
        config = dataclasses.replace(config, device="cpu", max_batch_tokens=CPU_BATCH_TOKENS)
    return keeps_cosine(spec, config, report)


def cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX).

    OpenVINO's own list of capabilities does not tell hardware from emulation.
    """
    return not _BFLOAT16_FLAGS.isdisjoint(_cpu_flags(cpuinfo))


def cpu_has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU adds products of 8-bit numbers in 32 bits; others do in 16, and overflow."""
    return not _VNNI_FLAGS.isdisjoint(_cpu_flags(cpuinfo))


def _cpu_flags(cpuinfo: Path) -> list[str]:
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            return next((line.split() for line in lines if line.startswith("flags")), [])
    except OSError:
        return []


def _driver_has_cuda() -> bool:
    """Whether NVIDIA's driver is installed and counts a device; takes milliseconds."""
    name = _CUDA_LIBRARIES.get(sys.platform)
    if name is None:
        return False
    try:
        driver = ctypes.CDLL(name)
        count = ctypes.c_int(0)
        ready = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return False
    return ready and count.value > 0


def _torch_has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())
