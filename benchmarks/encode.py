"""Encoders side by side on the same texts and cores: rates, padding, waiting, memory, cosine.

    python benchmarks/encode.py --input corpus.jsonl [--input more.jsonl] [--limit 160]
        [--model_id multilingual-e5-small-q4] [--max_seq_length 256] [--runs 3] [--seed 0]
        [--encoders sentence-transformers,transformers,torch-float32,openvino-bfloat16,…]
        [--parts rates,received,padding,retrieval,stage]

Documents are JSON lines with `text` and maybe `title`; of each input the first `--limit` are taken,
all of them are mixed by `--seed`, and windows are truncated as the peers truncate.

- rates: every encoder in a process of its own, which loads, warms up and then encodes all texts
  whenever its turn comes. Medians of the runs; the ratio is to the first encoder. `pad` is (real +
  padding) / real tokens, `wait` the share of the time in which the model had nothing to do, `MiB`
  the peak of the process, `GMAC/s` multiply-adds of the linear layers on real tokens. Cosines are
  to torch float32 (mean, least). Before it: how fast this machine multiplies large matrices.
- received: what the received attention costs, beside the same OpenVINO graph without it.
- padding: the padding ratio of each whole input, in the buffers of the encode stage.
- retrieval: whether a title (or first line) finds its own text among all of its input: the first
  hit's share, for each lexbeam encoder.
- stage: `lexbeam run --features bert` on the texts; its encode stage beside the bare encoder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import memory
import numpy as np

PEERS = ("sentence-transformers", "transformers")
OURS = ("torch-float32", "torch-bfloat16", "openvino-float32", "openvino-bfloat16", "openvino-int8")
CUDA = ("cuda-float32", "cuda-bfloat16", "cuda-float16")  # where there is a device
PARTS = ("rates", "received", "padding", "retrieval", "stage")
REFERENCE = "torch-float32"
BATCH_SIZE = 32  # of the peers

Encode = Callable[[Sequence[str]], np.ndarray]


def texts_of(options: argparse.Namespace) -> list[str]:
    """Contents of the first documents of every input, mixed."""
    texts = [text for path in options.input for text in memory.contents_of(path, options.limit)]
    random.Random(options.seed).shuffle(texts)
    return texts


def open_encoder(name: str, options: argparse.Namespace, *, queries: bool = False) -> Any:
    """A lexbeam encoder; `queries` puts the model's query prefix before the texts."""
    from lexbeam.models.catalogue import resolve_model
    from lexbeam.models.config import EncoderConfig
    from lexbeam.models.encoder import cached_encoder
    from lexbeam.models.encoder_backend import resolve_backend
    from lexbeam.transforms.threads import kernel_threads

    spec = resolve_model(options.model_id, fetch=True)
    if queries:
        spec = replace(spec, document_prefix=spec.query_prefix)
    backend, dtype = name.split("-")
    on_cuda = backend == "cuda"
    wanted = EncoderConfig(
        backend="torch" if on_cuda else backend, dtype=dtype,
        device="cuda" if on_cuda else "cpu", long_documents="truncate",
        max_seq_length=min(options.max_seq_length, spec.max_positions),
    )  # fmt: skip
    return cached_encoder(spec, resolve_backend(spec, wanted), kernel_threads())


def lexbeam_encode(encoder: Any) -> Encode:
    """Encodes in the buffers of the encode stage, two at a time, as the stage does."""
    from lexbeam.transforms.encode import BUFFER_ROWS, BUFFERS_AT_A_TIME
    from lexbeam.transforms.threads import map_in_order

    def encode(texts: Sequence[str]) -> np.ndarray:
        buffers = [texts[i : i + BUFFER_ROWS] for i in range(0, len(texts), BUFFER_ROWS)]
        batches = map_in_order(encoder.encode, buffers, BUFFERS_AT_A_TIME)
        columns = [batch["embedding"].flatten().to_numpy() for batch in batches]
        return np.concatenate(columns).reshape(len(texts), -1)

    return encode


