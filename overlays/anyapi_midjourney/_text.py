"""What a server sends, as text and numbers that are safe to show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta


def as_text(value: object) -> str | None:
    """A string; a number as its text; None for "" and all else."""
    if isinstance(value, str):
        # JSON can hold half of a surrogate pair, which nothing can print.
        return (
            value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ) or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return str(value) if isinstance(value, int) or math.isfinite(value) else None  # isfinite overflows on large ints


def as_int(value: object) -> int | None:
    """A number, or up to 18 digits as text; None for all else."""
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    if isinstance(value, str):
        return int(value) if len(value) <= 18 and value.isascii() and value.isdecimal() else None
    return int(value) if isinstance(value, float) and math.isfinite(value) else None


def quote(text: str) -> str:
    """A server's words in quotation marks: on one line, printable, and at most 300 characters."""
    line = " ".join(printable(text[:1000]).split())
    return f'"{line[:300]}…"' if len(line) > 300 else f'"{line}"'


def printable(text: str) -> str:
    """The text with a blank for each character that a terminal may interpret, such as an escape."""
    return "".join(c if c.isprintable() else " " for c in text)


def format_message(words: str, fact: str) -> str:
    """How an error's text begins: the server's words, if there are any, and the fact that they came with."""
    return f"{quote(words)} ({fact})" if words else fact


def format_duration(length: timedelta) -> str:
    """A length of time as people say it: "2.0 s", "1 min 5 s"."""
    seconds = length.total_seconds()
    if seconds < 59.95:  # 59.96 would be 60.0
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
