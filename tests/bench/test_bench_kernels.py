"""`bench kernels` measures every operation and names what it cannot."""

import json
import math

import torch

from electra_ds.bench.kernels_cases import packed_layouts
from electra_ds.cli import main
from electra_ds.kernels.attention import attention_layout

OPERATIONS = {"attention", "layer_norm", "gelu", "dropout", "vocabulary_head", "discriminator_head"}


def results(folder):
    return json.loads((folder / "kernels.json").read_text("utf-8"))["results"]


def test_the_short_mode_measures_every_operation(tmp_path, capsys):
    assert main(["bench", "kernels", "--short", "--device=cpu", f"--output={tmp_path}"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "kernels.md"), str(tmp_path / "kernels.json")]
    found = results(tmp_path)
    assert set(found["small"]) == OPERATIONS
    for operation in found["small"].values():
        assert set(operation["ways"]) == {"plain", "torch"}
        for way in operation["ways"].values():
            assert len(way["forward"]) == len(way["both"]) == 2
            assert all(math.isfinite(value) and value > 0 for value in (*way["forward"], *way["both"]))
        assert operation["work"] > 0 and operation["unit"] in ("GB/s", "GFLOP/s")
    missing = {(operation, backend) for operation, backend, _ in found["not_measured"]}
    assert {("attention", "varlen"), ("gelu", "triton"), ("vocabulary_head", "triton")} <= missing
    page = (tmp_path / "kernels.md").read_text("utf-8")
    assert "## Shapes of small" in page and "## Not measured" in page and "needs a GPU" in page


def test_compiled_ways_are_measured_too(tmp_path):
    options = ["--recipes=[small]", "--operations=[gelu]", "--tokens=128", "--rounds=1", "--calls=1", "--device=cpu"]
    assert main(["bench", "kernels", *options, f"--output={tmp_path}"]) == 0
    ways = results(tmp_path)["small"]["gelu"]["ways"]
    assert set(ways) == {"plain", "torch", "plain, compiled", "torch, compiled"}
    assert not any("failed" in way for way in ways.values())


def test_an_unknown_operation_is_refused(capsys):
    assert main(["bench", "kernels", "--operations=[softmax]"]) == 2
    assert "must hold some of attention" in capsys.readouterr().err


def test_packed_attention_gets_as_much_room_as_in_training():
    """A kernel starts a block for each slot: as many as tokens would be 32,768 for a few hundred segments."""
    segments = torch.ones(8, 64, dtype=torch.long)
    segments[1::2, 32:] = 2
    layouts = packed_layouts(segments, torch.float32, ["torch", "varlen"])
    assert layouts["varlen"].borders.shape == (17,)
    assert torch.equal(layouts["varlen"].borders[:13], attention_layout(segments, torch.float32, "varlen").borders[:13])
    assert layouts["torch"].bias.shape == (8, 1, 64, 64)
