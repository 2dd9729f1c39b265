"""What the files of stored results hold; goldens.h reads them."""
import numpy as np


def is_prime(n):
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def stride_of(count, kept):
    """The least step that keeps at most `kept` elements: a prime that does not divide the count, so that the elements
    kept are spread over all rows and columns."""
    stride = -(-count // kept)
    while stride > 1 and not (is_prime(stride) and count % stride):
        stride += 1
    return max(stride, 1)


class Goldens:
    """What a file will hold. Of a tensor of dtype t at most kept[t] elements are stored."""

    def __init__(self, kept):
        self.kept = kept
        self.tensors = {}

    def add(self, name, array):
        flat = np.ascontiguousarray(array).reshape(-1)
        assert np.all(np.isfinite(flat)), name
        stride = stride_of(flat.size, self.kept[flat.dtype])
        wide = flat.astype(np.float64)
        self.tensors[name] = flat[::stride].copy()
        self.tensors[name + "#sums"] = np.array(
            [stride, flat.size, wide.sum(), np.sqrt((wide * wide).sum()), np.abs(wide).max()])
