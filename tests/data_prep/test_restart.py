"""Killed anywhere, a preparation goes on where it was, to the bytes of an undisturbed run."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time

import pytest

from electra_ds.data.format import read_manifest
from tests.conftest import environment
from tests.data_prep.conftest import SMALL_PIECES, contents

FINE = str(SMALL_PIECES)


def run(command: list[str], **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment(PIECE_BYTES=FINE, **extra),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("rename", [1, 2, 5, 9, 14, 20, 27, 36])
def test_killed_at_a_rename(rename, when, inputs, undisturbed, prep_command, tmp_path):
    """A process that ends between a file's last byte and its name, or right after."""
    output = tmp_path / "set"
    command = prep_command(inputs=inputs, output=output)
    done = run(command, KILL_AT_RENAME=str(rename), KILL_WHEN=when)
    assert done.returncode == -signal.SIGKILL, done.stdout
    done = run(command)
    assert done.returncode == 0, done.stdout
    assert contents(output) == contents(undisturbed)


@pytest.mark.parametrize("ranks", [1, 3])
def test_killed_many_times_at_random_moments(ranks, inputs, undisturbed, prep_command, tmp_path):
    """All processes of the job are killed, again and again, until one life reaches the end."""
    output = tmp_path / "set"
    command = prep_command(ranks, inputs=inputs, output=output, workers=2 if ranks == 1 else 1)
    chance, killed, patience = random.Random(ranks), 0, 0.6
    while True:
        process = subprocess.Popen(
            command,
            env=environment(PIECE_BYTES=FINE),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            status = process.wait(chance.uniform(0.3, patience))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed, patience = killed + 1, patience * 1.15
            wait_for_the_lock(output)
            continue
        assert status == 0
        break
    assert killed >= 3
    assert contents(output) == contents(undisturbed)


def wait_for_the_lock(output) -> None:
    """Ranks that a launcher started in sessions of their own may outlive it by a moment."""
    for _ in range(100):
        alive = subprocess.run(["pgrep", "-f", str(output)], capture_output=True, text=True, check=False).stdout.split()
        if not alive:
            return
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        time.sleep(0.05)


def test_one_rank_killed_ends_the_job_and_a_rerun_goes_on(inputs, undisturbed, prep_command, tmp_path):
    output = tmp_path / "set"
    command = prep_command(2, inputs=inputs, output=output, workers=1)
    done = run(command, KILL_AT_RENAME="4", KILL_WHEN="after")
    assert done.returncode != 0
    wait_for_the_lock(output)
    before = len(list(output.glob(".prep/parts/*/*.text")))
    assert before > 0
    done = run(command)
    assert done.returncode == 0, done.stdout
    assert "parts kept from before" in done.stdout
    assert contents(output) == contents(undisturbed)


def test_a_rerun_on_other_ranks_and_workers_goes_on(inputs, undisturbed, prep_command, tmp_path):
    output = tmp_path / "set"
    run(prep_command(inputs=inputs, output=output, workers=1), KILL_AT_RENAME="7", KILL_WHEN="after")
    run(prep_command(2, inputs=inputs, output=output, workers=1), KILL_AT_RENAME="3", KILL_WHEN="before")
    wait_for_the_lock(output)
    done = run(prep_command(inputs=inputs, output=output, workers=2))
    assert done.returncode == 0, done.stdout
    assert "parts kept from before" in done.stdout
    assert contents(output) == contents(undisturbed)


def test_workers_end_when_the_main_process_is_killed(inputs, prep_command, tmp_path):
    output = tmp_path / "set"
    command = prep_command(inputs=inputs, output=output, workers=2)
    process = subprocess.Popen(
        command,
        env=environment(PIECE_BYTES="200"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not list(output.glob(".prep/parts/*/*.text")):
        time.sleep(0.001)
    process.kill()
    process.wait()
    for _ in range(1000):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("workers outlived the main process")


def test_a_second_preparation_into_the_same_folder_is_refused(inputs, undisturbed, prep_command, tmp_path):
    output = tmp_path / "set"
    command = prep_command(inputs=inputs, output=output, workers=1)
    first = subprocess.Popen(command, env=environment(PIECE_BYTES="300"), stdout=subprocess.DEVNULL)
    while first.poll() is None and not list(output.glob(".prep/parts/*/*.text")):
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)  # it holds the folder for as long as this takes
    second = run(command)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert "another preparation is writing" in second.stdout
    assert first.wait(120) == 0
    assert read_manifest(output).statistics["documents_read"] == read_manifest(undisturbed).statistics["documents_read"]


def test_a_clock_that_goes_backwards_changes_nothing(inputs, undisturbed, prep_command, tmp_path):
    output = tmp_path / "set"
    command = prep_command(inputs=inputs, output=output)
    run(command, KILL_AT_RENAME="9", KILL_WHEN="after")
    for path in output.rglob("*"):
        os.utime(path, (4e9, 4e9))  # as if written in the year 2096
    done = run(command)
    assert done.returncode == 0, done.stdout
    assert contents(output) == contents(undisturbed)
