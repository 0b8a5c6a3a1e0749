"""A shuffled order of any size that is computed, never stored."""

import numpy as np


def permuted(index, size: int, seed: int):
    """A pseudo-random permutation of range(size), evaluated at `index` without storing it.

    A four-round Feistel network on the next even power of two, walked until inside the range.

    Args:
        index: int array (N,), each in [0, size).
        size: Length of the range.
        seed: Which permutation.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = np.random.default_rng(seed).integers(1, 1 << 62, size=8, dtype=np.uint64) | np.uint64(1)

    def walk(value):
        left, right = value >> np.uint64(half), value & mask
        for key, offset in zip(keys[:4], keys[4:], strict=True):
            mixed = (right * key + offset) & np.uint64(0xFFFFFFFFFFFFFFFF)
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(32))) & mask)
        return (left << np.uint64(half)) | right

    with np.errstate(over="ignore"):
        out = walk(np.asarray(index, dtype=np.uint64))
        outside = out >= size
        while outside.any():
            out[outside] = walk(out[outside])
            outside = out >= size
    return out.astype(np.int64)
