"""Batches made ahead: the loader process gives the thread's rows, and neither hangs nor outlives its trainer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest

from electra_ds.data.config import DataConfig
from electra_ds.data.loader import Portion, RowSource, StepRows, open_shards
from electra_ds.data.prefetch import IGNORED_SIGNALS, Job, LoaderProcess, Prefetcher
from electra_ds.data.shards import ShardSet
from electra_ds.errors import DataError, UserError
from tests.data.sets import make_set
from tests.data.test_loader import damage, same

PORTION = Portion(first_step=0, first_row=0, global_batch=12, rank=1, world_size=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("set") / "set", blocks=(8, 8))


def job_of(folder, begin: int = 0, **options) -> Job:
    return Job(DataConfig(path=str(folder), **options), "train", 32, 5, PORTION, begin)


@pytest.fixture
def started(folder):
    """Starts loader processes, and ends them."""
    processes = []

    def start(path=folder, **options) -> LoaderProcess:
        processes.append(LoaderProcess(job_of(path, **options), "uint16"))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def test_the_process_gives_the_rows_of_the_thread_from_any_step_on(folder, started):
    job = job_of(folder)
    rows_of = StepRows(RowSource(ShardSet(folder), job.config, job.length, job.seed), PORTION)
    for begin in (0, 7):
        process = started(begin=begin)
        for step in range(begin, begin + 6):
            assert same(process(step), rows_of(step))
        assert process.counters()["bytes_read"] > 0


def test_steps_out_of_order_are_refused(started):
    with pytest.raises(ValueError, match="step 4: the loader process makes step 0 next"):
        started()(4)


@pytest.mark.parametrize("early", [True, False])
def test_signals_meant_for_the_trainer_do_not_touch_the_process(started, early):
    process = started()
    if not early:
        process(0)
    for number in IGNORED_SIGNALS:  # early: it has hardly begun to run
        os.kill(process.pid, number)
    for step in range(int(not early), 200):
        process(step)
    assert is_alive(process.pid)


def test_what_the_process_meets_is_raised_in_the_trainer(started, tmp_path):
    folder = make_set(tmp_path / "set", blocks=(8, 8))
    where = damage(folder, 3)
    process = started(folder)
    with pytest.raises(DataError, match=where):
        for step in range(1000):
            process(step)


def test_a_set_that_cannot_be_opened_is_raised_too(started, tmp_path):
    with pytest.raises(DataError, match=r"no manifest\.json"):
        started(tmp_path)(0)


def test_a_set_that_was_replaced_meanwhile_is_refused(folder, tmp_path):
    path = make_set(tmp_path / "set", blocks=(8, 8), tokens=300)
    before = ShardSet(folder).manifest.fingerprint
    process = LoaderProcess(replace(job_of(path), fingerprint=before), "uint16")
    with pytest.raises(DataError, match=f"replaced while the run goes on .fingerprint {before[:12]}"):
        process(0)
    process.close()
    assert len(open_shards(job_of(folder).config, fingerprint=before)) == 16


@pytest.mark.parametrize("early", [True, False])
def test_a_killed_process_is_an_error_and_no_hang(started, early):
    process = started()
    batches = Prefetcher(process, 0, 2)
    if not early:
        next(batches)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(
        UserError, match=r"loader process \d+ was killed by SIGKILL .*goes on from the newest checkpoint"
    ):
        for _ in range(1000):
            next(batches)
    process.close()
    batches.close()


def test_closing_ends_the_process_while_it_waits_for_the_pipe(started):
    process = started()
    process(0)
    begun = time.monotonic()
    process.close()
    assert not is_alive(process.pid)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_process_ends_when_its_trainer_is_killed(folder, number):
    trainer = f"""
        import sys, time
        from tests.data.test_prefetch import job_of
        from electra_ds.data.prefetch import LoaderProcess
        process = LoaderProcess(job_of({str(folder)!r}), "uint16")
        process(0)
        print(process.pid, flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(trainer)], stdout=subprocess.PIPE, text=True
    ) as running:
        pid = int(running.stdout.readline())
        assert is_alive(pid)
        running.send_signal(number)
        running.wait()
        assert wait_until_gone(pid)


def test_the_process_loads_no_torch():
    code = "import sys, electra_ds.data.worker; sys.exit('torch' in sys.modules or 'deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_error_in_the_thread_is_raised_where_the_batch_is_taken():
    def make(step: int) -> np.ndarray:
        if step == 3:
            raise ValueError("three")
        return np.arange(step)

    batches = Prefetcher(make, 1, 2)
    assert [len(next(batches)) for _ in range(2)] == [1, 2]
    with pytest.raises(ValueError, match="three"):
        next(batches)
    batches.close()
