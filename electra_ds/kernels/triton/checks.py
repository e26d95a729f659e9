"""What the kernels ask of their inputs, and the launch shapes they share."""

from __future__ import annotations

import torch
from torch import Tensor

from electra_ds.kernels.limits import interprets

FLOATING = (torch.float32, torch.bfloat16, torch.float16)
INTERPRETED = interprets()
"""Triton looks once, when a kernel is defined."""


def check_float(name: str, value: Tensor) -> None:
    """Refuse what the kernels cannot read.

    Raises:
        ValueError: `value` is neither float32, bfloat16 nor float16, or lies on a CPU outside the interpreter.
    """
    if value.dtype not in FLOATING:
        raise ValueError(
            f"{name}: dtype {value.dtype}; the triton kernels read float32, bfloat16 and float16: cast it, or use "
            "backend torch"
        )
    if value.device.type == "cpu" and not INTERPRETED:
        raise ValueError(
            f"{name}: on device cpu; the triton kernels need a GPU: use backend torch, or for a test start Python with "
            "TRITON_INTERPRET=1"
        )


def check_shape(name: str, value: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """Refuse a tensor of another shape than `shape` or on another device than `like`.

    Raises:
        ValueError: with the name, what it is and what it should be.
    """
    if tuple(value.shape) != tuple(shape):
        raise ValueError(
            f"{name}: shape {tuple(value.shape)}; expected {tuple(shape)}: reshape it, or use backend torch, which "
            "broadcasts"
        )
    if value.device != like.device:
        raise ValueError(f"{name}: on device {value.device}; the others are on {like.device}: move it there")


def check_features(count: int, most: int) -> None:
    """Refuse rows that do not fit the registers of one program.

    Raises:
        ValueError: `count` is 0 or above `most`.
    """
    if not 0 < count <= most:
        raise ValueError(
            f"features: {count}; a row lies in the registers of one program, 1 to {most} of them: use backend torch"
        )


def next_power_of_2(value: int) -> int:
    """Least power of two that is not below `value`."""
    return 1 << max(value - 1, 0).bit_length()


def ceil_div(value: int, by: int) -> int:
    """Quotient, rounded up."""
    return -(-value // by)


def whole_rows(features: int) -> tuple[int, int, int]:
    """Launch shape for kernels that keep whole rows in registers.

    Eight elements a thread: one 16-byte load of a 16-bit row, and room in the registers for three running sums.

    Returns:
        Rows of a tile, its columns (a power of two), warps.
    """
    columns = max(next_power_of_2(features), 32)
    rows = max(1, 1024 // columns)
    return rows, columns, max(4, min(16, columns // 256))
