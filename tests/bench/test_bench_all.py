"""`bench all` runs what it should, says what failed, and what nobody measured."""

import json

from electra_ds.bench import all as bench_all
from electra_ds.bench.all import AllBenchConfig, cell, commands
from electra_ds.bench.command import BENCHMARKS
from electra_ds.cli import main


def test_the_short_mode_runs_every_benchmark():
    found = commands(AllBenchConfig(short=True))
    assert [arguments[0] for arguments in found] == [name for name in BENCHMARKS if name != "all"]
    assert all("--short" in arguments for arguments in found)


def test_on_a_gpu_every_size_is_measured_there():
    found = commands(AllBenchConfig(device="cuda"))
    steps = [arguments for arguments in found if arguments[0] == "step"]
    assert [arguments[1] for arguments in steps] == ["--recipe=small", "--recipe=base", "--recipe=large"]
    assert {arguments[0] for arguments in found} == {"step", "kernels"}
    assert all("--device=cuda" in arguments for arguments in found)
    given = commands(AllBenchConfig(device="cuda", micro_batch=32, only=["step"]))
    assert all("--micro_batch=32" in arguments for arguments in given)


def test_it_writes_what_ran_and_what_was_not_measured(tmp_path, capsys):
    assert main(["bench", "all", "--short", "--only=[kernels]", f"--output={tmp_path}"]) == 0
    assert "kernels      ok" in capsys.readouterr().out
    found = json.loads((tmp_path / "all.json").read_text("utf-8"))["results"]
    assert [run["failed"] for run in found["runs"]] == [""]
    assert len(found["steps"]) == 6 and all(step["tokens_per_second"] is None for step in found["steps"])
    page = (tmp_path / "all.md").read_text("utf-8")
    assert page.count("GPU: not measured") == page.count("CPU: not measured") == 3
    assert (tmp_path / "kernels.md").is_file()


def test_a_benchmark_that_fails_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_all, "commands", lambda config: [["kernels", "--operations=[]"]])
    assert main(["bench", "all", f"--output={tmp_path}"]) == 1
    assert "FAILED: electra-ds: error: operations=[]" in capsys.readouterr().out


def test_a_step_measured_before_is_in_the_table(tmp_path):
    results = {
        "tokens_per_second": 1e6,
        "mfu": 0.4,
        "ratio": 2.0,
        "ratio_compiled": 1.5,
        "peak_bytes": 2e9,
        "memory_ratio": 0.5,
        "setting": {"micro_batch": 64},
    }
    page = {"results": results, "machine": {"GPU": "1 x H200", "processor": "x", "cores": "2 usable of 2"}}
    (tmp_path / "step-base-512-cuda.json").write_text(json.dumps(page), "utf-8")
    found = cell(tmp_path, "base", "cuda")
    assert (found["on"], found["micro_batch"], found["ratio_compiled"]) == ("1 x H200", 64, 1.5)
    assert cell(tmp_path, "base", "cpu")["tokens_per_second"] is None


def test_an_unknown_benchmark_is_refused(capsys):
    assert main(["bench", "all", "--only=[stepp]"]) == 2
    assert "did you mean" in capsys.readouterr().err
