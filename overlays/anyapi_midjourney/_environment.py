"""Proxies and certificates that the environment sets, and what to do when they fail."""

from __future__ import annotations

import os
import socket
import ssl
import warnings
from typing import TYPE_CHECKING
from urllib.request import proxy_bypass

import httpx

from ._address import is_loopback
from .errors import ConfigurationError, causes

if TYPE_CHECKING:
    from .errors import APIConnectionError


def warn_if_plain(base_url: httpx.URL, proxied: object) -> None:
    """Warns if the key is sent unencrypted: to another machine, or to a proxy."""
    if base_url.scheme == "http" and (proxied or not is_loopback(base_url.host)):
        where = "a proxy" if is_loopback(base_url.host) else base_url.host
        warnings.warn(f"The API key goes to {where} unencrypted: use https.", stacklevel=5)


def proxy_variable(url: httpx.URL) -> str | None:
    """The environment variable that has requests for a URL sent over a proxy."""
    names = () if proxy_bypass(url.host) else (f"{url.scheme}_proxy", "all_proxy")
    return next((v for name in names for v in (name, name.upper()) if os.environ.get(v)), None)


def options_error(error: Exception) -> ConfigurationError:
    """The error for options that httpx refuses; it names the environment variable, if one is the reason."""
    where = "the options"
    for variable, value in os.environ.items():
        name = variable.lower()
        for part in value.split(",") if name == "no_proxy" else [value]:
            try:
                if name == "no_proxy":
                    httpx.Client(mounts={f"all://*{part.strip()}": None}, trust_env=False, verify=False).close()  # noqa: S501  (it sends nothing)
                elif name in ("http_proxy", "https_proxy", "all_proxy") and "://" in value:
                    part = value.partition("://")[0]  # noqa: PLW2901  (what follows can be a password)
                    httpx.HTTPTransport(proxy=f"{part}://x", verify=False).close()
                elif name == "ssl_cert_file":
                    ssl.create_default_context(cafile=value)
            except (ImportError, ValueError, OSError, httpx.InvalidURL):
                where = f"{part.strip()!r} in the environment variable {variable}"
    advice = "; install it with: pip install 'anyapi-midjourney[socks]'" if "socks" in str(error) else ""
    return ConfigurationError(f"httpx cannot use {where}: {error}{advice}")


def connection_advice(error: APIConnectionError, url: httpx.URL) -> str:
    """What to do about a request that got no response."""
    kinds = tuple(map(type, causes(error)))
    if error.is_mistake:
        return "this is not a fault of the network, so check the transport, the hooks and the event loop"
    if ssl.SSLCertVerificationError in kinds:
        return f"the certificate is not trusted, so set SSL_CERT_FILE to one that signs {url.host}"
    if variable := proxy_variable(url):
        return f"check the proxy that {variable} names, and the network"
    if httpx.ProxyError in kinds:
        return "check the proxy"
    if socket.gaierror in kinds:
        return "the name does not resolve, so check base_url or ANYAPI_BASE_URL, and the network"
    return "check the network and the base URL, then try again"
