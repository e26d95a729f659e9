"""One life at a time in a run folder, and a dead one's place is taken."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from dataclasses import asdict, replace

import pytest

from electra_ds.errors import UserError
from electra_ds.training import lock as locks
from electra_ds.training.lock import LOCK_NAME, RunLock


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.5)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def leave(folder, **changes):
    """What another life left, or still holds."""
    holder = replace(RunLock(folder)._me, key="other", **changes)
    (folder / LOCK_NAME).write_text(json.dumps(asdict(holder)))
    return holder


def finished_process():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_taken_and_given_back(tmp_path):
    lock = RunLock(tmp_path)
    lock.take()
    lock.check()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]
    lock.release()
    time.sleep(0.5)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_lives_on_this_host_is_named(tmp_path):
    RunLock(tmp_path).take()
    with pytest.raises(UserError, match=rf"process {os.getpid()} on {socket.gethostname()}.*STOP"):
        RunLock(tmp_path).take()


def test_a_dead_process_of_this_host_has_no_claim(tmp_path):
    leave(tmp_path, pid=finished_process())
    begun = time.monotonic()
    RunLock(tmp_path).take()
    assert time.monotonic() - begun < locks.STALE_SECONDS


def test_a_number_that_now_belongs_to_another_process_is_no_holder(tmp_path):
    leave(tmp_path, started=1.0)
    RunLock(tmp_path).take()


def test_a_process_of_another_boot_is_gone(tmp_path):
    leave(tmp_path, boot="before")
    RunLock(tmp_path).take()


def test_a_holder_elsewhere_that_beats_is_alive(tmp_path):
    holder = leave(tmp_path, host="elsewhere", node="n7")
    ends = threading.Event()

    def beat():
        count = 0
        while not ends.wait(0.1):
            count += 1
            partial = tmp_path / "beat"
            partial.write_text(json.dumps({**asdict(holder), "beat": count}))
            os.replace(partial, tmp_path / LOCK_NAME)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="rank 0 on n7"):
            RunLock(tmp_path).take()
    finally:
        ends.set()
        thread.join()


def test_a_holder_elsewhere_that_does_not_beat_is_replaced_after_a_while(tmp_path):
    leave(tmp_path, host="elsewhere")
    begun = time.monotonic()
    lock = RunLock(tmp_path)
    lock.take()
    assert time.monotonic() - begun >= locks.STALE_SECONDS
    lock.check()


def test_an_earlier_life_of_the_same_job_is_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    leave(tmp_path, host="elsewhere", restart="0", job="77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    begun = time.monotonic()
    RunLock(tmp_path).take()
    assert time.monotonic() - begun < locks.STALE_SECONDS


def test_a_life_whose_place_was_taken_finds_out_and_takes_nothing_back(tmp_path):
    mine = RunLock(tmp_path)
    mine.take()
    other = leave(tmp_path, job="99", node="n3")
    with pytest.raises(UserError, match="taken over by job 99 on n3"):
        mine.check()
    time.sleep(0.6)  # its beat must not claim the folder again, nor its end free it
    mine.release()
    assert json.loads((tmp_path / LOCK_NAME).read_text())["key"] == other.key


def test_a_lock_that_cannot_be_read_is_nobodys(tmp_path):
    (tmp_path / LOCK_NAME).write_text("{")
    RunLock(tmp_path).take()


def test_of_many_that_begin_at_once_one_gets_it(tmp_path):
    leave(tmp_path, pid=finished_process())
    got, refused = [], []

    def begin():
        lock = RunLock(tmp_path)
        try:
            lock.take()
            got.append(lock)
        except UserError:
            refused.append(lock)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
