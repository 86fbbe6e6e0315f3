"""The encoder's forward pass in OpenVINO, from a converted model that is cached on disk.

A cached model loads without torch or transformers, which take seconds to import.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import queue
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lexbeam.models.catalogue import cache_dir
from lexbeam.models.classifier import graph_pooling
from lexbeam.models.encoder_backend import cpu_has_bfloat16
from lexbeam.models.encoder_spec import ModelError, ModelSpec, damaged

if TYPE_CHECKING:
    from lexbeam.models.config import EncoderConfig

Array = npt.NDArray[np.float32]

GRAPH_REVISION = 1  # raised when PooledEncoder changes, so that older conversions are not used
GRAPH_FILE = "model.xml"
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Imports of OpenVINO and its tools in this block find no telemetry, which reports to a server.

    They then use a stub of their own.
    """
    known = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["openvino_telemetry"]
        if known is not None:
            sys.modules["openvino_telemetry"] = known


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry."""
    if "openvino" not in sys.modules:
        with without_telemetry():
            import openvino.tools.ovc  # noqa: F401
    import openvino

    return openvino


def graph_path(spec: ModelSpec, config: EncoderConfig) -> Path:
    """Where the graph that `config` wants lies in the cache, or will lie."""
    pooling = graph_pooling(spec, config.pooling)
    if config.dtype != "int8":
        return converted_path(spec, pooling)
    from lexbeam.models.encoder_int8 import quantised_path

    return quantised_path(spec, pooling)


def converted_path(spec: ModelSpec, pooling: str) -> Path:
    """Where the converted model lies in the cache; keyed by weights, pooling and versions."""
    version = importlib.metadata.version("openvino")
    key = f"{spec.fingerprint[:32]}-{pooling}-{version}-r{GRAPH_REVISION}"
    return cache_dir() / "openvino" / key / GRAPH_FILE


def ensure_converted(spec: ModelSpec, pooling: str) -> Path:
    """Convert the model unless it is in the cache; return the converted file's path.

    Raises ModelError if the model cannot be loaded or the cache cannot be written.
    """

    def build(path: Path) -> None:
        _convert(spec, pooling, path)

    return build_once(spec, converted_path(spec, pooling), build)


def build_once(spec: ModelSpec, target: Path, build: Callable[[Path], None]) -> Path:
    """Let `build` write a model's graph unless `target` is there; return `target`.

    The graph's folder is built aside and renamed, so that it is either absent or complete.
    """
    if target.is_file():
        return target
    try:
        target.parent.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent.parent) as folder:
            built = Path(folder) / "model"
            built.mkdir()
            build(built / target.name)
            try:
                os.rename(built, target.parent)
            except OSError:  # another process was first
                if not target.is_file():
                    raise
    except OSError as error:
        raise ModelError(f"model {spec.name}: cannot write {target}: {error}") from error
    return target


def _convert(spec: ModelSpec, pooling: str, path: Path) -> None:
    """Trace the torch module and save it in float32, batch and length left open."""
    import torch

    from lexbeam.models.encoder_torch import load_module, quiet_transformers

    openvino = import_openvino()
    module = load_module(spec, "float32", pooling)
    length = min(12, spec.max_positions)
    ids = torch.full((2, length), 3, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0  # padding, so that the mask is part of the traced graph
    shape = openvino.PartialShape([-1, -1])
    with quiet_transformers(), warnings.catch_warnings():
        # The frontend traces with an interface that torch has announced to retire, and the
        # tracer warns of shape checks whose outcome does not depend on the input here.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        graph = openvino.convert_model(module, example_input=(ids, mask), input=[shape, shape])
    openvino.save_model(graph, path, compress_to_fp16=False)


def ensure_graph(spec: ModelSpec, config: EncoderConfig) -> Path:
    """Convert or quantise the model as `config` wants it, unless the cache has it; its path.

    Raises ModelError as `ensure_converted` and `ensure_quantised` do.
    """
    pooling = graph_pooling(spec, config.pooling)
    if config.dtype != "int8":
        return ensure_converted(spec, pooling)
    from lexbeam.models.encoder_int8 import ensure_quantised

    return ensure_quantised(spec, pooling)


def _precision(dtype: str) -> str:
    """Of what is computed in floating point; in an 8-bit model that is what was left of it."""
    if dtype == "int8":
        dtype = "bfloat16" if cpu_has_bfloat16() else "float32"
    return _PRECISIONS[dtype]


class OpenvinoForward:
    """Runs batches through OpenVINO on the CPU, each on a thread of its own.

    Raises ModelError if the converted model cannot be made or read.

    Attributes:
        num_slots: batches that may be in the model at the same time.
        pads: True; the graph works on padding, too.
    """

    pads = True

    def __init__(self, spec: ModelSpec, config: EncoderConfig, num_threads: int) -> None:
        openvino = import_openvino()
        path = ensure_graph(spec, config)
        self.num_slots = num_threads
        options = {
            # Explicit: the default would be bfloat16 wherever the CPU has it.
            "INFERENCE_PRECISION_HINT": _precision(config.dtype),
            "INFERENCE_NUM_THREADS": num_threads,
            # Small matrices divide badly: a batch a thread is faster than a batch on all.
            "NUM_STREAMS": num_threads,
            # Pinned threads of several processes would all sit on the first cores.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            compiled = openvino.Core().compile_model(path, "CPU", options)
        except RuntimeError as error:
            raise damaged(path.parent, path.name, str(error)) from error
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(num_threads):
            self._requests.put(compiled.create_infer_request())

    def __call__(
        self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]
    ) -> tuple[Array, Array]:
        """(n, length) ids and mask to pooled (n, d) and received attention (n, length)."""
        request = self._requests.get()
        try:
            outputs = request.infer([ids, mask])
            return outputs[0], outputs[1]
        finally:
            self._requests.put(request)

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether `error` says that the batch did not fit into memory."""
        return isinstance(error, MemoryError) or "bad_alloc" in str(error)
