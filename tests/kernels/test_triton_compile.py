"""Every kernel compiles for the GPUs it is meant for, with the launch shapes of real models; no GPU is needed.

The interpreter runs what a compiler may refuse: types that do not match, tiles that do not fit. ``python -m
tests.kernels.test_triton_compile 90`` compiles for compute capability 9.0 and prints one line of JSON a kernel:
registers of a thread, bytes of stack (registers spilled), bytes of shared memory.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests.kernels.reference import ROOT, needs_triton

pytestmark = needs_triton
NAMES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
}
SHARED = {80: 163 * 1024, 86: 99 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that one program may have (CUDA C++ Programming Guide, table of compute capabilities)."""
FEATURES = {80: (768,), 90: (256, 768, 1024)}
"""By capability; 9.0 gets the whole round, with other dtypes and switches too."""
EMBEDDINGS = {80: (768,), 90: (128, 768, 1024)}


@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles_and_fits(capability, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.test_triton_compile", str(capability)],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    kernels = {line["kernel"] for line in lines}
    assert kernels == {
        *(f"{module}.{way}" for module in ("layer_norm", "gelu", "discriminator") for way in ("_forward", "_backward")),
        *(f"vocabulary_kernels.{name}" for name in ("tile_sums", "finish", "chunk_gradients")),
    }
    for line in lines:
        assert line["shared"] <= SHARED[capability], line
        # Two programs of 8 warps in the 65,536 registers of a multiprocessor; a few spilled ones are the price.
        products = line["kernel"].endswith(("tile_sums", "chunk_gradients"))
        if products and line["dtype"] == "bfloat16":
            assert line["registers"] <= 128 and line["stack"] <= 128 and line["rounds"], line
        elif not products:
            assert line["stack"] == 0, line


class _Compiler:
    """Takes the place of a launch: compiles the kernel for these arguments and keeps its figures."""

    def __init__(self, capability: int) -> None:
        self.capability, self.label, self.seen = capability, "", set()

    def __call__(self, kernel, *args, grid, warmup, **keywords):
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource, compile

        options = {name: keywords.pop(name) for name in ("num_warps", "num_stages", "maxnreg") if name in keywords}
        bound = kernel.signature.bind(*args, **keywords)
        bound.apply_defaults()
        signature, constants, attributes = {}, {}, {}
        for index, (parameter, (name, value)) in enumerate(zip(kernel.params, bound.arguments.items(), strict=True)):
            if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
                signature[name], constants[name] = "constexpr", value
                continue
            if isinstance(value, torch.Tensor):
                signature[name] = "*" + NAMES[value.dtype]
            else:
                signature[name] = "i32" if isinstance(value, int) else "fp32"
            if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
                attributes[(index,)] = [["tt.divisibility", 16]]
        key = (kernel.fn, str(signature), str(constants), str(attributes), str(options))
        if key not in self.seen:
            self.seen.add(key)
            source = ASTSource(kernel, signature, constants, attributes)
            compiled = compile(source, target=GPUTarget("cuda", self.capability, 32), options=options)
            self._report(kernel.fn, compiled, options)

    def _report(self, function, compiled, options) -> None:
        shape, dtype = self.label.split()
        line = {
            "kernel": f"{function.__module__.rsplit('.', 1)[1]}.{function.__name__}",
            "shape": shape,
            "dtype": dtype,
            **options,
            "shared": compiled.metadata.shared,
            "rounds": "cvt.rn.bf16" in compiled.asm["ptx"],
            **_resources(compiled.asm["cubin"]),
        }
        assert f".target sm_{self.capability}" in compiled.asm["ptx"]
        print(json.dumps(line), flush=True)


def _resources(cubin: bytes) -> dict[str, int]:
    """Registers and bytes of stack, as the tool that comes with triton reads them."""
    import triton

    path = Path(os.environ.get("TRITON_CACHE_DIR", "/tmp")) / f"resources-{os.getpid()}.cubin"
    path.write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    text = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    path.unlink()
    found = {name: int(re.search(rf"\b{word}:(\d+)", text)[1]) for name, word in WORDS.items()}
    return {"registers": found["registers"], "stack": found["stack"] + found["local"]}


WORDS = {"registers": "REG", "stack": "STACK", "local": "LOCAL"}


def compile_all(capability: int) -> None:
    """Call each operation forward and backward, with launches that compile instead."""
    from triton.runtime.jit import JITFunction

    from electra_ds.kernels.triton import checks, vocabulary

    compiler = _Compiler(capability)
    with (
        mock.patch.object(JITFunction, "run", lambda *args, **keywords: compiler(*args, **keywords)),
        mock.patch.object(checks, "INTERPRETED", True),
        mock.patch.object(vocabulary, "_capability", lambda hidden: capability // 10),
    ):
        for features in FEATURES.get(capability, FEATURES[90]):
            compiler.label = f"F={features} bfloat16"
            _features(features, torch.bfloat16, bias=True, keys=True)
        for width in EMBEDDINGS.get(capability, EMBEDDINGS[90]):
            compiler.label = f"E={width} bfloat16"
            _vocabulary(width, torch.bfloat16, 1.0, False)
        if capability != 80:
            compiler.label = "F=768 float32"
            _features(768, torch.float32, bias=False, keys=False)
            compiler.label = "E=768 float32"
            _vocabulary(768, torch.float32, 1.0, False)
            compiler.label = "E=256 float16"
            _vocabulary(256, torch.float16, 0.7, True)


def _leaf(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, requires_grad=True)


def _features(count: int, dtype: torch.dtype, bias: bool, keys: bool) -> None:
    from electra_ds.kernels.triton.discriminator import discriminator_loss
    from electra_ds.kernels.triton.gelu import bias_gelu
    from electra_ds.kernels.triton.layer_norm import dropout_add_layer_norm

    hidden, residual = _leaf(dtype, 4, 512, count), _leaf(dtype, 4, 512, count)
    weight, shift = _leaf(dtype, count), _leaf(dtype, count)
    added = _leaf(dtype, count) if bias else None
    drawn = torch.zeros(4, 2, dtype=torch.int32) if keys else None
    dropout_add_layer_norm(hidden, added, residual, weight, shift, 1e-6, drawn, 0.1).sum().backward()
    bias_gelu(hidden, added).sum().backward()
    labels = torch.zeros(4, 512, dtype=torch.bool)
    discriminator_loss(hidden, added, weight, _leaf(dtype, 1), labels, labels.float()).loss.backward()


def _vocabulary(width: int, dtype: torch.dtype, temperature: float, disallow: bool) -> None:
    from electra_ds.kernels.triton.vocabulary import vocabulary_head

    hidden, weight, bias = _leaf(dtype, 256, width), _leaf(dtype, 30592, width), _leaf(dtype, 30592)
    ones, targets = torch.ones(256), torch.zeros(256, dtype=torch.int64)
    vocabulary_head(hidden, weight, bias, targets, ones, ones / 2, 30522, temperature, disallow).loss.backward()


if __name__ == "__main__":
    compile_all(int(sys.argv[1]))
