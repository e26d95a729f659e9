"""Masking of e-mail and IP addresses."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.clean.privacy import EMAIL, IPV4, IPV6, mask_emails, mask_ips


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to a.b+c@mail.example.co.uk, or not", f"write to {EMAIL}, or not"),
        ("<mailto:jane_doe@host.org>", f"<mailto:{EMAIL}>"),
        ("a@b.cc, a@b.cc; c@[192.168.0.1]", f"{EMAIL}, {EMAIL}; {EMAIL}"),
        ("The end is me@host.org.", f"The end is {EMAIL}."),
        ("'me@host.org'", f"'{EMAIL}'"),
        ("a@b@host.org", f"a@{EMAIL}"),
    ],
)
def test_emails(text: str, expected: str) -> None:
    assert mask_emails(text) == expected
    assert mask_emails(expected) == expected


@pytest.mark.parametrize(
    "text",
    ["@decorator", "user@localhost", "lodash@4.17.21", "a @ b.org", "x@-host.org", "@@", "a" * 65 + "@host.org", "R@"],
)
def test_no_emails(text: str) -> None:
    if text.startswith("aaa"):  # the longest local part allowed has 64 characters
        assert mask_emails(text) in (text, "a" + EMAIL)
    else:
        assert mask_emails(text) == text


@given(st.emails())
def test_every_email_is_masked(address: str) -> None:
    local, _, domain = address.rpartition("@")
    last = domain.rpartition(".")[2]
    if local[0].isalnum() and last[0].isalpha():
        assert mask_emails(f"to {address} now") == f"to {EMAIL} now"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from 8.8.8.8:53 to 9.9.9.9.", f"from {IPV4}:53 to {IPV4}."),
        ("http://1.1.1.1/x", f"http://{IPV4}/x"),
        ("[2606:4700:4700::1111]:443 and 2a00:1450:4001:81b::200e", f"[{IPV6}]:443 and {IPV6}"),
    ],
)
def test_ips(text: str, expected: str) -> None:
    assert mask_ips(text) == expected
    assert mask_ips(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1 10.1.2.3 192.168.0.1 172.16.0.9 192.0.2.7 255.255.255.255 0.0.0.0",
        "version 1.2.3 or 1.2.3.4.5 or 8.8.8.888 or 08.8.8.8",
        "section 18.8.8.8x, a8.8.8.8, std::fmt, ::1, fe80::1, 2001:db8::5, 12:30:45, 2023:10:05",
    ],
)
def test_no_public_ips(text: str) -> None:
    assert mask_ips(text) == text


@given(st.ip_addresses(v=4))
def test_public_is_what_the_standard_library_says(address: ipaddress.IPv4Address) -> None:
    assert mask_ips(f"at {address},") == f"at {IPV4 if address.is_global else address},"


@given(st.lists(st.sampled_from(["a@b.org", "8.8.8.8", "text", "c@d.com"])))
def test_the_result_depends_on_the_text_alone(words: list[str]) -> None:
    first = [mask_ips(mask_emails(word)) for word in words]
    assert first == [mask_ips(mask_emails(word)) for word in reversed(words)][::-1]
    assert mask_ips(mask_emails(" ".join(words))) == " ".join(first)
