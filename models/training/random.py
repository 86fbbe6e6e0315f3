"""Random numbers that follow from a seed and a place in the training, in any process."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *counters: int) -> np.random.Generator:
    """Random numbers of a place in the training, whatever was drawn before."""
    sequence = np.random.SeedSequence([seed, *counters])
    return np.random.Generator(np.random.Philox(sequence))


def torch_seed(seed: int, *counters: int) -> int:
    """For torch.manual_seed, likewise."""
    sequence = np.random.SeedSequence([seed, *counters])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def text_key(seed: int, text_sha256: str, number: int) -> int:
    """A random 64-bit number of a part of a text, the same in every process."""
    text = f"{seed} {text_sha256} {number}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
