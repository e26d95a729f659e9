"""Progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from tests.data_prep.conftest import options, prep


def test_a_terminal_shows_a_bar_with_its_rate(corpus, tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    command = [sys.executable, "-m", "electra_ds", *options(inputs=corpus, output=tmp_path / "set")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 1 << 16):
            shown += piece
    except OSError:  # the other end was closed
        pass
    os.close(ours)
    assert process.wait() == 0
    last = [line for line in shown.decode().replace("\r", "\n").split("\n") if line.startswith("tokenizing")][-1]
    assert "100%" in last and "B/s" in last


def test_a_log_gets_plain_lines_and_a_summary(corpus, tmp_path, capfd):
    assert prep(corpus, tmp_path / "set") == 0
    captured = capfd.readouterr()
    assert "\r" not in captured.err
    assert "training a wordpiece vocabulary of 400" in captured.err and "MB/s" in captured.err
    assert f"in {tmp_path / 'set'} (manifest " in captured.out and "dropped: none" in captured.out
