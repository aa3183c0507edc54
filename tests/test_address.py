"""Which hosts are of the internet, and which are near us."""

import pytest

from anyapi_midjourney.address import is_public, is_public_peer

PUBLIC = ["cdn.discordapp.com", "CDN.Example.", "a_b.r2.dev", "xn--mnchen-3ya.example", "1.1.1.1", "x1.1a"]
PUBLIC_V6 = ["2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"]
LOCAL_NAMES = [
    "",
    ".",
    "localhost",
    "LOCALHOST.",
    "a.localhost",
    "intranet",
    "printer.local",
    "metadata.google.internal",
]
ODD = [
    "127.1",
    "127.0.0.１",
    "PRINTER.LOCAL",
    "192.0.0.192",
    "0x7f.1",
    "2130706433",
    "a.0x",
    "１２７.0.0.1",
    "a.%6cocalhost",
    "a..b",
    "a b.example",
    "2606:4700::1%1",
]
LOCAL = [
    "127.0.0.1",
    "10.1.1.1",
    "172.16.0.1",
    "192.168.0.1",
    "169.254.169.254",
    "100.100.100.200",
    "0.0.0.0",
    "224.0.0.1",
]
LOCAL_V6 = [
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::1",
    "fec0::1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
]


@pytest.mark.parametrize("host", [*PUBLIC, *PUBLIC_V6])
def test_hosts_of_the_internet_are_public(host: str) -> None:
    assert is_public(host)


@pytest.mark.parametrize("host", [*LOCAL_NAMES, *ODD, *LOCAL, *LOCAL_V6, "198.18.0.1", "fc00::1"])
def test_hosts_near_us_and_odd_spellings_are_not(host: str) -> None:
    assert not is_public(host)


def test_a_name_may_resolve_to_what_stands_in_for_the_internet_but_to_nothing_near_us() -> None:
    assert all(map(is_public_peer, [*PUBLIC_V6, "1.1.1.1", "198.18.0.1", "198.19.255.255", "fc00::1"]))
    assert not any(map(is_public_peer, [*LOCAL, *LOCAL_V6, *LOCAL_NAMES, "cdn.discordapp.com"]))
