"""`bench quality` trains both sides and says how far apart they are."""

import json

import numpy as np
import pytest

from electra_ds.bench.command import main
from electra_ds.bench.quality import LOSSES, compare


def test_the_short_mode_trains_both_sides_and_draws_them(tmp_path):
    assert main(["quality", "--short", f"--output={tmp_path}", "--options=[--kernels.compile=false]"], "bench") == 0
    page, results = (
        (tmp_path / "quality.md").read_text(),
        json.loads((tmp_path / "quality.json").read_text())["results"],
    )
    assert [len(results["runs"][side]) for side in ("reference", "fast")] == [1, 1]
    # Nothing differs between these sides on a CPU: the curves are the same numbers.
    for loss in LOSSES:
        assert results["compared"][loss]["apart_largest"] == 0
        for ending in ("", "-apart"):
            name = f"quality-{loss.replace('_', '-')}{ending}.svg"
            assert f"({name})" in page and "<svg" in (tmp_path / name).read_text()


def test_sides_are_compared_with_what_seeds_differ_by():
    chance = np.random.default_rng(0)

    def runs(shift):
        return [
            {"curves": {loss: (shift + 0.1 * chance.standard_normal(200)).tolist() for loss in LOSSES}}
            for _ in range(6)
        ]

    alike, apart = (compare({"reference": runs(0), "fast": runs(shift)})["compared"] for shift in (0, 0.5))
    for loss in LOSSES:
        assert alike[loss]["seeds_mean"] == pytest.approx(0.1, rel=0.1)
        assert alike[loss]["within_two_errors"] > 0.85
        assert apart[loss]["within_two_errors"] < 0.05
        assert apart[loss]["apart_mean"] == pytest.approx(0.5, rel=0.1)
