"""A task as notebooks show it: one card of HTML, in which nothing that a server sends can act."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING
from unicodedata import category
from urllib.parse import urlsplit

from ._address import is_public
from ._button import button_label, button_rows
from ._text import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from ._button import Button
    from ._task import Task

# How much is shown, in characters and in number; 80 and 25 are Discord's own limits.
_LONG, _SHORT, _LABEL, _URL = 2000, 200, 80, 2000
_BUTTONS, _VIDEOS = 25, 8
_MARKS = 4  # on one letter: Hebrew has up to three, and more make a tower over the lines above
_REORDERING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_VIDEO = re.compile(r"[^?#]*\.(?:mp4|webm|mov)(?:[?#]|$)", re.IGNORECASE)

# Text has the notebook's own colour, light or dark; what has another has its own background too. Of a notebook that is
# not trusted, JupyterLab keeps only the styles that it knows: no gap, no min(), and neither of the two last ones here.
_CARD = (
    "box-sizing:border-box;max-width:514px;padding:12px 16px;overflow:hidden;border-radius:8px;"
    "border:1px solid rgba(128,128,128,0.4);background:rgba(128,128,128,0.06);white-space:normal;"
    "font-family:system-ui,sans-serif;font-size:14px;line-height:1.5;word-wrap:break-word;"
    "overflow-wrap:anywhere;contain:paint"
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
_GREEN, _RED, _AMBER, _BLUE = "#1a7f37", "#cf222e", "#8a5a00", "#0b63c5"
_BUTTON = f"{_BOX};margin:6px 6px 0 0;padding:3px 12px;border-radius:6px"
_NORMAL, _PRESSED = f"{_BUTTON};background:rgba(128,128,128,0.2)", f"{_BUTTON};background:#4752c4;color:#ffffff"


def card(task: Task) -> str:
    """The task as HTML that runs nothing, and loads nothing but the picture."""
    prompt, final = task.prompt, task.final_prompt or task.prompt_en
    parts = [
        _head(task),
        "" if task.done else _div(_TRACK, f'<div style="{_FILL};width:{task.progress or 0}%"></div>'),
        _said(_WORDS, prompt or final),
        _said(f"{_WORDS};{_SMALL}", final) if prompt and final != prompt else "",
        _said(_REASON, task.fail_reason),
        *_pictures(task),
        *_buttons(task.buttons),
        _foot(task),
    ]
    return f'<div dir="ltr" style="{_CARD}">{"".join(parts)}</div>'


def _head(task: Task) -> str:
    colour = _GREEN if task.succeeded else _RED if task.failed else _AMBER if task.status == "MODAL" else _BLUE
    parts = [
        _word(f"{_CHIP};background:{colour}", task.status_name),
        _word(_PART, f"{task.progress} %" if task.progress is not None and not task.done else None),
        _word(f"{_PART};font-weight:600", task.action),
        _word(f"{_PART};{_SMALL}", task.id),
    ]
    return _div(_ROW, "".join(parts))


def _pictures(task: Task) -> Iterator[str]:
    """The picture, and links to the videos, which a <video> would ask for with a referrer."""
    picture = task.image_url or task.preview_url or ""
    kind, until = "Picture" if task.image_url else "Preview", task.image_expires_at
    videos = dict.fromkeys(filter(None, (task.video_url, *task.video_urls)))
    if picture in videos or _VIDEO.match(picture):
        videos = {picture: None, **videos}
    elif _is_safe(picture):
        alt = _text(f"{kind}: {task.prompt or task.id}", _SHORT)
        image = f'<img src="{escape(picture)}" alt="{alt}" referrerpolicy="no-referrer" style="{_IMAGE}">'
        yield _div(_ROW, _link(picture, image))
        yield _div(_NOTE, f"Link works until {_moment(until)}" if until else "" if task.image_url else kind)
    elif picture:
        yield _said(_NOTE, f"{kind}: {picture}", _SHORT)
    for number, url in enumerate(list(videos)[:_VIDEOS], 1):
        name = f"Video {number}"
        yield _div(_NOTE, _link(url, name)) if _is_safe(url) else _said(_NOTE, f"{name}: {url}", _SHORT)
    yield _div(_NOTE, _more(len(videos) - _VIDEOS))


def _buttons(buttons: tuple[Button, ...]) -> Iterator[str]:
    for row in button_rows(buttons[:_BUTTONS]):
        yield _div(_ROW, "".join(map(_button, row)))
    yield _div(_NOTE, _more(len(buttons) - _BUTTONS))


def _button(button: Button) -> str:
    style = _PRESSED if button.style == 1 else _NORMAL
    url: object = button.raw.additional_properties.get("url")
    if button.style == 5 and isinstance(url, str) and _is_safe(url):
        return _link(url, _word(style, f"↗ {button_label(button)}"))
    return _word(style, button_label(button))


def _foot(task: Task) -> str:
    parts = [
        f"Submitted {_moment(task.submitted_at)}" if task.submitted_at else "",
        f"queued for {format_duration(task.queued_for)}" if task.queued_for is not None else "",
        f"ran for {format_duration(task.ran_for)}" if task.ran_for is not None else "",
        f"state {_word('unicode-bidi:isolate', task.state)}" if task.state else "",
    ]
    return _div(_NOTE, " · ".join(filter(None, parts)))


def _is_safe(url: str) -> bool:
    """Whether a browser may go there. What browsers strip or rewrite is refused."""
    if len(url) > _URL or not url.isprintable() or " " in url or "\\" in url:
        return False
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    return parts.scheme == "https" and "@" not in parts.netloc and is_public(host)


def _link(url: str, html: str) -> str:
    return f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer" style="color:inherit">{html}</a>'


def _div(style: str, html: str) -> str:
    return html and f'<div style="{style}">{html}</div>'


def _said(style: str, text: str | None, limit: int = _LONG) -> str:
    return f'<div dir="auto" style="{style}">{_text(text, limit)}</div>' if text else ""


def _word(style: str, text: str | None) -> str:
    return f'<span dir="auto" style="{style}">{_text(text, _LABEL)}</span>' if text else ""


def _text(text: str, limit: int) -> str:
    """A server's words, escaped and cut, without what acts on a screen: controls, reordering, towers of marks."""
    shown, marks, cut = "", 0, len(text) > limit
    for character in text[:limit]:
        kind = category(character)
        marks = marks + 1 if kind in ("Mn", "Me") else marks if kind == "Cf" else 0  # a joiner ends no tower
        if marks > _MARKS:
            cut = True
        elif character != "\n" and (kind in ("Cc", "Cs", "Zl", "Zp") or character in _REORDERING):
            shown += " " if character.isspace() else "\ufffd"
        else:
            shown += character
    return escape(shown) + "…" * cut


def _more(number: int) -> str:
    return f"… and {number} more" if number > 0 else ""


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
