"""`bench all` runs what it should, says what failed, and what nobody measured."""

import json
from pathlib import Path

from electra_ds.bench import all as bench_all
from electra_ds.bench.all import AllBenchConfig, cells_of, commands
from electra_ds.bench.command import BENCHMARKS
from electra_ds.cli import main

ROOT = Path(__file__).resolve().parents[2]


def test_the_short_mode_runs_every_benchmark():
    found = commands(AllBenchConfig(short=True))
    assert [arguments[0] for arguments in found] == [name for name in BENCHMARKS if name != "all"]
    assert all("--short" in arguments for arguments in found)


def test_on_a_gpu_every_size_is_measured_there():
    found = commands(AllBenchConfig(device="cuda"))
    steps = [arguments for arguments in found if arguments[0] == "step"]
    assert [arguments[1] for arguments in steps] == ["--recipe=small", "--recipe=base", "--recipe=large"]
    assert {arguments[0] for arguments in found} == {"step", "kernels"}
    variants = [[one for one in arguments if one.startswith("--variants")] for arguments in steps]
    small, large = "kernels.cuda_graphs=true", "kernels.activation_checkpointing=true"
    assert variants == [[f"--variants=[{small}]"], [], [f"--variants=[{large}]"]]
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
    assert page.count("GPU: not measured") == page.count("CPU: not measured") == 6  # two tables of three models
    assert (tmp_path / "kernels.md").is_file()


def test_a_benchmark_that_fails_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_all, "commands", lambda config: [["kernels", "--operations=[]"]])
    assert main(["bench", "all", f"--output={tmp_path}"]) == 1
    assert "FAILED: electra-ds: error: operations=[]" in capsys.readouterr().out


def test_a_step_measured_before_is_in_the_tables(tmp_path):
    results = {
        "tokens_per_second": 1e6,
        "mfu": 0.4,
        "ratio": 2.0,
        "ratio_compiled": 1.5,
        "peak_bytes": 2e9,
        "memory_ratio": 0.5,
        "head_share": 0.125,
        "data_wait": 0.001,
        "overhead": 0.0034,
        "zero": {},
        "setting": {"micro_batch": 64},
    }
    faster = {"tokens_per_second": 2e6, "ratio": 4.0, "ratio_compiled": 3.0, "mfu": 0.8, "peak_bytes": 3e9}
    machine = {"processor": "x", "cores": "2 usable of 2"}
    for name, changes, on in (
        ("base-512-cuda", {"variants": {"kernels.cuda_graphs=true": faster}}, {"GPU": "1 x H200"}),
        ("base-512", {}, {}),
        ("base-512-2-ranks", {"zero": {"0": [1.0, 1.0, 1.0], "1": [1.02, 0.99, 1.05]}}, {}),
    ):
        page = {"results": {**results, **changes}, "machine": {**machine, **on}}
        (tmp_path / f"step-{name}.json").write_text(json.dumps(page), "utf-8")
    plain, variant = cells_of(tmp_path, "base", "cuda")
    assert (plain["on"], plain["micro_batch"], plain["ratio_compiled"], plain["setting"]) == ("1 x H200", 64, 1.5, None)
    assert (variant["setting"], variant["ratio_compiled"]) == ("kernels.cuda_graphs=true", 3.0)
    [absent] = cells_of(tmp_path, "small", "cpu")
    assert absent["tokens_per_second"] is None
    cells = [*cells_of(tmp_path, "base", "cpu"), plain, variant]
    first, second = bench_all._steps(cells).rows, bench_all._within(cells).rows
    assert [row[0] for row in first] == [
        "base, L 512",
        "base, L 512, 2 ranks",
        "base, L 512",
        "base, L 512, `kernels.cuda_graphs=true`",
    ]
    assert first[3][3:] == ["2,000,000", "80.0%", "3.00 x", "4.00 x", "3.0", "not measured"]
    assert second[0][1:] == ["x, 2 cores", "12.5%", "0.10%", "0.34%", "not measured"]
    assert second[1][-1] == "1.020 (0.990 to 1.050) x"
    assert second[3][2:] == ["not measured"] * 4


def test_on_a_cpu_base_is_measured_as_its_report_in_this_repository_says(tmp_path):
    [base] = [one for one in commands(AllBenchConfig(only=["step"])) if "--recipe=base" in one]
    report = json.loads((ROOT / "benchmarks" / "step-base-512.json").read_text("utf-8"))
    assert f"--micro_batch={report['results']['setting']['micro_batch']}" in base


def test_an_unknown_benchmark_is_refused(capsys):
    assert main(["bench", "all", "--only=[stepp]"]) == 2
    assert "did you mean" in capsys.readouterr().err
