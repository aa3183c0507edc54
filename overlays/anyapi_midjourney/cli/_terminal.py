"""A task as terminals show it: plain text, in which nothing that a server sends is obeyed."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx
from rich.style import Style
from rich.text import Text

from .._button import button_label, button_rows
from .._download import absolute_url
from .._text import format_duration, printable
from ..errors import DownloadError

if TYPE_CHECKING:
    from .._task import Task

_MOST_BUTTONS = 50
_LONGEST = 2000  # characters of one text of the server's
_COLOURS = {"SUCCESS": "green", "FAILURE": "red", "CANCEL": "red", "MODAL": "yellow"}


def description(task: Task, base_url: str, file: tuple[str, str] | None) -> Text:
    """A task as a person wants it, and what came of its picture: "saved" or "kept", and where."""
    address, link = picture(task, base_url)
    end = task.image_expires_at
    expired = end is not None and end < datetime.now(UTC)
    took = [
        f"{format_duration(task.queued_for)} in the queue" if task.queued_for is not None else "",
        f"{format_duration(task.ran_for)} to draw" if task.ran_for is not None else "",
    ]
    buttons = "\n".join(
        "  ".join(f"[{button_label(button)}]" for button in row) for row in button_rows(task.buttons[:_MOST_BUTTONS])
    )
    text = _head(task)
    for name, value, style in (
        ("prompt", task.final_prompt or task.prompt_en or task.prompt, ""),
        ("reason", task.fail_reason, "red"),
        ("took", ", ".join(filter(None, took)), ""),
        ("picture" if task.succeeded else "preview", address, Style(link=link) if link else ""),
        ("expired" if expired else "expires", _local_time(end) if end else "", ""),
        (*(file or ("", "")), ""),
        ("buttons", buttons, ""),
    ):
        if value:
            text.append(f"\n  {name:<9}", "dim")
            text.append(("\n" + " " * 11).join(map(printable, value[:_LONGEST].splitlines())), style)
    return text


def line(task: Task, base_url: str, file: tuple[str, str] | None) -> Text:
    """A task among many."""
    what = " ".join(file) if file else task.fail_reason or picture(task, base_url)[0]
    return Text.assemble(_head(task), f"  {printable(what[:_LONGEST])}")


def picture(task: Task, base_url: str) -> tuple[str, str]:
    """The address of the picture, or of its preview, and where a click on it leads, if that may be."""
    address = task.image_url or task.preview_url or ""
    try:
        url = absolute_url(task, httpx.URL(base_url))
    except DownloadError:
        return address, ""
    if url.scheme not in ("http", "https"):
        return address, ""
    return str(url), str(url)


def _local_time(moment: datetime) -> str:
    with suppress(OverflowError):  # a server can put it at the end of the year 9999
        moment = moment.astimezone()
    return f"{moment:%Y-%m-%d %H:%M %Z}"


def _head(task: Task) -> Text:
    status = task.status or ("FAILURE" if task.failed else "accepted")
    text = Text.assemble((printable(task.id[:200]), "bold"), f"  {printable((task.action or '')[:200])}".rstrip())
    text.append(f"  {printable(status[:200])}", _COLOURS.get(status, ""))
    if task.progress is not None and not task.done:
        text.append(f"  {task.progress} %")
    return text
