"""The hash of `electra_ds.kernels.dropout` inside a kernel, bit for bit."""

# mypy: allow-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def keeps(counter, key_0, key_1, threshold):
    """Whether elements stay: `dropout.keep_mask`.

    Args:
        counter: int32, each element's place within its row of the batch.
        key_0: int32 that broadcasts with it, first word of the row's key.
        key_1: int32 likewise, second word.
        threshold: int32 from `dropout.threshold`.

    Returns:
        int1 in the shape of all of them together.
    """
    value = (counter ^ key_0).to(tl.uint32, bitcast=True)
    value = (value ^ (value >> 16)) * 0x7FEB352D
    value = (value ^ (value >> 15)) ^ key_1.to(tl.uint32, bitcast=True)
    value = value * 0x846CA68B
    value = value ^ (value >> 16)
    return (value & 0xFFFFFF).to(tl.int32) >= threshold
