"""Verdicts from made-up facts: who is to blame, and when nobody is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from electra_ds.doctor.disks import Space
from electra_ds.doctor.facts import Gpu
from electra_ds.doctor.findings import BAD, WARNING, bad_nodes, exit_status, worst
from electra_ds.doctor.judging import judge
from electra_ds.doctor.judging_disks import judge_output, judge_space
from electra_ds.doctor.judging_machines import judge_clock, judge_cores, judge_devices, judge_limits
from electra_ds.doctor.network import Exchange
from electra_ds.doctor.nodes import expand_names, expand_tasks, name_nodes, odd_nodes
from electra_ds.doctor.preflight import write_preflight
from electra_ds.doctor.report import report
from tests.doctor.made_up import VERSIONS, change_facts, change_sight, gathered, lose

HERE = Gpu(name="H100", memory=80 * 2**30, bf16=True, uuid="a")


def only(findings):
    found = list(findings)
    assert len(found) == 1, found
    return found[0]


def not_good(got):
    return [finding for finding in judge(got) if finding.verdict != "good"]


def test_all_well():
    findings = judge(gathered())
    assert not_good(gathered()) == []
    assert exit_status(findings, preflight=True) == 0
    text = report(gathered(), findings)
    assert "4 nodes x 2 ranks by srun, the first on n1" in text
    assert text.count("torch 2.13.0") == 1, "identical facts are told once"


def test_a_node_with_another_torch_is_to_blame():
    got = gathered()
    change_facts(got, "n3", versions={**VERSIONS, "torch": "2.12.0"})
    finding = only(not_good(got))
    assert "n1, n2, n4: 2.13.0; n3: 2.12.0" in finding.value
    assert bad_nodes([finding]) == {"n3": "torch 2.12.0, elsewhere 2.13.0"}
    assert exit_status([finding], preflight=True) == 79
    assert exit_status([finding], preflight=False) == 2


def test_of_two_nodes_neither_is_to_blame():
    got = gathered(nodes=2)
    change_facts(got, "n2", versions={**VERSIONS, "source": "123456123456"})
    finding = only(not_good(got))
    assert "source of electra_ds differs" in finding.value
    assert bad_nodes([finding]) == {}
    assert exit_status([finding], preflight=True) == 2


def test_another_python_is_a_warning():
    got = gathered()
    change_facts(got, "n1", versions={**VERSIONS, "python": "3.11.9"})
    assert only(not_good(got)).verdict == WARNING


def test_missing_ranks_and_their_node_are_named():
    got = gathered()
    lose(got, 4, 5)
    first, network = not_good(got)
    assert "2 ranks of 8 did not come: 4, 5, of n3" in first.value
    assert first.nodes == {"n3": "2 ranks did not reach the first rank at n1:20001"}
    assert network.verdict == WARNING and "not tried" in network.value
    assert "6 of 8 ranks came, from 3 nodes" in report(got, judge(got))


def test_one_of_two_ranks_missing_whatever_the_distribution():
    got = gathered()
    lose(got, 5)
    assert list(bad_nodes(judge(got))) == ["n3"]


def test_without_slurm_the_node_of_a_missing_rank_follows_from_its_neighbours():
    got = gathered()
    got.expected, got.launcher = {}, "torchrun"
    lose(got, 5)
    assert list(bad_nodes(judge(got))) == ["n3"]
    lose(got, 4)
    assert bad_nodes(judge(got)) == {}
    assert exit_status(judge(got), preflight=True) == 2


def test_if_nobody_comes_the_first_node_is_to_blame():
    got = gathered()
    lose(got, *range(2, 8))
    assert bad_nodes(judge(got)) == {"n1": "no other node reached its address n1:20001"}


def test_a_rank_that_stops_answering_is_named_with_what_it_did():
    got = gathered()
    got.silent = {3: "reading the manifest of /shards"}
    got.not_exchanged = "not tried, because not all ranks answer"
    assert bad_nodes(judge(got)) == {"n2": "rank 3 stopped answering while reading the manifest of /shards"}


def test_a_clock_that_is_off():
    got = gathered()
    change_facts(got, "n2", ahead=-3.5)
    finding = only(judge_clock(got))
    assert finding.verdict == WARNING
    assert "n2 is 3.5 s behind n1" in finding.value
    change_facts(got, "n2", ahead=-3.5, round_trip=4.0)
    assert only(judge_clock(got)).verdict == "good", "the difference is not known any better"


def test_data_that_differ_on_one_node():
    got = gathered()
    change_sight(got, "n4", fingerprint="0" * 64)
    finding = only(not_good(got))
    assert finding.check == "data" and list(finding.nodes) == ["n4"]


def test_data_missing_on_one_node_and_everywhere(tmp_path, monkeypatch):
    got = gathered()
    change_sight(got, "n2", fingerprint=None, data_error="/shards: no manifest.json")
    finding = only(not_good(got))
    assert finding.nodes == {"n2": "data /shards cannot be read: /shards: no manifest.json"}
    monkeypatch.setenv("ELECTRA_DS_LIFE", str(tmp_path))
    write_preflight(got, [finding])
    expected = {"good_nodes": ["n1", "n3", "n4"], "bad_nodes": dict(finding.nodes)}
    assert json.loads((tmp_path / "preflight.json").read_text()) == expected
    (tmp_path / "preflight.json").unlink()
    for node in ("n1", "n3", "n4"):
        change_sight(got, node, fingerprint=None, data_error="/shards: no manifest.json")
    finding = only(not_good(got))
    assert finding.nodes == {} and exit_status([finding], preflight=True) == 2
    write_preflight(got, [finding])
    assert not list(tmp_path.iterdir()), "nothing that other nodes would mend"


@pytest.mark.parametrize("away", ["n1", "n3"])
def test_an_output_folder_that_one_node_does_not_share(away):
    got = gathered()
    if away == "n1":  # the writer itself
        for node in ("n2", "n3", "n4"):
            change_sight(got, node, seen=False, sees=(2, 4, 6))
        change_sight(got, "n1", sees=(0,), file_system="ext4 /dev/sda1")
    else:
        change_sight(got, "n1", sees=(0, 2, 6))
        change_sight(got, "n3", seen=False, sees=(4,), file_system="ext4 /dev/sda1")
    finding = only(not_good(got))
    assert list(finding.nodes) == [away]
    assert f"output /runs/base on node {away} is not the folder that {'n2' if away == 'n1' else 'n1'} sees" in (
        finding.value
    )
    assert exit_status([finding], preflight=True) == 79


def test_an_output_folder_that_no_node_shares_is_nobodys_fault():
    got = gathered()
    change_sight(got, "n1", sees=(0,))
    for rank, node in ((2, "n2"), (4, "n3"), (6, "n4")):
        change_sight(got, node, seen=False, sees=(rank,))
    finding = only(not_good(got))
    assert "nodes n2, n3, n4 is not the folder that n1 sees" in finding.value
    assert exit_status([finding], preflight=True) == 2


def test_an_output_folder_that_cannot_be_written():
    got = gathered()
    change_sight(got, "n2", wrote=False, error="Read-only file system")
    assert only(judge_output(got)).nodes == {"n2": "output /runs/base cannot be written: Read-only file system"}
    for node in ("n1", "n3", "n4"):
        change_sight(got, node, seen=False, wrote=False, error="Permission denied")
    finding = only(judge_output(got))
    assert finding.nodes == {} and "n1: output /runs/base cannot be written: Permission denied" in finding.value


def test_little_space():
    got = gathered()
    tight = Space(path="/tmp", total=10**12, free=10**9, speed=1e6)
    change_sight(got, "n2", spaces={"temporary": tight})
    assert [finding.verdict for finding in judge_space(got)] == [WARNING, WARNING], "little, and slow"
    change_sight(got, "n2", spaces={"temporary": replace(tight, free=10**6)})
    bad = next(iter(judge_space(got)))
    assert bad.verdict == BAD and bad.nodes == {"n2": "temporary folder /tmp: 1 MB free"}


def test_gpus():
    got = gathered(nodes=3, per_node=2)
    other = replace(HERE, uuid="b")
    for node in ("n1", "n2", "n3"):
        change_facts(got, node, gpus=(HERE, other))
    got.facts = {rank: replace(facts, device=facts.local_rank) for rank, facts in got.facts.items()}
    assert only(judge_devices(got)).value == "2 x H100, 80 GiB, bf16"
    change_facts(got, "n2", device=0)
    assert "more ranks than GPUs: n2: 2 ranks, 2 GPUs" in next(iter(judge_devices(got))).value
    change_facts(got, "n3", gpus=(), device=None)
    blamed = [finding for finding in judge_devices(got) if finding.nodes]
    assert only(blamed).nodes == {"n3": "no GPU that torch can use"}


def test_the_driver_shows_gpus_that_torch_cannot_use():
    got = gathered()
    change_facts(got, "n1", gpu_files=8)
    assert "8 GPUs" in only(judge_devices(got)).value


def test_cores_and_limits():
    got = gathered()
    change_facts(got, "n2", cores=(0,))
    assert only(judge_cores(got)).value == "ranks share cores: n2: 1 core for 2 ranks"
    change_facts(got, "n2", cores=(0, 1), omp_threads="8", open_files=256)
    assert "OMP_NUM_THREADS=8" in only(judge_cores(got)).value
    assert "ulimit -n 1032" in only(judge_limits(got)).advice


def test_an_all_reduce_that_fails_blames_nobody_and_hides_nobody():
    got = gathered()
    got.exchanges[3] = Exchange(backend="gloo", error="RuntimeError: Connect timeout")
    finding = only(not_good(got))
    assert exit_status([finding], preflight=True) == 2
    change_facts(got, "n2", versions={**VERSIONS, "torch": "2.12.0"})
    assert exit_status(judge(got), preflight=True) == 79, "it may follow from what is wrong with n2"


def test_wrong_sums_are_bad():
    got = gathered()
    got.exchanges[3] = replace(got.exchanges[3], correct=False)
    assert "wrong sums on ranks 3" in only(not_good(got)).value


def test_nobody_answers_at_all():
    got = gathered()
    lose(got, *range(8))
    assert worst(judge(got)) == BAD
    assert "0 of 8 ranks came" in report(got, judge(got))


def test_names_of_nodes():
    assert expand_tasks("2(x3),1") == [2, 2, 2, 1]
    assert expand_names("gpu[08-10,12],login") == ["gpu08", "gpu09", "gpu10", "gpu12", "login"]
    assert name_nodes(["n10", "n9", "n1"]) == "n1, n9, n10"
    assert odd_nodes({"a": 1, "b": 1, "c": 2}) == (1, {"c": 2})
    assert odd_nodes({"a": 1, "b": 2}) == (None, {"a": 1, "b": 2})
    assert odd_nodes({"a": 1, "b": 1}) == (1, {})
