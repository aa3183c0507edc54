"""A task as notebooks show it: one card of HTML. Nothing that a server sends takes effect in it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING
from unicodedata import category
from urllib.parse import urlsplit

from ._address import is_public
from ._button import button_label, button_rows
from ._text import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._button import Button
    from ._task import Task

_TIME = "%Y-%m-%d %H:%M:%S UTC"
_MAX_TEXT = _MAX_URL = 2000
_MAX_LINE, _MAX_LABEL = 200, 80  # Discord's labels have up to 80 characters
_MAX_BUTTONS, _MAX_VIDEOS = 25, 8  # Discord shows up to 25 buttons
_MAX_MARKS = 4  # on one letter: Hebrew has up to three, and a tower of them covers the lines above
_REORDERING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_OWN_PICTURE = re.compile(r"/mj/image/[\w.:~-]+(?:\?[\w.=&-]*)?", re.ASCII)
"""Where new-api serves the pictures that it passes on (`router/relay-router.go`)."""
_VIDEO = re.compile(r"[^?#]*\.(?:mp4|webm|mov)(?:[?#]|$)", re.IGNORECASE)

# Text has the notebook's own colour, light or dark; text with another colour has its own background too. In a notebook
# that is not trusted, JupyterLab removes styles that it does not know: gap, min(), and the last two of the card.
_CARD = (
    "box-sizing:border-box;max-width:514px;padding:12px 16px;overflow:hidden;border-radius:8px;white-space:normal;"
    "border:1px solid rgba(128,128,128,0.4);background:rgba(128,128,128,0.06);font-family:system-ui,sans-serif;"
    "font-size:14px;line-height:1.5;word-wrap:break-word;overflow-wrap:anywhere;contain:paint"
)
_SMALL = "font-size:12px;opacity:0.8"
_WORDS = "margin-top:8px;max-height:300px;overflow:auto;white-space:pre-line"
_REASON = f"{_WORDS};padding-left:10px;border-left:3px solid #cf222e"
_ROW = "overflow:hidden"
_NOTE = f"margin-top:8px;overflow:hidden;{_SMALL}"
_TRACK = "margin-top:10px;border-radius:3px;overflow:hidden;background:rgba(128,128,128,0.3)"
_FILL = "height:6px;background:#2f81f7"
_IMAGE = "display:block;max-width:100%;max-height:480px;margin-top:8px;border-radius:4px"
_BOX = "display:inline-block;box-sizing:border-box;max-width:100%;overflow:hidden;vertical-align:middle"
_PART = f"{_BOX};margin-right:8px"
_CHIP = f"{_PART};padding:1px 8px;border-radius:4px;font-size:12px;font-weight:600;color:#ffffff"
_COLOURS = ("#1a7f37", "#cf222e", "#8a5a00", "#0b63c5")  # succeeded, failed, MODAL, else
_BUTTON = f"{_BOX};margin:6px 6px 0 0;padding:3px 12px;border-radius:6px"
_NORMAL, _PRESSED = f"{_BUTTON};background:rgba(128,128,128,0.2)", f"{_BUTTON};background:#4752c4;color:#ffffff"


def card(task: Task) -> str:
    """The task as HTML that runs nothing, and loads nothing but the picture."""
    prompt, final = task.prompt, task.final_prompt or task.prompt_en
    colour = _COLOURS[(task.succeeded, task.failed, task.status == task.status.MODAL, True).index(True)]
    head = (
        _word(f"{_CHIP};background:{colour}", task.status_name),
        _word(_PART, "" if task.done or task.progress is None else f"{task.progress} %"),
        _word(f"{_PART};font-weight:600", task.action),
        _word(f"{_PART};{_SMALL}", task.id),
    )
    times = (
        f"Submitted {task.submitted_at:{_TIME}}" if task.submitted_at else "",
        f"queued for {format_duration(task.queued_for)}" if task.queued_for is not None else "",
        f"ran for {format_duration(task.ran_for)}" if task.ran_for is not None else "",
        f"state {_word('unicode-bidi:isolate', task.state)}" if task.state else "",
    )
    parts = (
        _div(_ROW, "".join(head)),
        "" if task.done else _div(_TRACK, f'<div style="{_FILL};width:{task.progress or 0}%"></div>'),
        _text_block(_WORDS, prompt or final),
        _text_block(f"{_WORDS};{_SMALL}", final) if prompt and final != prompt else "",
        _text_block(_REASON, task.fail_reason),
        *_pictures(task),
        *(_div(_ROW, "".join(map(_button, row))) for row in button_rows(task.buttons[:_MAX_BUTTONS])),
        _more(len(task.buttons) - _MAX_BUTTONS),
        _div(_NOTE, " · ".join(filter(None, times))),
    )
    return f'<div dir="ltr" style="{_CARD}">{"".join(parts)}</div>'


def _pictures(task: Task) -> Iterator[str]:
    """Links to the videos, which a <video> would request with a referrer, and the picture."""
    kind, picture = ("Picture", task.image_url) if task.image_url else ("Preview", task.preview_url or "")
    urls = (task.video_url, *task.video_urls, picture if _VIDEO.match(picture) else None)
    videos = list(dict.fromkeys(filter(None, urls)))
    for number, url in enumerate(videos[:_MAX_VIDEOS], 1):
        name = f"Video {number}"
        yield _div(_NOTE, _link(url, name)) if _is_safe(url) else _text_block(_NOTE, f"{name}: {url}", _MAX_LINE)
    yield _more(len(videos) - _MAX_VIDEOS)
    if picture in videos:
        return
    is_safe = _is_safe(picture)
    if not is_safe and not _is_own_picture(picture, task.base_url):
        yield _text_block(_NOTE, picture and f"{kind}: {picture}", _MAX_LINE)
        return
    alt, end = _text(f"{kind}: {task.prompt or task.id}", _MAX_LINE), task.image_expires_at
    # If the gateway is on the notebook's host, a browser would send it the notebook's cookies, whatever its port.
    cookies = "" if is_safe else ' crossorigin="anonymous"'
    image = f'<img src="{escape(picture)}" alt="{alt}" referrerpolicy="no-referrer"{cookies} style="{_IMAGE}">'
    yield _div(_ROW, _link(picture, image) if is_safe else image)
    works = "expired on" if end and end < datetime.now(UTC) else "works until"
    yield _div(_NOTE, f"Link {works} {end:{_TIME}}" if end else "" if task.image_url else kind)


def _button(button: Button) -> str:
    style = _PRESSED if button.style == 1 else _NORMAL
    url: object = button.raw.additional_properties.get("url")
    if button.style == 5 and isinstance(url, str) and _is_safe(url):
        return _link(url, _word(style, f"↗ {button_label(button)}"))
    return _word(style, button_label(button))


def _is_own_picture(url: str, base_url: str) -> bool:
    """Whether it is a picture at the gateway that the task is from, which may be on loopback, as the sandbox is."""
    starts = [base_url, base_url.removesuffix(urlsplit(base_url).path)] if base_url and len(url) <= _MAX_URL else []
    return any(url.startswith(start) and _OWN_PICTURE.fullmatch(url, len(start)) for start in starts)


def _is_safe(url: str) -> bool:
    """Whether a browser may open it. URLs that browsers would strip or rewrite are refused."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    is_plain = len(url) <= _MAX_URL and url.isprintable() and not {" ", "\\"} & set(url)
    return is_plain and parts.scheme == "https" and "@" not in parts.netloc and is_public(host)