def sentence_transformers_encode(directory: Path, prefix: str, length: int) -> Encode:
    """The peer by its documentation: texts sorted by it, batches of 32."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(directory), device="cpu")
    model.max_seq_length = length

    def encode(texts: Sequence[str]) -> np.ndarray:
        prefixed = [prefix + text for text in texts]
        return np.asarray(
            model.encode(
                prefixed, batch_size=BATCH_SIZE, normalize_embeddings=True, show_progress_bar=False
            )
        )

    return encode


def transformers_encode(directory: Path, prefix: str, length: int) -> Encode:
    """The loop of a model's page: batches of 32 in order, mean of the real tokens."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory).eval()

    def encode(texts: Sequence[str]) -> np.ndarray:
        vectors = []
        for start in range(0, len(texts), BATCH_SIZE):
            batch = [prefix + text for text in texts[start : start + BATCH_SIZE]]
            inputs = tokenizer(
                batch, padding=True, truncation=True, max_length=length, return_tensors="pt"
            )
            with torch.inference_mode():
                hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            vectors.append(torch.nn.functional.normalize(mean).numpy())
        return np.concatenate(vectors)

    return encode


def child(options: argparse.Namespace) -> None:
    """Load, warm up, and encode once for each line of stdin; prints a JSON line each time."""
    name = options.child
    texts = json.loads(options.texts.read_text(encoding="utf-8"))
    encoder = None
    if name in PEERS:
        from lexbeam.models.catalogue import resolve_model

        spec = resolve_model(options.model_id, fetch=True)
        make = sentence_transformers_encode if name == PEERS[0] else transformers_encode
        encode = make(spec.directory, spec.document_prefix, options.max_seq_length)
    else:
        encoder = open_encoder(name, options)
        encode = lexbeam_encode(encoder)
    encode(texts[: 2 * BATCH_SIZE])
    print("ready", flush=True)
    for line in sys.stdin:
        before = encoder and encoder.stats
        began = time.perf_counter()
        vectors = encode(texts)
        entry: dict[str, Any] = {"seconds": time.perf_counter() - began}
        if encoder is not None:
            entry |= _difference(asdict(before), asdict(encoder.stats))
        entry["peak"] = memory.own_peak()
        np.save(line.strip(), vectors)
        print(json.dumps(entry), flush=True)


def _difference(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    names = ("real_tokens", "padded_tokens", "model_seconds")
    spent = {name: after[name] - before[name] for name in names}
    spent["wall"] = after["seconds"] - before["seconds"]
    return spent | {"num_slots": after["num_slots"]}


class Child:
    """An encoder in a process of its own."""

    def __init__(self, name: str, texts: Path, options: argparse.Namespace) -> None:
        self.name = name
        self.entries: list[dict[str, Any]] = []
        self.vectors = texts.with_name(f"{name}.npy")
        command = [sys.executable, __file__, "--child", name, "--texts", str(texts)]
        command += ["--model_id", options.model_id]
        command += ["--max_seq_length", str(options.max_seq_length), "--input", "-"]
        pipe = subprocess.PIPE
        self.hidden = memory.own_peak()  # a process begins with the peak of the one that made it
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, stderr=subprocess.DEVNULL
        )
        self.answer("ready")

    def answer(self, expected: str = "{") -> str:
        """Its next line; what libraries print meanwhile is skipped."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(expected):
                return line
        raise SystemExit(f"{self.name}: ended with exit code {self.process.wait()}")

    def run(self) -> None:
        """Encode all texts once more."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self.vectors}\n")
        self.process.stdin.flush()
        self.entries.append(json.loads(self.answer()))
        if self.entries[-1]["peak"] <= self.hidden:
            raise RuntimeError("the child's peak is hidden by that of this process")

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()

    def median(self, name: str) -> float:
        """Of a value of its runs."""
        return statistics.median(entry[name] for entry in self.entries)


def token_counts(texts: Sequence[str], options: argparse.Namespace) -> list[np.ndarray]:
    """Tokens of each text's window, truncated; special tokens and prefix included."""
    from lexbeam.models.catalogue import resolve_model
    from lexbeam.models.encoder_windows import TextTokenizer

    tokenizer = TextTokenizer(resolve_model(options.model_id, fetch=True))
    extra = len(tokenizer.opening) + len(tokenizer.closing)
    counts = [len(t.prefix_ids) + len(t.ids) + extra for t in tokenizer.tokenize(texts)]
    return np.minimum(counts, options.max_seq_length)


def multiply_adds(options: argparse.Namespace) -> int:
    """Multiply-adds a token of the model's linear layers."""
    from lexbeam.models.catalogue import resolve_model
    from lexbeam.models.encoder_spec import read_header

    shapes = read_header(resolve_model(options.model_id).directory, "model.safetensors")
    return sum(
        shape[0] * shape[1]
        for name, shape in shapes.items()
        if "layer." in name and name.endswith(".weight") and len(shape) == 2
    )


