"""Masking of e-mail and IP addresses.

The rules are those of FineWeb (Penedo et al. 2024, appendix): e-mail addresses, and IP addresses if they are public.
The code is not datatrove's `PIIFormatter`, whose e-mail pattern takes quadratic time on text such as ``a-a-a-...``,
whose IP pattern matches inside longer numbers, and whose replacements depend on what was replaced before.
"""

from __future__ import annotations

import ipaddress
import re

EMAIL = "email@example.com"
IPV4 = "192.0.2.1"
"""Of a range for documentation (RFC 5737)."""
IPV6 = "2001:db8::1"
"""Of a range for documentation (RFC 3849)."""

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LOCAL_LENGTH = 64
"""Longest part before the @ (RFC 5321, section 4.5.3.1.1); also what keeps the search linear."""
_LOCAL = re.compile(rf"[A-Za-z0-9_]{_ATOM}*+(?:\.{_ATOM}++)*+\Z")
_AT = re.compile(r"@(?=[A-Za-z0-9\[])")
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# The last label has a letter in front: lodash@4.17.21 is a version and no address.
_DOMAIN = re.compile(
    rf"(?:{_LABEL}\.)+[A-Za-z](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?"
    r"|\[(?:[0-9]{1,3}\.){3}[0-9]{1,3}\]"
)


def mask_emails(text: str) -> str:
    """Replace e-mail addresses (RFC 5322 dot-atoms at a host name or an address in brackets) by `EMAIL`."""
    if "@" not in text:
        return text
    at = _AT.search(text)
    parts, done = [], 0
    while at is not None:
        domain = _DOMAIN.match(text, at.end())
        local = domain and _LOCAL.search(text, max(done, at.start() - _LOCAL_LENGTH), at.start())
        if domain and local:
            parts += [text[done : local.start()], EMAIL]
            done = domain.end()
        at = _AT.search(text, max(done, at.end()))
    return "".join([*parts, text[done:]])


_IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
# A search for a pattern that begins with one character is ten times as fast.
_MAYBE_IPV4 = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
_MAYBE_IPV6 = re.compile(":[0-9A-Fa-f]{0,4}:")
# Global unicast is 2000::/3 (RFC 4291, section 2.4): other groups of hexadecimal digits are hardly ever addresses.
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")


def mask_ips(text: str) -> str:
    """Replace public IP addresses (`ipaddress`: is_global) by `IPV4` and `IPV6`; private and reserved ones stay."""
    if _MAYBE_IPV4.search(text):
        text = _IPV4.sub(lambda found: IPV4 if _is_public(found[0]) else found[0], text)
    if _MAYBE_IPV6.search(text):
        text = _IPV6.sub(lambda found: IPV6 if _is_public(found[0]) else found[0], text)
    return text


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:  # 999.1.1.1, 01.02.03.04
        return False
