"""What an origin is, and which hosts and addresses are public. No I/O."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

# Of two labels at least, and none that ends as 127.1 and 0x7f.1, which are addresses to some resolvers. In ASCII, and
# without %: browsers read full-width digits, and decode %6c.
_NAME = re.compile(r"(?:[\w-]+\.)+(?!(?:[0-9]+|0x[0-9a-f]*)\Z)[\w-]+", re.ASCII)
_LOCAL_NAMES = (".localhost", ".local", ".internal", ".home.arpa")
_SPECIAL = ipaddress.ip_network("192.0.0.0/24")  # Python 3.11 knows only a part of it
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# What Clash and sing-box let every name resolve to, so that its traffic comes to them ("fake-ip").
_STAND_INS = (ipaddress.ip_network("198.18.0.0/15"), ipaddress.ip_network("fc00::/18"))


def origin(url: httpx.URL) -> tuple[str, str, int | None]:
    """The scheme, host and port of a URL; None is the scheme's own port."""
    return url.scheme, url.host, url.port


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by name or by address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_public(host: str) -> bool:
    """Whether a host is one of the internet, as far as its name or address tells. A name is not resolved."""
    host = host.lower().rstrip(".")
    try:
        return _is_global(host) and "%" not in host
    except ValueError:
        return bool(_NAME.fullmatch(host)) and not host.endswith(_LOCAL_NAMES)


def is_public_peer(address: str) -> bool:
    """Whether an address that a name resolved to is one of the internet, or a local proxy's stand-in for one."""
    return _is_global(address) or any(ipaddress.ip_address(address) in network for network in _STAND_INS)


def _is_global(text: str) -> bool:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address.ipv4_mapped
        if inner is None:
            return address.is_global and address in _GLOBAL_UNICAST and not address.sixtofour
        address = inner
    return address.is_global and not address.is_multicast and address not in _SPECIAL
