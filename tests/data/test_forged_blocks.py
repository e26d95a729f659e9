"""Blocks of which every checksum fits, and nothing else: a clean error, never another block."""

from __future__ import annotations

import struct
import tarfile
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_ds.data.format import decode_block
from electra_ds.data.format.block import MEMBERS, encode_block
from electra_ds.errors import DataError
from tests.data.sets import make_block, same


def seal(header: bytes) -> bytes:
    """Set the checksum of a tar header."""
    blank = header[:148] + b" " * 8 + header[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


HEADER_FIELDS = {
    (0, 100): [
        b"../../etc/passwd",
        b"/etc/passwd",
        b"a/b.tokens.npy",
        b"",
        b"\xff\xfe",
        b"other.tokens.npy",
        b"x" * 100,
    ],
    (124, 136): [
        b"00000000000\0",
        b"77777777777\0",
        b"-0000000001\0",
        b"\xff" * 12,
        b"\x80" + b"\0" * 10 + b"\x10",
        b" 1",
    ],
    (156, 157): [b"1", b"2", b"3", b"5", b"6", b"7", b"x", b"g", b"L", b"S", b"\0"],
    (157, 257): [b"/etc/passwd"],
    (257, 265): [b"ustar  \0", b"\0" * 8],
    (345, 500): [b"..", b"/"],
}


@given(st.data())
@settings(max_examples=300)
def test_a_block_with_forged_tar_headers_is_refused_or_reads_right(data):
    block = make_block(0, 60)
    encoded = encode_block("train-000000-00000", block)
    places = [n for n in range(0, len(encoded), 512) if encoded[n + 257 : n + 262] == b"ustar"]
    place = data.draw(st.sampled_from(places))
    (begin, end), values = data.draw(st.sampled_from(sorted(HEADER_FIELDS.items())))
    value = data.draw(st.one_of(st.sampled_from(values), st.binary(max_size=end - begin)))
    header = encoded[place : place + 512]
    header = seal(header[:begin] + value.ljust(end - begin, b"\0") + header[end:])
    forged = encoded[:place] + header + encoded[place + 512 :]
    try:
        found = decode_block(forged, "x", "train-000000-00000")
    except DataError as error:
        assert str(error).startswith("x: ")
    else:
        assert same(found, block)


def test_a_tar_whose_members_are_exchanged_or_doubled_is_refused():
    encoded = encode_block("key", make_block(0, 60))
    places = [n for n in range(0, len(encoded), 512) if encoded[n + 257 : n + 262] == b"ustar"] + [len(encoded)]
    members = [encoded[begin:end] for begin, end in pairwise(places)]
    for order in ((0, 0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 2), (0, 1, 2, 3, 3), (0, 1, 2, 2, 3)):
        with pytest.raises(DataError):
            decode_block(b"".join(members[number] for number in order))
    with pytest.raises(DataError, match=r"'train-000000-00001\.tokens\.npy' was expected"):
        decode_block(encoded, "x", "train-000000-00001")


def member(ending: str, payload: bytes) -> bytes:
    info = tarfile.TarInfo(f"key.{ending}")
    info.size = len(payload)
    return info.tobuf(tarfile.USTAR_FORMAT) + payload + bytes(-len(payload) % 512)


def npy(header: str, payload: bytes, version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + payload


def raw_block(**payloads: bytes) -> bytes:
    block = make_block(0, 60)
    usual = {
        "tokens.npy": npy("{'descr': '<u2', 'fortran_order': False, 'shape': (60,), }", block.tokens.tobytes()),
        "docs.npy": npy("{'descr': '<u4', 'fortran_order': False, 'shape': (1,), }", bytes(4)),
        "sentences.npy": npy("{'descr': '<u4', 'fortran_order': False, 'shape': (1,), }", bytes(4)),
        "json": b"{}",
    }
    return b"".join(member(ending, payloads.get(ending.split(".")[0], usual[ending])) for ending in MEMBERS)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<u2', 'fortran_order': True, 'shape': (60,), }",
        "{'descr': '>u2', 'fortran_order': False, 'shape': (60,), }",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (60,), }",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (60,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (60,), }",
        "{'descr': '<u4', 'fortran_order': False, 'shape': (60,), }",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (60, 1), }",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (), }",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (61,), }",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (999999999999,), }",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (__import__('os').abort(),), }",
        "{'descr': [('a', '<u2')], 'fortran_order': False, 'shape': (60,), }",
    ],
)
def test_other_arrays_than_a_block_has_are_refused(header):
    with pytest.raises(DataError, match=r"cannot decode its tokens\.npy"):
        decode_block(raw_block(tokens=npy(header, make_block(0, 60).tokens.tobytes())))


@pytest.mark.parametrize(
    ("name", "starts"),
    [
        ("docs", [0, 0]),
        ("docs", [1]),
        ("docs", [0, 60]),
        ("docs", [0, 2**32 - 1]),
        ("docs", [0, 5]),
        ("sentences", [0, 9, 3]),
    ],
)
def test_starts_that_are_none_are_refused(name, starts):
    header = f"{{'descr': '<u4', 'fortran_order': False, 'shape': ({len(starts)},), }}"
    with pytest.raises(DataError, match=r"^x: block: "):
        decode_block(raw_block(**{name: npy(header, np.array(starts, "<u4").tobytes())}), "x")


@pytest.mark.parametrize(
    "metadata",
    [
        b"[]",
        b"1",
        b"nothing",
        b"{" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"\xff{}",
        b'{"labels": 3}',
        b'{"labels": [[1]]}',
        b'{"runs": [[0, 0]]}',
        b'{"labels": [["a"]], "runs": [[0, -1]]}',
        b'{"labels": [["a"]], "runs": [[1, 0]]}',
        b'{"labels": [["a"]], "runs": [[0, 0], [0, 0]]}',
        b'{"labels": [["a"]], "runs": [[0.5, 0]]}',
        b'{"labels": [["a"]], "runs": [[0, true]]}',
    ],
)
def test_metadata_that_is_none_is_refused(metadata):
    with pytest.raises(DataError, match=r"^x: (cannot decode its json|its metadata) "):
        decode_block(raw_block(json=metadata), "x")
