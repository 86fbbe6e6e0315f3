"""Bytes of an input file, decompressed, and their lines with offsets."""

from __future__ import annotations

import bz2
import io
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import zstandard

from lexbeam.transforms import storage
from lexbeam.transforms.sources import Source
from lexbeam.transforms.splits import END

MAX_DOCUMENT_BYTES = 256 << 20
"""A longer line or file is rejected: Arrow's columns of strings end at 2 GiB."""

UTF8_BOM = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 20
# Small, as a compressed byte may stand for thousands.
_COMPRESSED_CHUNK_BYTES = 64 << 10


class UnreadableFile(Exception):
    """The rest of a file cannot be read.

    Attributes:
        position: byte of the uncompressed file (row of Parquet) from which on it is lost.
    """

    def __init__(self, message: str) -> None:
        self.position = 0
        super().__init__(message)


def chunks(source: Source, start: int = 0) -> Iterator[bytes]:
    """The file's uncompressed bytes, from `start` on (0 for a compressed file).

    Raises:
        UnreadableFile: truncated or damaged, or may not be read.
        OSError: a file that has gone, a store that does not answer: worth another try.
    """
    raw = _raw_chunks(source, start)
    return _decompressed(raw, source.compression) if source.compression else raw


def _raw_chunks(source: Source, start: int) -> Iterator[bytes]:
    size = _COMPRESSED_CHUNK_BYTES if source.compression else _CHUNK_BYTES
    try:
        with storage.open_read(source.path) as file:
            if start:
                file.seek(start, io.SEEK_SET)
            while chunk := _read(file, size):
                yield chunk
    except OSError as error:
        raise unreadable_or_same(source, error) from error


def _read(file: BinaryIO, size: int) -> bytes:
    return file.read(size)


def unreadable_or_same(source: Source, error: OSError) -> Exception:
    """UnreadableFile for what stays so: no permission, a local disk's fault; else the error."""
    if isinstance(error, FileNotFoundError):
        return error
    if isinstance(error, PermissionError) or storage.is_local(source.path):
        return UnreadableFile(error.strerror or str(error))
    return error


def _decompressed(raw: Iterator[bytes], compression: str) -> Iterator[bytes]:
    """Members or frames one after the other; zero bytes after the last are padding."""
    decoder: Any = None
    for chunk in raw:
        rest = chunk
        while rest:
            if decoder is None:
                rest = rest.lstrip(b"\0")
                if not rest:
                    break
                decoder = _DECODERS[compression]()
            try:
                data = decoder.decompress(rest)
            except (OSError, zlib.error, zstandard.ZstdError) as error:
                raise UnreadableFile(f"damaged {compression} data: {error}") from error
            if data:
                yield data
            rest = b""
            if decoder.eof:
                rest, decoder = decoder.unused_data, None
    if decoder is not None:
        raise UnreadableFile(f"the {compression} data ends before its end mark")


_DECODERS: dict[str, Callable[[], Any]] = {
    "gz": lambda: zlib.decompressobj(wbits=31),
    "bz2": bz2.BZ2Decompressor,
    "zst": lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),
}


def lines(source: Source, start: int = 0, stop: int = END) -> Iterator[tuple[int, bytes]]:
    r"""Offset and bytes of each line that starts in [start, stop), without its `\n`.

    A line longer than MAX_DOCUMENT_BYTES comes out cut, one byte longer than that.

    Raises:
        UnreadableFile: with the position of the first line that did not come out.
    """
    # From the byte before on: what ends at the first line break started before the range.
    first = max(0, start - 1)
    found = _lines_of(chunks(source, first), first)
    try:
        if start > 0:
            next(found, None)
        for position, line in found:
            if stop != END and position >= stop:
                return
            yield position, line
    except UnreadableFile as error:
        error.position = max(error.position, start)
        raise


def _lines_of(parts: Iterator[bytes], position: int) -> Iterator[tuple[int, bytes]]:
    held: list[bytes] = []
    num_held = 0
    try:
        for part in parts:
            *complete, rest = part.split(b"\n")
            for line in complete:
                length = num_held + len(line)
                if held:
                    line = b"".join([*held, line])[: MAX_DOCUMENT_BYTES + 1]
                    held, num_held = [], 0
                yield position, line
                position += length + 1
            if rest:
                if num_held <= MAX_DOCUMENT_BYTES:
                    held.append(rest)
                num_held += len(rest)
        if held:
            yield position, b"".join(held)[: MAX_DOCUMENT_BYTES + 1]
    except UnreadableFile as error:
        error.position = position
        raise


def whole(source: Source) -> bytes:
    """All bytes, but no more than MAX_DOCUMENT_BYTES + 1; raises as `chunks` does."""
    held: list[bytes] = []
    num_held = 0
    for chunk in chunks(source):
        held.append(chunk)
        num_held += len(chunk)
        if num_held > MAX_DOCUMENT_BYTES:
            break
    return b"".join(held)[: MAX_DOCUMENT_BYTES + 1]
