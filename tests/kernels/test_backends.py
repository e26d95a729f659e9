"""Which backends are there: real packages on the path, whole, old, broken, or another thing of the same name."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from electra_ds.errors import UserError
from electra_ds.kernels.backends import OPERATIONS, choose, flash_problem, look, survey
from electra_ds.kernels.config import Backends, KernelsConfig
from electra_ds.kernels.limits import interprets
from electra_ds.training.compiling import compiles
from tests.kernels.reference import needs_triton

CPU = torch.device("cpu")
SCRIPT = """
import json, sys, torch
from electra_ds.kernels.backends import look
found = look(*sys.argv[1:3], torch.device("cpu"))
print(json.dumps([found.available, found.release, found.reason]))
"""


def looked_at(operation, backend, path, **environment):
    """`look` in a process that finds packages in `path` first."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, operation, backend],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(path), os.getcwd()]), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def put(folder, name, text="", *modules):
    """A package on disk."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "__init__.py").write_text(text)
    for module in modules:
        (folder / name / module).write_text("")


def test_every_operation_has_its_backends_and_torchs_run_everywhere():
    found = survey(CPU)
    assert {operation: tuple(one.name for one in backends) for operation, backends in found.items()} == OPERATIONS
    for backends in found.values():
        assert backends[0].available and backends[0].release == torch.__version__
        assert all(one.available != bool(one.reason) for one in backends)


def test_on_a_cpu_auto_takes_torch_without_a_word():
    assert choose(KernelsConfig(), CPU) == (Backends(), ())
    assert choose(KernelsConfig(), CPU, compiled=True).backends == Backends(compiled=True)


@pytest.mark.parametrize(
    ("operation", "backend"),
    [("attention", "varlen"), ("attention", "flash_attn"), ("layer_norm", "apex"), ("vocabulary_head", "triton")],
)
def test_what_was_asked_for_and_is_not_there_says_why_and_what_to_do(operation, backend, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UserError) as caught:
        choose(KernelsConfig(**{operation: backend}), CPU)
    assert f"kernels.{operation}={backend} cannot run here: " in str(caught.value)
    assert "needs a GPU" in str(caught.value)
    assert f"kernels.{operation} auto" in str(caught.value)


def test_an_old_triton_does_not_fit(tmp_path):
    put(tmp_path, "triton", "__version__ = '2.1.0'")
    available, release, reason = looked_at("gelu", "triton", tmp_path)
    assert (available, release) == (False, "2.1.0")
    assert "triton 2.1.0 does not fit: 3.2 or later expected: pip install --upgrade triton" in reason
    assert "needs a GPU" in reason


def test_a_triton_that_fits_needs_a_gpu_or_its_interpreter(tmp_path):
    put(tmp_path, "triton", "__version__ = '3.2.0'")
    assert looked_at("gelu", "triton", tmp_path, TRITON_INTERPRET="0") == [False, "3.2.0", "needs a GPU"]
    assert looked_at("gelu", "triton", tmp_path, TRITON_INTERPRET="1") == [True, "3.2.0", ""]
    assert looked_at("gelu", "triton", tmp_path, TRITON_INTERPRET="true") == [True, "3.2.0", ""]


def test_a_package_that_does_not_load_tells_its_error(tmp_path):
    put(tmp_path, "flash_attn", "raise OSError('libcudart.so.11: cannot open shared object file')")
    available, release, reason = looked_at("attention", "flash_attn", tmp_path)
    assert (available, release) == (False, "")
    assert "flash_attn does not load (OSError: libcudart.so.11: cannot open shared object file)" in reason


def test_flash_attn_of_another_generation_does_not_fit(tmp_path):
    for release in ("1.0.9", "2.5.8", "3.0.0"):
        put(tmp_path, "flash_attn", f"__version__ = '{release}'")
        told = looked_at("attention", "flash_attn", tmp_path)[2]
        assert f"flash_attn {release} does not fit: 2.7 or later, below 3, expected" in told
    put(tmp_path, "flash_attn", "__version__ = '2.8.3'")
    assert looked_at("attention", "flash_attn", tmp_path) == [False, "2.8.3", "needs a GPU"]


APEX = {
    "layer_norm": "input, weight, bias, normalized_shape, eps=1e-6, memory_efficient=False",
    "optimizer": "params, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-8, adam_w_mode=True, "
    "weight_decay=0.0, amsgrad=False, set_grad_none=True, capturable=False, master_weights=False",
}
"""Parameters of what we call, as apex has them."""


def write_apex(folder, text):
    """What apex offers, both in one text."""
    for module in ("normalization/fused_layer_norm.py", "optimizers/__init__.py"):
        (folder / "apex" / module).write_text(text)


@pytest.mark.parametrize(("operation", "extension"), [("layer_norm", "fused_layer_norm_cuda"), ("optimizer", "amp_C")])
def test_apex_is_nvidias_and_built_with_its_extensions(tmp_path, operation, extension):
    assert "apex is not installed: build NVIDIA's from" in looked_at(operation, "apex", tmp_path)[2]
    put(tmp_path, "apex", "", "forms.py")  # what the registry calls so
    assert "the installed apex is not NVIDIA's: build" in looked_at(operation, "apex", tmp_path)[2]
    put(tmp_path, "apex/normalization", "", "fused_layer_norm.py")
    put(tmp_path, "apex/optimizers")
    assert f"apex is built without {extension}: build" in looked_at(operation, "apex", tmp_path)[2]
    (tmp_path / f"{extension}.py").write_text("")
    name = "fused_layer_norm.fused_layer_norm_affine" if operation == "layer_norm" else "optimizers.FusedAdam"
    parameters = APEX[operation]
    for unfit in ("", f"def {name.partition('.')[2]}({parameters.split(',')[0]}): pass"):
        write_apex(tmp_path, unfit)
        told = looked_at(operation, "apex", tmp_path)[2]
        assert "needs a GPU; apex does not fit: apex." in told
        assert f"{name} is missing or takes other arguments: build NVIDIA's from" in told
    write_apex(tmp_path, f"def {name.partition('.')[2]}({parameters}): pass")
    assert looked_at(operation, "apex", tmp_path)[2] == "needs a GPU"


def test_deepspeeds_adam_needs_a_compiler(tmp_path):
    available, release, reason = looked_at("optimizer", "deepspeed", tmp_path, CXX="no-such-compiler")
    assert not available and release
    assert "compiles its op at the first use, without no-such-compiler (install a C++ compiler)" in reason


def test_the_flash_kernels_take_two_precisions_and_some_heads():
    assert flash_problem("bf16", (32, 64, 256)) == flash_problem("fp16", ()) == ""
    assert "training.precision is float32" in flash_problem("float32", (64,))
    assert "the model has heads of 20, 264;" in flash_problem("bf16", (64, 20, 264))


@needs_triton
class TestAsIfThereWereAGpu:
    """Of which torch is asked for its compute capability only."""

    GPU = torch.device("cuda", 0)

    @pytest.fixture(autouse=True)
    def capability(self, monkeypatch):
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)

        def be(*pair):
            monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: pair)

        be(8, 0)
        return be

    def test_too_old_for_triton_takes_torch_with_one_word_and_compiles_nothing(self, capability):
        capability(6, 1)
        backends, notes = choose(KernelsConfig(), self.GPU)
        assert backends == Backends()
        assert notes == (
            "attention computes masked segments too, which is slower: needs a GPU of compute capability 8.0 or later, "
            "this is 6.1",
            "torch runs layer_norm, gelu, vocabulary_head, discriminator_head (kernels.*), which is slower: needs a "
            "GPU of compute capability 7.0 or later, this is 6.1",
        )
        assert compiles(None, self.GPU) is False
        with pytest.raises(UserError, match=r"kernels.compile=true cannot run here: needs a GPU of compute capability"):
            compiles(True, self.GPU)
        with pytest.raises(UserError, match=r"kernels.gelu=triton cannot run here: .* 7.0 or later, this is 6.1; or"):
            choose(KernelsConfig(gelu="triton"), self.GPU)

    def test_young_enough_takes_triton(self, capability):
        capability(7, 0)
        backends, notes = choose(KernelsConfig(), self.GPU)
        assert backends.gelu == backends.vocabulary_head == "triton" and len(notes) == 1
        assert compiles(None, self.GPU) is True

    def test_rows_too_long_for_a_kernel_take_torch_with_one_word(self):
        sizes = {"hidden_sizes": (9216, 2304)}
        backends, notes = choose(KernelsConfig(), self.GPU, **sizes)
        assert backends.layer_norm == backends.discriminator_head == "torch"
        assert backends.gelu == backends.vocabulary_head == "triton"
        assert notes == (
            "torch runs layer_norm, discriminator_head (kernels.*), which is slower: the triton kernel keeps a row of "
            "up to 8,192 features in registers, and the model has hidden states of 9,216 (model.hidden_size)",
        )
        for name in ("layer_norm", "discriminator_head"):
            with pytest.raises(UserError, match=f"kernels.{name}=triton cannot run here: the triton kernel keeps"):
                choose(KernelsConfig(**{name: "triton"}), self.GPU, **sizes)
        assert choose(KernelsConfig(), self.GPU, hidden_sizes=(8192, 2048)).notes == ()


@needs_triton
@pytest.mark.parametrize("text", ["1", "true", "TRUE", "on", "yes", "y", "0", "false", "off", "", "2"])
def test_the_interpreter_is_on_where_triton_says_so(text, monkeypatch):
    knobs = pytest.importorskip("triton.knobs", reason="this triton reads the environment by itself")
    monkeypatch.setenv("TRITON_INTERPRET", text)
    assert interprets() is knobs.runtime.interpret


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestOnAGpu:
    GPU = torch.device("cuda", 0)

    def test_float32_and_odd_heads_take_the_mask_with_one_word(self):
        for more in ({"precision": "float32"}, {"head_sizes": (64, 20)}):
            backends, notes = choose(KernelsConfig(), self.GPU, **more)
            assert backends.attention == "torch" and len(notes) == 1

    def test_compiled_blocks_fuse_the_small_operations_themselves(self):
        backends, _ = choose(KernelsConfig(), self.GPU, compiled=True)
        assert backends.layer_norm == backends.gelu == "torch"

    def test_auto_takes_nothing_that_is_not_there(self):
        backends, _ = choose(KernelsConfig(), self.GPU)
        for operation in OPERATIONS:
            assert look(operation, getattr(backends, operation), self.GPU).available