def _link(url: str, html: str) -> str:
    return f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer" style="color:inherit">{html}</a>'


def _div(style: str, html: str) -> str:
    return html and f'<div style="{style}">{html}</div>'


def _text_block(style: str, text: str | None, limit: int = _MAX_TEXT) -> str:
    return f'<div dir="auto" style="{style}">{_text(text, limit)}</div>' if text else ""


def _word(style: str, text: str | None) -> str:
    return f'<span dir="auto" style="{style}">{_text(text, _MAX_LABEL)}</span>' if text else ""


def _text(text: str, limit: int) -> str:
    """A server's words: escaped, cut, and without controls, reordering and towers of marks."""
    shown, marks, cut = "", 0, len(text) > limit
    for character in text[:limit]:
        kind = category(character)
        marks = marks + 1 if kind in ("Mn", "Me") else marks if kind == "Cf" else 0  # a joiner does not end a tower
        if marks > _MAX_MARKS:
            cut = True
        elif character != "\n" and (kind in ("Cc", "Cs", "Zl", "Zp") or character in _REORDERING):
            shown += " " if character.isspace() else "\ufffd"
        else:
            shown += character
    return escape(shown) + "…" * cut


def _more(number: int) -> str:
    return _div(_NOTE, f"… and {number} more" if number > 0 else "")