def print_machine() -> None:
    """Multiply-adds a second of a large matrix product, on all cores."""
    import torch

    from lexbeam.models.encoder_backend import cpu_has_bfloat16

    rates = []
    # A processor without instructions for bfloat16 would take minutes.
    for dtype in (torch.float32, torch.bfloat16) if cpu_has_bfloat16() else (torch.float32,):
        matrix = torch.ones(2048, 2048, dtype=dtype)
        seconds = []
        for _ in range(8):
            began = time.perf_counter()
            torch.mm(matrix, matrix)
            seconds.append(time.perf_counter() - began)
        rates.append(f"{str(dtype)[6:]} {2048**3 / min(seconds) / 1e9:.0f}")
    print(f"matrix products of this machine, GMAC/s: {', '.join(rates)}\n")


def rates(texts: list[str], options: argparse.Namespace) -> None:
    """Time all encoders in turn and print a line each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "texts.json")
        path.write_text(json.dumps(texts), encoding="utf-8")
        # Before this process imports what is large.
        children = [Child(name, path, options) for name in options.encoders]
        print_machine()
        tokens = int(np.sum(token_counts(texts, options)))
        for _ in range(options.runs):
            for encoder in children:
                encoder.run()
        for encoder in children:
            encoder.close()
        vectors = {encoder.name: np.load(encoder.vectors) for encoder in children}
    print(f"{len(texts):,} texts, {tokens / len(texts):.0f} tokens on average, mixed lengths")
    print(
        f"{'encoder':22} {'docs/s':>7} {'tokens/s':>9} {'GMAC/s':>7} {'pad':>6} {'wait':>6} "
        f"{'MiB':>6} {'cos mean':>9} {'least':>8} {'ratio':>6}"
    )
    first = children[0].median("seconds")
    exact = vectors.get(REFERENCE, vectors[children[0].name]).astype(np.float64)
    for encoder in children:
        seconds = encoder.median("seconds")
        pad = wait = "-"
        if encoder.name not in PEERS:
            pad = f"{encoder.median('padded_tokens') / encoder.median('real_tokens'):.3f}"
            busy = encoder.median("model_seconds") / encoder.entries[0]["num_slots"]
            wait = f"{100 * (1 - busy / encoder.median('wall')):.1f} %"
        cosines = (vectors[encoder.name] * exact).sum(axis=1)
        print(
            f"{encoder.name:22} {len(texts) / seconds:7.1f} {tokens / seconds:9,.0f} "
            f"{tokens * multiply_adds(options) / seconds / 1e9:7.0f} {pad:>6} {wait:>6} "
            f"{encoder.entries[-1]['peak'] / 2**20:6,.0f} {cosines.mean():9.5f} "
            f"{cosines.min():8.5f} {first / seconds:6.2f}",
            flush=True,
        )


def received(texts: list[str], options: argparse.Namespace) -> None:
    """The OpenVINO graph with and without received attention, on one thread."""
    from lexbeam.models.catalogue import resolve_model
    from lexbeam.models.encoder_backend import CPU_BATCH_TOKENS
    from lexbeam.models.encoder_batches import pad_batch, plan_batches
    from lexbeam.models.encoder_openvino import ensure_converted, import_openvino

    openvino = import_openvino()
    spec = resolve_model(options.model_id, fetch=True)
    lengths = token_counts(texts, options)
    batches = [
        pad_batch([np.full(lengths[index], 5, dtype=np.int32) for index in batch], 1)
        for batch in plan_batches(lengths, CPU_BATCH_TOKENS)
    ]
    requests = {}
    for name in ("without", "with"):
        graph = openvino.Core().read_model(ensure_converted(spec, "mean"))
        if name == "without":
            graph.remove_result(graph.get_results()[1])
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        requests[name] = (
            openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
        )
    seconds: dict[str, list[float]] = {name: [] for name in requests}
    for run in range(options.runs + 1):
        for name, request in requests.items():
            began = time.perf_counter()
            for batch in batches:
                request.infer(list(batch))
            if run:
                seconds[name].append(time.perf_counter() - began)
    without, with_it = (statistics.median(seconds[name]) for name in ("without", "with"))
    share = 100 * (with_it / without - 1)
    print(f"received attention: {with_it:.2f} s with, {without:.2f} s without, {share:.1f} % more")


def padding(options: argparse.Namespace) -> None:
    """The padding ratio of each input, whole, chunked at the maximum length."""
    from lexbeam.models.catalogue import resolve_model
    from lexbeam.models.encoder_backend import CPU_BATCH_TOKENS
    from lexbeam.models.encoder_batches import plan_batches
    from lexbeam.models.encoder_windows import TextTokenizer, all_windows
    from lexbeam.transforms.encode import BUFFER_CHARACTERS, BUFFER_ROWS

    spec = resolve_model(options.model_id, fetch=True)
    tokenizer = TextTokenizer(spec)
    for path in options.input:
        texts = memory.contents_of(path)
        real = padded = 0
        buffer: list[str] = []
        for number, text in enumerate(texts, 1):
            buffer.append(text)
            full = len(buffer) >= BUFFER_ROWS or sum(map(len, buffer)) >= BUFFER_CHARACTERS
            if not full and number < len(texts):
                continue
            tokens = dict(enumerate(tokenizer.tokenize(buffer)))
            windows = all_windows(dict(enumerate(buffer)), tokens, tokenizer, spec.max_positions)
            lengths = np.array([len(window.ids) for window in windows])
            real += int(lengths.sum())
            batches = plan_batches(lengths, CPU_BATCH_TOKENS)
            padded += sum(int(lengths[batch].max()) * len(batch) for batch in batches)
            buffer = []
        print(f"padding {path.name:28} {len(texts):6,} documents  {padded / real:.4f}", flush=True)


def titled(document: memory.Document) -> memory.Document:
    """The document with a title; where it has none, the first line and its indented followers."""
    if document.get("title"):
        return document
    title, _, text = re.sub(r"\n\s+", " ", document["text"]).partition("\n")
    return {"title": title, "text": text or title}


def retrieval(options: argparse.Namespace) -> None:
    """Title to text, top 1, of every input."""
    for path in options.input:
        documents = [titled(d) for d in memory.read_documents(path)[: options.limit]]
        found = []
        for name in (name for name in options.encoders if name not in PEERS):
            texts = lexbeam_encode(open_encoder(name, options))([d["text"] for d in documents])
            titles = lexbeam_encode(open_encoder(name, options, queries=True))(
                [d["title"] for d in documents]
            )
            hits = (titles @ texts.T).argmax(axis=1) == np.arange(len(documents))
            found.append(f"{name} {hits.mean():.4f}")
        print(f"retrieval {path.name} ({len(documents):,}): {', '.join(found)}", flush=True)


def stage(texts: list[str], options: argparse.Namespace) -> None:
    """The encode stage of a whole run beside the bare encoder, both with the fastest settings."""
    from lexbeam.models.catalogue import resolve_model
    from lexbeam.models.config import EncoderConfig
    from lexbeam.models.encoder_backend import resolve_backend

    config = resolve_backend(resolve_model(options.model_id, fetch=True), EncoderConfig())
    name = f"{config.backend}-{config.dtype}"
    encode = lexbeam_encode(open_encoder(name, options))
    encode(texts[: 2 * BATCH_SIZE])
    ours, bare = [], []
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus.jsonl")
        lines = (json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts))
        corpus.write_text("\n".join(lines), encoding="utf-8")
        for run in range(options.runs):
            out = Path(folder, f"out{run}")
            command = [sys.executable, "-m", "lexbeam.pipeline.cli", "run", "--quiet"]
            command += ["--input", str(corpus), "--output", str(out), "--features", "bert"]
            command += ["--max_seq_length", str(options.max_seq_length)]
            command += ["--long_documents", "truncate", "--model_id", options.model_id]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            (manifest,) = out.glob("runs/*/manifest.json")
            stages = json.loads(manifest.read_text(encoding="utf-8"))["stages"]
            ours.append(next(s["seconds"] for s in stages if s["stage"] == "encode"))
            began = time.perf_counter()
            encode(texts)
            bare.append(time.perf_counter() - began)
    theirs, own = statistics.median(bare), statistics.median(ours)
    share = 100 * theirs / own
    rates = f"{len(texts) / own:.1f} docs/s, the bare encoder {len(texts) / theirs:.1f}"
    print(f"stage ({name}): {rates}: {share:.1f} %")


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, action="append", required=True)
    parser.add_argument("--limit", type=int, help="documents of each input (default: all)")
    parser.add_argument("--model_id", default="multilingual-e5-small-q4")
    parser.add_argument("--max_seq_length", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--encoders", type=lambda text: text.split(","), default=[*PEERS, *OURS])
    parser.add_argument("--parts", type=lambda text: text.split(","), default=["rates"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--texts", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.child:
        child(options)
        return
    unknown = set(options.parts) - set(PARTS) | set(options.encoders) - {*PEERS, *OURS, *CUDA}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    texts = texts_of(options)
    for part in (part for part in PARTS if part in options.parts):  # rates come first
        if part in ("padding", "retrieval"):
            globals()[part](options)
        else:
            globals()[part](texts, options)


if __name__ == "__main__":
    main()
