"""A task as a terminal shows it. No control sequence or markup of a server takes effect."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx
from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from .._button import button_label, button_rows
from .._download import absolute_url
from .._task import TaskStatus
from .._text import format_duration, printable
from ..errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from rich.console import Console

    from .._task import Task

_MAX_TEXT = 2000  # characters of one field
_INDENT = 11
_MAX_COLUMNS = 48  # a square picture takes half as many rows, a tall one at most this many


def description(task: Task, saved: str | None, width: float, *, brief: bool) -> Text:
    """A task on several lines, of at most this width where words allow it, or on one line."""
    text, url, link = _head(task), task.picture_url or task.preview_url or "", ""
    with suppress(DownloadError):
        absolute = absolute_url(task, httpx.URL(task.base_url))
        url = str(absolute)  # in ASCII, so that it is safe inside a control sequence
        link = url if absolute.scheme in ("http", "https") else ""
    if brief:
        return text.append(f"  {printable((saved or task.fail_reason or url)[:_MAX_TEXT])}")
    lengths = ((task.queued_for, "in the queue"), (task.ran_for, "to draw"))
    took = ", ".join(f"{format_duration(length)} {what}" for length, what in lengths if length is not None)
    end, is_words = task.image_expires_at, task.succeeded and task.action and task.action.makes_words
    kind = "picture" if task.picture_url == task.image_url else "video"
    rows = [[f"[{button_label(button)}]" for button in row] for row in button_rows(task.buttons[:50])]
    for name, value, style in (
        ("result" if is_words else "prompt", task.final_prompt or task.prompt_en or task.prompt, ""),
        ("reason", task.fail_reason, "red"),
        ("took", took, ""),
        (kind if task.picture_url else "preview", url, Style(link=link) if link else ""),
        ("expired" if end and end < datetime.now(UTC) else "expires", f"{end:%Y-%m-%d %H:%M} UTC" if end else "", ""),
        ("saved", saved, ""),
        ("buttons", rows, ""),
    ):
        if value:
            gap, lines = "  ", value
            if isinstance(value, str):
                gap, lines = " ", [line.split(" ") for line in value[:_MAX_TEXT].splitlines()]
            broken = [line for words in lines for line in filled(words, gap, width - _INDENT)]
            text.append(f"\n  {name:<9}", "dim").append(f"\n{'':{_INDENT}}".join(broken), style)
    return text


def filled(words: Iterable[str], gap: str, width: float) -> list[str]:
    """Words in lines of at most this width. A longer word has a line of its own, so that it can be copied."""
    lines: list[str] = []
    for word in map(printable, words):
        if lines and cell_len(longer := f"{lines[-1]}{gap}{word}") <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


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
            if not columns or width * height > 2**26:
                raise ValueError(f"{width} × {height} pixels are too many")  # noqa: TRY301  (the same message)
            console.print(Drawing(picture, width=columns, height="auto"))
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  (a video, or a terminal that does not reply)
        return f"This terminal cannot show the picture: {error}"
    return ""


def _head(task: Task) -> Text:
    is_modal = task.status == TaskStatus.MODAL
    colour = "green" if task.succeeded else "red" if task.failed else "yellow" if is_modal else ""
    action, status = (printable(word[:200]) for word in (task.action or "", task.status_name))
    progress = f"  {task.progress} %" if task.progress is not None and not task.done else ""
    return Text.assemble((printable(task.id), "bold"), f"  {action}".rstrip(), "  ", (status, colour), progress)
