"""The encoder's forward pass in torch, and the module that other backends convert.

The received attention of token j is the sum over heads and query tokens i of
softmax(Q K^T / sqrt(d))[i, j] in the last layer. Q and K are taken from the two projections
of that layer as it runs, so that attention itself stays on its fast path everywhere.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lexbeam.models import encoder_packed
from lexbeam.models.classifier import MEAN_AND_FIRST, graph_pooling
from lexbeam.models.encoder_packed import Packing
from lexbeam.models.encoder_spec import ROBERTA_FAMILIES, ModelError, ModelSpec, damaged
from lexbeam.models.varlen import has_varlen_kernel

if TYPE_CHECKING:
    from lexbeam.models.config import EncoderConfig

Array = npt.NDArray[np.float32]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class PooledEncoder(nn.Module):
    """A transformer whose outputs are a vector a window and the attention its tokens receive.

    Args:
        model: a transformers encoder of one of the known families.
        model_type: the family.
        pooling: `mean` over real tokens, or `cls`, the first token.
    """

    def __init__(self, model: nn.Module, model_type: str, pooling: str) -> None:
        super().__init__()
        self.model = model
        self.model_type = model_type
        self.pooling = pooling
        # Of this thread: batches may go through the module side by side.
        self.projected = threading.local()
        query, key, self.num_heads = _last_projections(model, model_type)
        query.register_forward_hook(self._keep("query"))
        key.register_forward_hook(self._keep("key"))

    def _keep(self, name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            setattr(self.projected, name, output)

        return hook

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One batch; (n, length) int64 ids and mask to (n, d) and (n, length) float32."""
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return self._outputs(
            outputs.last_hidden_state, *self._take_projected(), attention_mask.to(torch.float32)
        )

    def forward_packed(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, packing: Packing
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `forward`, without a forward pass over padding; see `encoder_packed`.

        The model must have been loaded with packed attention.
        """
        ids = input_ids.reshape(-1)[packing.rows][None]
        positions = packing.positions + _first_position(self.model, self.model_type)
        outputs = self.model(input_ids=ids, position_ids=positions, packing=packing)
        rows = (outputs.last_hidden_state, *self._take_projected())
        hidden, query, key = (packing.unpack(row[0]) for row in rows)
        return self._outputs(hidden, query, key, attention_mask.to(torch.float32))

    def _take_projected(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Query and key of the last layer, as this thread's pass has left them."""
        kept = vars(self.projected)
        return kept.pop("query"), kept.pop("key")

    def _outputs(
        self, hidden: torch.Tensor, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, length, heads x d) hidden, query and key to the vectors and received attention."""
        received = self._received(self._heads(query), self._heads(key), hidden, mask)
        return self._pool(hidden, mask), received

    def _pool(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.pooling == "cls":
            return hidden[:, 0].to(torch.float32)
        weights = mask / mask.sum(dim=1, keepdim=True)
        mean = torch.matmul(weights.unsqueeze(1), hidden.to(torch.float32)).squeeze(1)
        if self.pooling == MEAN_AND_FIRST:
            return torch.cat([mean, hidden[:, 0].to(torch.float32)], dim=1)
        return mean

    def _received(
        self, query: torch.Tensor, key: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Column sums of the last layer's attention over heads and real query tokens.

        query, key: (n, heads, length, d).
        """
        scores = torch.matmul(query, key.transpose(-1, -2)).to(torch.float32)
        scores = scores * (query.shape[-1] ** -0.5)
        if self.model_type == "mpnet":
            encoder: Any = self.model.encoder
            scores = scores + encoder.compute_position_bias(hidden).to(torch.float32)
        # Padding as a key gets no share, and as a query gives none.
        scores = scores + (1.0 - mask[:, None, None, :]) * -1e9
        shares = torch.softmax(scores, dim=-1)
        return torch.matmul(mask[:, None, None, :], shares).sum(dim=1).squeeze(1) * mask

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        """(n, length, heads x d) to (n, heads, length, d)."""
        size, length, _ = projected.shape
        return projected.reshape(size, length, self.num_heads, -1).transpose(1, 2)


def _first_position(model: Any, model_type: str) -> int:
    """Row of the position table that belongs to the first token of a text."""
    return int(model.config.pad_token_id) + 1 if model_type in ROBERTA_FAMILIES else 0


def _last_projections(model: Any, model_type: str) -> tuple[nn.Module, nn.Module, int]:
    """Query and key projection of the last layer, and its number of heads."""
    if model_type == "distilbert":
        attention = model.transformer.layer[-1].attention
        return attention.q_lin, attention.k_lin, int(model.config.n_heads)
    heads = int(model.config.num_attention_heads)
    layer = model.encoder.layer[-1].attention
    if model_type == "mpnet":
        return layer.attn.q, layer.attn.k, heads
    return layer.self.query, layer.self.key, heads


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence loading reports and progress bars; what matters of them is checked and raised."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def load_module(
    spec: ModelSpec, dtype: str = "float32", pooling: str = "mean", *, packed: bool = False
) -> PooledEncoder:
    """Load a model's weights; nothing of its directory is executed.

    packed: for `forward_packed`, and for nothing else. In float32 the weights are the pages of
    their file, which the processes of a host share.
    Raises ModelError naming the directory if weights are damaged or missing.
    """
    from transformers import AutoModel

    options: dict[str, Any] = (
        {} if spec.model_type == "distilbert" else {"add_pooling_layer": False}
    )
    if packed:
        encoder_packed.register()
        options["attn_implementation"] = encoder_packed.ATTENTION
    with quiet_transformers():
        try:
            model, report = AutoModel.from_pretrained(
                spec.directory,
                dtype=_DTYPES[dtype],
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise damaged(spec.directory, "model.safetensors", str(error)) from error
    missing = sorted(name for name in report["missing_keys"] if "position_ids" not in name)
    if missing:
        reason = f"{len(missing)} tensors are missing, such as {missing[0]}"
        raise damaged(spec.directory, "model.safetensors", reason)
    return PooledEncoder(model.eval(), spec.model_type, pooling).eval()


class TorchForward:
    """Runs batches through torch on the CPU or a CUDA device, packed where the family allows.

    On the CPU each thread works on a batch of its own; a CUDA device on one at a time.

    Raises ModelError if the weights cannot be loaded, and where the configuration asks for a
    device that this machine lacks.

    Attributes:
        num_slots: batches that may be in the model at the same time.
        pads: whether it works on padding, too.
    """

    def __init__(self, spec: ModelSpec, config: EncoderConfig, num_threads: int) -> None:
        if config.device == "cuda" and not torch.cuda.is_available():
            raise ModelError(f"model {spec.name}: the run is set to cuda; this machine has none")
        self.device = torch.device(config.device)
        on_cpu = config.device == "cpu"
        torch.set_num_threads(1 if on_cpu else num_threads)
        self.num_slots = num_threads if on_cpu else 1
        self._has_kernel = has_varlen_kernel(self.device, _DTYPES[config.dtype])
        # Without the kernel, one call for each text would keep a GPU waiting.
        packs = spec.model_type in encoder_packed.PACKED_FAMILIES
        self.pads = not (packs and (on_cpu or self._has_kernel))
        pooling = graph_pooling(spec, config.pooling)
        module = load_module(spec, config.dtype, pooling, packed=not self.pads)
        self.module = module.to(self.device)

    def __call__(
        self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]
    ) -> tuple[Array, Array]:
        """(n, length) ids and mask to pooled (n, d) and received attention (n, length)."""
        with torch.inference_mode():
            input_ids, attention_mask = (
                torch.from_numpy(array).to(self.device) for array in (ids, mask)
            )
            if self.pads:
                pooled, received = self.module(input_ids, attention_mask)
            else:
                packing = encoder_packed.pack(mask, self.device, has_kernel=self._has_kernel)
                pooled, received = self.module.forward_packed(input_ids, attention_mask, packing)
            return pooled.cpu().numpy(), received.cpu().numpy()

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether `error` says that the batch did not fit; frees what the device caches."""
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            return True
        return isinstance(error, MemoryError) or "can't allocate memory" in str(error)
