"""When to ask again: no I/O, so that both clients obey it and tests need no clock."""

from __future__ import annotations

import random

from attrs import define

from .errors import APIConnectionError, APIResponseError, InvalidResponseError, MidjourneyError


def is_passing(error: MidjourneyError) -> bool:
    """Whether the next request may well succeed where this one failed.

    Passing are lost connections, time-outs, 408, 429, 5xx, and bodies that are HTML or broken off. A closed client
    (httpx raises RuntimeError) does not open again.
    """
    if isinstance(error, APIConnectionError):
        return not isinstance(error.__cause__, RuntimeError)
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
        """Seconds to wait before trying again. Raises the error if it does not pass, or no retry is left.

        A `Retry-After` is obeyed up to 30 s; jitter of up to a half keeps many clients from returning together.
        """
        if not self.left or not is_passing(error):
            raise error
        self.left -= 1
        asked = getattr(error, "retry_after", None) or 0.0
        pause = max(self.backoff * random.uniform(0.5, 1.0), min(asked, 30.0))  # noqa: S311  (jitter is no secret)
        self.backoff = min(self.backoff * 2, 8.0)
        return pause
