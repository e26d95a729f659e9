"""`bench checkpoint` runs what it says and writes its report."""

import json

import pytest

from electra_ds.cli import main


@pytest.mark.ranks
def test_the_short_mode_measures_both_sides_and_three_ways_to_go_on(tmp_path):
    assert main(["bench", "checkpoint", "--short", f"--output={tmp_path}"]) == 0
    (size,) = json.loads((tmp_path / "checkpoint.json").read_text())["results"]["sizes"]
    for runs in size["sides"].values():
        (run,) = runs
        assert len(run["stall_seconds"]) == 2
        assert all(0 < stall <= whole for stall, whole in zip(run["stall_seconds"], run["seconds"], strict=True))
        assert run["bytes"] > 1_000_000 and run["tokens_per_second"] > 0
    assert set(size["resumed"]) == {"as saved", "half the ranks", "stage 3"}
    assert all(seconds > 0 for seconds in size["resumed"].values())
    assert "while training waits" in (tmp_path / "checkpoint.md").read_text()


def test_an_odd_number_of_ranks_is_refused(capsys):
    assert main(["bench", "checkpoint", "--ranks=3"]) == 2
    assert "ranks=3: must be even" in capsys.readouterr().err
