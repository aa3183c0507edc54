# ruff: noqa: SIM905  (one list a line is easier to compare)
"""Which hosts are public, and which are private or loopback."""

import pytest

from anyapi_midjourney._address import is_loopback, is_public, is_public_peer

PUBLIC_NAMES = "cdn.discordapp.com CDN.Example. a_b.r2.dev xn--mnchen-3ya.example x1.1a".split()
PUBLIC = "1.1.1.1 2606:4700::1111 64:ff9b::101:101 ::ffff:1.1.1.1".split()
LOCAL_NAMES = ["", ".", *"localhost LOCALHOST. a.localhost intranet printer.local metadata.google.internal".split()]
PRIVATE = (
    "127.0.0.1 10.1.1.1 172.16.0.1 192.168.0.1 169.254.169.254 100.100.100.200 0.0.0.0 224.0.0.1 192.0.0.192".split()
)
PRIVATE_V6 = "::1 :: fe80::1 fe80::1%eth0 fd00::1 fec0::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1::".split()
ODD = ["a b.example", *"127.1 127.0.0.１ １２７.0.0.1 0x7f.1 2130706433 a.0x a.%6cocalhost a..b 2606:4700::1%1".split()]
STAND_INS = ["198.18.0.1", "198.19.255.255", "fc00::1"]


@pytest.mark.parametrize("host", [*PUBLIC_NAMES, *PUBLIC])
def test_names_and_addresses_of_the_internet_are_public(host: str) -> None:
    assert is_public(host)


@pytest.mark.parametrize("host", [*LOCAL_NAMES, *PRIVATE, *PRIVATE_V6, *ODD, *STAND_INS])
def test_private_hosts_and_odd_spellings_are_not_public(host: str) -> None:
    assert not is_public(host)


def test_a_name_may_resolve_to_a_local_proxys_stand_in_but_to_no_private_address() -> None:
    assert all(map(is_public_peer, [*PUBLIC, *STAND_INS]))
    assert not any(map(is_public_peer, [*PRIVATE, *PRIVATE_V6]))


def test_loopback_is_known_by_its_names_and_addresses() -> None:
    assert all(map(is_loopback, ["localhost", "a.localhost", "127.9.9.9", "::1"]))
    assert not any(map(is_loopback, ["localhost.example", "10.0.0.1", ""]))
