"""Copied at once, written later: what changes after `save` does not reach the file."""

from __future__ import annotations

import errno
import hashlib
import os
import threading

import pytest
import torch

from electra_ds.training import writer as writers
from electra_ds.training.writer import BackgroundWriter


def write_file(writer, content, path):
    writer.create(None)
    writer.save(content, str(path))
    writer.start()
    writer.join(30)


def test_the_copy_is_what_was_there_when_save_was_called(tmp_path):
    writer, gate = BackgroundWriter(copies=True), threading.Event()
    weights = torch.arange(1000.0)
    nested = {"module": {"a": weights, "b": [weights[10:20], (1, "text")]}, "step": 3}
    write_all = writer._write_all
    writer._write_all = lambda: (gate.wait(30), write_all())
    writer.create(None)
    writer.save(nested, str(tmp_path / "file.pt"))
    writer.start()
    assert writer.busy
    weights.zero_()  # the next step
    gate.set()
    writer.join(30)
    assert not writer.busy and writer.error is None
    loaded = writer.load(str(tmp_path / "file.pt"))
    assert torch.equal(loaded["module"]["a"], torch.arange(1000.0))
    assert torch.equal(loaded["module"]["b"][0], torch.arange(10.0, 20.0))
    assert loaded["module"]["b"][1] == (1, "text") and loaded["step"] == 3


@pytest.mark.parametrize("copies", [True, False])
def test_tensors_that_share_memory_are_written_once_and_share_it_again(copies, tmp_path):
    flat = torch.randn(100_000)
    content = {"flat": flat, "view": flat.view(100, 1000)[3:5], "again": flat, "empty": torch.empty(0)}
    writer = BackgroundWriter(copies)
    write_file(writer, content, tmp_path / "file.pt")
    size = (tmp_path / "file.pt").stat().st_size
    assert 400_000 <= size < 410_000
    loaded = writer.load(str(tmp_path / "file.pt"))
    for name, tensor in content.items():
        assert torch.equal(loaded[name], tensor)
    assert loaded["view"].untyped_storage().data_ptr() == loaded["flat"].untyped_storage().data_ptr()
    data = (tmp_path / "file.pt").read_bytes()
    assert writer.files == {"file.pt": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    assert writer.bytes_written == len(data)


def test_memory_of_the_copies_is_used_again(tmp_path):
    writer = BackgroundWriter(copies=True)
    weights = torch.randn(1000)
    write_file(writer, {"a": weights, "b": weights.bfloat16()}, tmp_path / "one.pt")
    held = {storage.data_ptr() for storage in writer._host.values()}
    weights += 1
    write_file(writer, {"a": weights, "b": weights.bfloat16()}, tmp_path / "one.pt")
    assert {storage.data_ptr() for storage in writer._host.values()} == held
    assert torch.equal(writer.load(str(tmp_path / "one.pt"))["a"], weights)


@pytest.mark.parametrize("copies", [True, False])
def test_an_error_is_kept_until_it_is_asked_for(copies, tmp_path):
    writer = BackgroundWriter(copies)
    write_file(writer, {"a": torch.ones(10)}, tmp_path / "missing" / "file.pt")
    assert "cannot write" in writer.error and "MB free" in writer.error
    assert writer.files == {}
    write_file(writer, {"a": torch.ones(10)}, tmp_path / "file.pt")
    assert writer.error is None and list(writer.files) == ["file.pt"]


@pytest.mark.parametrize(("number", "may_pass"), [(errno.ENOSPC, False), (errno.EIO, True), (errno.ESTALE, True)])
def test_a_full_disk_is_told_from_errors_that_may_pass(number, may_pass, tmp_path, monkeypatch):
    """The file system's own error, not what torch's archive makes of it."""

    def write(self, data):
        self.error = OSError(number, os.strerror(number))
        raise self.error

    monkeypatch.setattr(writers._HashingFile, "write", write)
    writer = BackgroundWriter(copies=True)
    write_file(writer, {"a": torch.ones(1000)}, tmp_path / "file.pt")
    assert os.strerror(number) in writer.error and "MB free" in writer.error
    assert writer.may_pass is may_pass
    assert writer.files == {} and writer.expected == {"file.pt"}


def test_a_thread_that_dies_of_anything_is_an_error(tmp_path):
    writer = BackgroundWriter(copies=True)
    write_file(writer, {"a": threading.Lock().__enter__}, tmp_path / "file.pt")
    assert "cannot write" in writer.error
    assert writer.files == {} and writer.may_pass
