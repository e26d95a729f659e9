"""`bench plan` runs real ranks, and the plan of them holds."""

import json

import pytest

from electra_ds.cli import main


@pytest.mark.ranks
def test_the_plan_is_within_two_percent_of_real_steps(tmp_path, capsys):
    """Bytes of live tensors and of collectives are the same on every machine: no time is in it."""
    assert main(["bench", "plan", "--short", f"--output={tmp_path}"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "plan.md"), str(tmp_path / "plan.json")]
    found = json.loads((tmp_path / "plan.json").read_text("utf-8"))["results"]["jobs"]
    assert {(job["job"]["ranks"], job["job"]["stage"]) for job in found} == {(1, 1), (1, 3), (2, 1), (2, 3)}
    for job in found:
        assert job["planned"]["peak"] == pytest.approx(job["measured"]["peak"], rel=0.02), job["job"]
        assert job["planned"]["between"] == pytest.approx(job["measured"]["between"], rel=0.02), job["job"]
        if job["job"]["ranks"] > 1:
            for kind, size in job["collectives"].items():
                assert job["planned"]["collectives"][kind] == pytest.approx(size, rel=0.01), (job["job"], kind)
    page = (tmp_path / "plan.md").read_text("utf-8")
    for wanted in (
        "# The plan",
        "## Memory of a rank",
        "## Bytes on the wire in a step",
        "## What was found",
        "## On what",
    ):
        assert wanted in page
    assert (tmp_path / "plan-memory.svg").read_text("utf-8").startswith("<?xml")


def test_impossible_settings_are_refused(capsys):
    assert main(["bench", "plan", "--stages=[4]"]) == 2
    assert "some of 0, 1, 2, 3" in capsys.readouterr().err
