"""`bench convert` converts a real checkpoint in every way."""

import json

import pytest

from electra_ds.cli import main


@pytest.mark.ranks
def test_the_short_mode_measures_every_way(tmp_path):
    assert main(["bench", "convert", "--short", f"--output={tmp_path}"]) == 0
    (found,) = json.loads((tmp_path / "convert.json").read_text("utf-8"))["results"]["checkpoints"]
    assert found["checkpoint_bytes"] > found["written_bytes"] > 1_000_000
    ways = {"convert", "convert, files of 1MB", "convert back to a pair", "DeepSpeed's zero_to_fp32"}
    assert set(found["ways"]) == ways
    for way in found["ways"].values():
        assert all(len(way[key]) == 1 and way[key][0] > 0 for key in ("seconds", "cpu_seconds", "memory", "anonymous"))
    whole, cut = found["ways"]["convert"], found["ways"]["convert, files of 1MB"]
    assert whole["files"] == 2 < cut["files"] and cut["largest_file"] < whole["largest_file"]
    assert cut["largest_tensor"] == whole["largest_tensor"] <= cut["allowed"] < whole["allowed"]
    page = (tmp_path / "convert.md").read_text("utf-8")
    assert "## tiny, ZeRO stage 1" in page and "| convert back to a pair |" in page


def test_impossible_settings_are_refused(capsys):
    assert main(["bench", "convert", "--stages=[]"]) == 2
    assert "some of 0, 1, 2, 3" in capsys.readouterr().err
