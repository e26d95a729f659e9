"""The doctor on four nodes of a real Slurm: what one of them lacks is found, and that node is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from electra_ds.lives import BAD_NODES, USER_ERROR
from tests.slurm.cluster import SEARCH_PATH, slurm_cluster

BIN = Path(sys.executable).parent


def can_mount() -> bool:
    """Whether a process may have mounts of its own: then a "node" can really lack a file system."""
    try:
        return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


own_mounts = pytest.mark.skipif(not can_mount(), reason="mounts of one's own need root (unshare -m)")


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster(nodes=4) as running:
        yield running


class Preflight:
    """The command on all four nodes, a step of its own, and what it leaves for the batch script."""

    def __init__(self, cluster, folder: Path, shards: Path) -> None:
        self.cluster, self.output, self.life, self.shards = cluster, folder / "run", folder / "life", shards
        self.output.mkdir()
        self.life.mkdir()

    def run(self, before: str = "", *options: str, per_node: int = 1) -> subprocess.CompletedProcess[str]:
        """Run it; `before` is done by each task first, among mounts of its own."""
        given = [f"--data.path={self.shards}", f"--output={self.output}", "--timeout=40", *options]
        command = ["electra-ds", "doctor", *given]
        if before:
            command = ["unshare", "-m", "sh", "-ec", f'{before}; exec "$@"', "sh", *command]
        return self.cluster.run(
            *("srun", "--nodes=4", f"--ntasks-per-node={per_node}", "--kill-on-bad-exit=1", *command),
            PATH=f"{BIN}:{SEARCH_PATH}",
            ELECTRA_DS_LIFE=str(self.life),
            OMP_NUM_THREADS="1",
        )

    def verdict(self) -> dict:
        return json.loads((self.life / "preflight.json").read_text("utf-8"))


@pytest.fixture
def preflight(cluster, tmp_path, tiny_shards):
    return Preflight(cluster, tmp_path, tiny_shards)


def on(node: str, action: str) -> str:
    return f'if [ "$SLURMD_NODENAME" = {node} ]; then {action}; fi'


def test_four_good_nodes(preflight):
    done = preflight.run(per_node=2)
    assert done.returncode == 0, done.stdout
    assert "4 nodes x 2 ranks by srun, the first on n1" in done.stdout
    assert "one folder, seen by all nodes" in done.stdout
    assert not list(preflight.life.iterdir())
    done = preflight.run("", "--preflight")
    assert done.returncode == 0, done.stdout
    said = [line for line in done.stdout.splitlines() if not line.startswith("srun: job")]
    assert len(said) == 1
    assert preflight.verdict() == {"good_nodes": ["n1", "n2", "n3", "n4"], "bad_nodes": {}}
    assert not list(preflight.output.iterdir())


@own_mounts
@pytest.mark.parametrize("node", ["n1", "n3"])
def test_an_output_folder_that_is_another_on_one_node(node, preflight):
    done = preflight.run(on(node, f"mount -t tmpfs none {preflight.output}"), "--preflight")
    assert done.returncode == BAD_NODES, done.stdout
    assert list(preflight.verdict()["bad_nodes"]) == [node]
    assert f"output {preflight.output} is not the folder that" in preflight.verdict()["bad_nodes"][node]
    assert len(preflight.verdict()["good_nodes"]) == 3
    assert not list(preflight.output.iterdir())


@own_mounts
def test_an_output_folder_that_each_node_has_for_itself(preflight):
    done = preflight.run(f"mount -t tmpfs none {preflight.output}", "--preflight")
    assert done.returncode == USER_ERROR, done.stdout
    assert "nodes n2, n3, n4 is not the folder that n1 sees" in " ".join(done.stdout.split())
    assert not list(preflight.life.iterdir()), "other nodes would not mend it"


@own_mounts
def test_data_that_one_node_lacks(preflight):
    done = preflight.run(on("n4", f"mount -t tmpfs none {preflight.shards}"), "--preflight")
    assert done.returncode == BAD_NODES, done.stdout
    assert list(preflight.verdict()["bad_nodes"]) == ["n4"]
    assert "no manifest.json" in preflight.verdict()["bad_nodes"]["n4"]


@own_mounts
def test_another_version_of_the_code_on_one_node(preflight):
    package = Path(__file__).resolve().parents[2] / "electra_ds"
    altered = preflight.life / "altered.py"
    altered.write_text((package / "errors.py").read_text("utf-8") + "# altered\n", "utf-8")
    done = preflight.run(on("n2", f"mount --bind {altered} {package}/errors.py"), "--preflight")
    assert done.returncode == BAD_NODES, done.stdout
    assert preflight.verdict()["bad_nodes"]["n2"].startswith("source of electra_ds ")


def test_a_rank_that_hangs_is_named_and_ends_with_the_step(preflight):
    stopped = 'if [ "$SLURM_PROCID" = 2 ]; then kill -STOP $$; fi; exec "$@"'
    done = preflight.cluster.run(
        *("srun", "--nodes=4", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "sh", "-c", stopped, "sh"),
        *("electra-ds", "doctor", "--preflight", "--timeout=40"),
        PATH=f"{BIN}:{SEARCH_PATH}",
        ELECTRA_DS_LIFE=str(preflight.life),
    )
    assert done.returncode != 0
    assert "1 rank of 4 did not come: 2, of n3" in done.stdout
    assert list(preflight.verdict()["bad_nodes"]) == ["n3"]


def test_a_first_node_whose_rank_does_not_start(preflight):
    done = preflight.cluster.run(
        *("srun", "--nodes=4", "--ntasks-per-node=1", "--kill-on-bad-exit=0"),
        *("sh", "-c", '[ "$SLURM_PROCID" != 0 ] || exit 1; exec "$@"', "sh"),
        *("electra-ds", "doctor", "--preflight", "--timeout=8"),
        PATH=f"{BIN}:{SEARCH_PATH}",
        ELECTRA_DS_LIFE=str(preflight.life),
    )
    assert done.returncode == BAD_NODES, done.stdout
    assert done.stdout.count("cannot reach the first rank") == 3
    assert not (preflight.life / "preflight.json").exists()
    assert len(os.listdir(preflight.life / "failures")) == 3
