"""`bench launches` counts what it says, and leaves Triton as it was."""

import json

import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from electra_ds.bench.kernels_cases import Shape, gelu_case, vocabulary_case
from electra_ds.bench.launches import Counter, count_case
from electra_ds.cli import main
from electra_ds.kernels.triton import checks
from electra_ds.model.config import ModelConfig

MODEL = ModelConfig(vocab_size=1000)
ROWS, LENGTH = 4, 32


@pytest.fixture
def shape():
    return Shape(ROWS, LENGTH, MODEL, 0.25, torch.bfloat16, torch.device("cpu"))


def counted(function, *tensors):
    with Counter() as counter:
        function(*tensors)
    return counter.names, counter.bytes


def test_torch_operations_by_hand():
    a, b = torch.ones(8, 16), torch.ones(16, 4)
    assert counted(lambda: a @ b) == (["mm"], 4 * (8 * 16 + 16 * 4 + 8 * 4))
    assert counted(lambda: a.t().reshape(4, 32).view(-1)) == (["clone"], 2 * 4 * 8 * 16), "the copy; views are free"
    assert counted(lambda: torch.empty(5)) == ([], 0)
    assert counted(lambda: torch.zeros(1, 16).expand(8, 16) + a) == (["zeros", "add"], 4 * (16 + 16 + 2 * 8 * 16))
    assert counted(lambda: a.add_(1.0)) == (["add_"], 2 * 4 * 8 * 16), "read and written"
    assert counted(lambda: a.new_full((3,), 1.0)) == (["new_full"], 4 * 3), "written; `a` is not read"
    indices = torch.tensor([[0], [3]])
    assert counted(lambda: a.gather(1, indices)) == (["gather"], 2 * 2 * 4 + 2 * 8), "two numbers and their places"


def test_gelu_by_hand(shape):
    """Plain: sum and GELU each read and write. One kernel reads and writes once."""
    found = count_case(gelu_case(shape, ["triton"]))["ways"]
    tensor, bias = 2 * ROWS * LENGTH * MODEL.intermediate_size, 2 * MODEL.intermediate_size
    plain, fused = found["plain"]["forward"], found["triton"]["forward"]
    assert (plain["names"], plain["bytes"]) == (["add", "gelu"], 4 * tensor + bias)
    assert (fused["names"], fused["bytes"]) == (["_forward"], 2 * tensor + bias)
    assert found["triton"]["backward"]["names"] == ["_backward", "sum", "_to_copy"]


def test_the_logits_reach_memory_in_the_plain_form_alone(shape):
    case = vocabulary_case(shape, ["triton"])
    found = count_case(case)["ways"]
    hidden, weight, _ = case.inputs
    logits = len(hidden) * len(weight) * 2
    inputs = sum(2 * value.numel() for value in case.inputs)
    assert found["plain"]["forward"]["bytes"] > inputs + 10 * logits
    groups = 8 * len(hidden) * -(-MODEL.vocab_size // 64)
    # Both kernels may read every input; sums of groups are written and read; a few numbers for each position.
    assert found["triton"]["forward"]["bytes"] <= 2 * (inputs + groups) + 100 * len(hidden)
    assert found["triton"]["forward"]["names"] == ["new_full", "tile_sums", "finish", "sum"]


def test_triton_is_left_as_it_was(shape):
    before = JITFunction.run, InterpretedFunction.run, checks.INTERPRETED
    count_case(gelu_case(shape, ["triton"]))
    with pytest.raises(ZeroDivisionError), Counter():
        raise ZeroDivisionError
    assert (JITFunction.run, InterpretedFunction.run, checks.INTERPRETED) == before
    hidden = torch.ones(2, 4)
    with Counter() as counter:
        pass
    hidden.add(hidden)
    assert not counter.names, "nothing is counted outside"


def test_the_command(tmp_path, capsys):
    assert main(["bench", "launches", "--short", f"--output={tmp_path}"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "launches.md"), str(tmp_path / "launches.json")]
    found = json.loads((tmp_path / "launches.json").read_text("utf-8"))["results"]
    assert list(found) == ["small"]
    assert set(found["small"]) == {"layer_norm", "gelu", "vocabulary_head", "discriminator_head"}
    page = (tmp_path / "launches.md").read_text("utf-8")
    assert page.count("|  | triton |") == 4 and "| 100% |" in page


def test_what_it_cannot_count_is_refused(capsys):
    assert main(["bench", "launches", "--operations=[attention]"]) == 2
    assert "must hold some of layer_norm" in capsys.readouterr().err
    assert main(["bench", "launches", "--tokens=0"]) == 2
    assert "tokens=0: must be at least 1" in capsys.readouterr().err
