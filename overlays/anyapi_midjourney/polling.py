"""When to ask again: no I/O, so that both clients obey it and tests need no clock."""

from __future__ import annotations

import random

import httpx
from attrs import define

from .errors import APIConnectionError, APIResponseError, InvalidResponseError, MidjourneyError


def is_programming_error(cause: BaseException | None) -> bool:
    """Whether a request failed for a mistake in the program, such as a hook's TypeError, and not for the network."""
    mistakes = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)
    return isinstance(cause, (*mistakes, httpx.UnsupportedProtocol, httpx.LocalProtocolError))


def is_transient(error: MidjourneyError) -> bool:
    """Whether the next request may well succeed where this one failed.

    Transient are lost connections, time-outs, 408, 429, 5xx, and bodies that are HTML or broken off.
    """
    if isinstance(error, APIConnectionError):
        return not is_programming_error(error.__cause__)
    if isinstance(error, InvalidResponseError):
        return isinstance(error.body, str)
    return isinstance(error, APIResponseError) and (error.status_code in (408, 429) or error.status_code >= 500)


@define
class Retry:
    """How often one `fetch` may try again, and after what pause."""

    left: int
    """Retries that may still be made."""
    backoff: float = 0.5
    """Seconds before the next one, doubled with each."""

    def pause(self, error: MidjourneyError) -> float:
        """Seconds to wait before trying again. Raises the error if it is not transient, or no retry is left.

        A `Retry-After` is obeyed up to 30 s. Jitter of half a second keeps many clients from returning together.
        """
        if not self.left or not is_transient(error):
            raise error
        self.left -= 1
        asked = error.retry_after if isinstance(error, APIResponseError) else None
        jitter = random.uniform(0.0, 0.5)  # noqa: S311  (no secret)
        pause = self.backoff * (0.5 + jitter) if asked is None else max(asked, 0.5) + jitter
        self.backoff = min(self.backoff * 2, 8.0)
        return min(pause, 30.0)
