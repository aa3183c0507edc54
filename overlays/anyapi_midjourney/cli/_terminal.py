"""A task as a terminal shows it. No control sequence or markup of a server takes effect."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx
from rich.style import Style
from rich.text import Text

from .._button import button_label, button_rows
from .._download import absolute_url
from .._task import TaskStatus
from .._text import format_duration, printable
from ..errors import DownloadError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from .._task import Task

_MAX_BUTTONS = 50
_MAX_TEXT = 2000  # characters of one field
_MAX_WORD = 200
_MAX_COLUMNS = 48  # a square picture takes half as many rows, a tall one at most this many
_MAX_PIXELS = 2**26  # Midjourney's largest pictures have a quarter of this


def description(task: Task, base_url: str, saved: str, *, brief: bool) -> Text:
    """A task on several lines, or on one. `saved` says where its picture is: "saved pig.png"."""
    text, url, end = _head(task), _picture_url(task, base_url), task.image_expires_at
    if brief:
        what = saved or task.fail_reason or url or task.preview_url or ""
        return text.append(f"  {printable(what[:_MAX_TEXT])}")
    expiry = "expired" if end and end < datetime.now(UTC) else "expires"
    lengths = ((task.queued_for, "in the queue"), (task.ran_for, "to draw"))
    took = ", ".join(f"{format_duration(length)} {what}" for length, what in lengths if length is not None)
    rows = button_rows(task.buttons[:_MAX_BUTTONS])
    buttons = "\n".join("  ".join(f"[{button_label(button)}]" for button in row) for row in rows)
    file_kind, _, file = saved.partition(" ")
    for name, value, style in (
        ("prompt", task.final_prompt or task.prompt_en or task.prompt, ""),
        ("reason", task.fail_reason, "red"),
        ("took", took, ""),
        ("picture", url, Style(link=url) if url.startswith(("https://", "http://")) else ""),
        ("preview", task.preview_url, ""),
        (expiry, f"{end:%Y-%m-%d %H:%M} UTC" if end else "", ""),
        (file_kind, file, ""),
        ("buttons", buttons, ""),
    ):
        if value:
            text.append(f"\n  {name:<9}", "dim")
            text.append(f"\n{'':11}".join(map(printable, value[:_MAX_TEXT].splitlines())), style)
    return text


def draw(path: Path, console: Console) -> str:
    """Draws a picture. Returns why that is not possible, or ""."""
    try:
        # Importing it asks the terminal what it can draw.
        logging.getLogger("textual_image").setLevel(logging.ERROR)
        from PIL import Image  # noqa: PLC0415  (an optional extra)
        from textual_image.renderable import Image as Drawing  # noqa: PLC0415

        with Image.open(path, formats=["PNG", "WEBP", "JPEG", "GIF"]) as picture:  # Pillow knows riskier formats
            width, height = picture.size
            columns = min(_MAX_COLUMNS, console.width, 2 * _MAX_COLUMNS * width // height)
            if not columns or width * height > _MAX_PIXELS:
                raise ValueError(f"{width} × {height} pixels are too many")  # noqa: TRY301  (the same message)
            console.print(Drawing(picture, width=columns, height="auto"))
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  (a video, or a terminal that does not reply)
        return f"The picture cannot be drawn here: {error}"
    return ""


def _picture_url(task: Task, base_url: str) -> str:
    try:
        return str(absolute_url(task, httpx.URL(base_url)))
    except DownloadError:
        return task.picture_url or ""


def _head(task: Task) -> Text:
    is_modal = task.status == TaskStatus.MODAL
    colour = "green" if task.succeeded else "red" if task.failed else "yellow" if is_modal else ""
    action, status = (printable(word[:_MAX_WORD]) for word in (task.action or "", task.status_name))
    progress = f"  {task.progress} %" if task.progress is not None and not task.done else ""
    return Text.assemble((printable(task.id), "bold"), f"  {action}".rstrip(), "  ", (status, colour), progress)
