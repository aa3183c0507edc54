"""A client library for accessing AnyAPI Midjourney"""

from .client import AuthenticatedClient, Client

__all__ = (
    "AuthenticatedClient",
    "Client",
)
