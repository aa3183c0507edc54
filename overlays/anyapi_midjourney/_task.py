"""Tasks: the state of a job, and its result."""

from __future__ import annotations

import copyreg
import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

from attrs import field, fields, frozen

from anyapi_midjourney_generated import models
from anyapi_midjourney_generated.types import UNSET, Unset

from ._button import Button
from ._text import as_int, as_text, quote
from .errors import ButtonNotFoundError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .errors import Json

# The generated code tests `is UNSET`, so a pickled or copied UNSET must be the same object.
copyreg.pickle(Unset, lambda _: "UNSET")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PERCENT = re.compile(r"\s*([0-9]{1,3})(?:\.[0-9]*)?\s*(?:%|$)")
_ID = re.compile(r"(?!\.+\Z)[\w.~:-]{1,128}", re.ASCII)
_Model = TypeVar("_Model", models.Button, models.Video)


class _OpenStrEnum(StrEnum):
    """An enum that keeps a word that is not listed."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = member._value_ = value
        return member

    def __reduce_ex__(self, _: object) -> tuple[type[Self], tuple[str]]:
        return type(self), (str(self),)  # Python 3.11.0 to 3.11.3 accepts listed names only


class TaskStatus(_OpenStrEnum):
    """Where a task stands. A word that is not listed is kept as the server sent it, and equals it.

    Source: new-api's `controller/midjourney.go` and the Midjourney proxies whose words it copies.
    """

    ACCEPTED = ""
    """Accepted; the gateway has not refreshed it yet, which it does about every 15 s."""
    NOT_START = "NOT_START"
    """Waits in the proxy's queue."""
    SUBMITTED = "SUBMITTED"
    """Handed to Midjourney."""
    IN_PROGRESS = "IN_PROGRESS"
    """Midjourney is drawing; there may be a preview."""
    MODAL = "MODAL"
    """A window is open; nothing happens until somebody answers it."""
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    CANCEL = "CANCEL"


class TaskAction(_OpenStrEnum):
    """What was submitted, in new-api's words. A word that is not listed is kept as the server sent it."""

    IMAGINE = "IMAGINE"
    BLEND = "BLEND"
    DESCRIBE = "DESCRIBE"
    SHORTEN = "SHORTEN"
    UPSCALE = "UPSCALE"
    VARIATION = "VARIATION"
    LOW_VARIATION = "LOW_VARIATION"
    HIGH_VARIATION = "HIGH_VARIATION"
    REROLL = "REROLL"
    PAN = "PAN"
    ZOOM = "ZOOM"
    CUSTOM_ZOOM = "CUSTOM_ZOOM"
    INPAINT = "INPAINT"
    MODAL = "MODAL"
    EDITS = "EDITS"
    VIDEO = "VIDEO"
    SWAP_FACE = "SWAP_FACE"
    UPLOAD = "UPLOAD"

    @property
    def makes_words(self) -> bool:
        """Whether the result is words, in the task's `final_prompt`, and not a picture. Added in 0.2."""
        return self in (TaskAction.DESCRIBE, TaskAction.SHORTEN)


def _status(value: str) -> TaskStatus:
    return TaskStatus(value)


def _action(value: str | None) -> TaskAction | None:
    return TaskAction(value) if value else None


@frozen(kw_only=True)
class Task:
    """A job, as it was when the server answered. A plain value: it holds no client.

    None stands for what is absent, null, empty, zero (of times) or of a wrong type; `raw` has it as it was sent.
    """

    id: str
    """The task's id; the one that was asked for, if the response has none."""
    status: TaskStatus = field(default=TaskStatus.ACCEPTED, converter=_status)
    """How far it is."""
    action: TaskAction | None = field(default=None, converter=_action)
    """What was submitted."""
    progress: int | None = None
    """Percent, 0 to 100. Not monotonic, often straight from 0 to 100, and 100 on failure too."""
    prompt: str | None = None
    """What the client sent; for a button, the parent's prompt."""
    prompt_en: str | None = None
    """The proxy's translation; the result, for DESCRIBE."""
    final_prompt: str | None = None
    """The prompt as Midjourney showed it; of DESCRIBE and SHORTEN the result (midjourney-proxy-plus, `docs/api.md`)."""
    final_prompt_zh: str | None = None
    """The same in Chinese."""
    description: str | None = None
    """The proxy's response to the submission; never updated."""
    state: str | None = None
    """The submitter's own value, echoed."""
    fail_reason: str | None = None
    """Why it failed, in the server's words. May be missing, or come later."""
    submitted_at: datetime | None = None
    """When the gateway accepted it, UTC."""
    started_at: datetime | None = None
    """When Midjourney began, UTC."""
    finished_at: datetime | None = None
    """When it ended, UTC. May be missing on failure."""
    image_url: str | None = None
    """The picture of a task that succeeded: a 2 × 2 grid, one picture, or a video. See also `image_expires_at`."""
    preview_url: str | None = None
    """The unfinished picture of a task that has not succeeded. Another URL at each poll."""
    video_url: str | None = None
    """The video, where the gateway has a field for it; an extracted clip comes in `image_url`."""
    video_urls: tuple[str, ...] = field(default=(), converter=tuple[str, ...])
    """All videos of a finished video task."""
    buttons: tuple[Button, ...] = field(default=(), converter=tuple[Button, ...])
    """What can be pressed next, in Midjourney's order."""
    base_url: str = field(default="", repr=False, eq=False)
    """The base URL of the client that received it; "" if none did, or if it was just submitted. Added in 0.2."""
    raw: models.Task = field(factory=models.Task, repr=False, eq=False)
    """The generated model: every field as it was sent, unknown ones too; `to_dict()` gives JSON."""

    @classmethod
    def from_model(cls, task: models.Task, task_id: str = "", base_url: str = "") -> Self:
        """The task that a generated model holds; `task_id` is the one asked for, should the model have none."""
        status = TaskStatus(as_text(task.status) or TaskStatus.ACCEPTED)
        properties = task.properties if isinstance(task.properties, models.TaskProperties) else None
        picture = as_text(task.image_url)
        videos = [as_text(video.url) for video in _models(models.Video, task.video_urls)]
        buttons = [Button.from_model(button) for button in _models(models.Button, task.buttons)]
        _make_exportable(task)
        return cls(
            id=as_text(task.id) or task_id,
            status=status,
            action=as_text(task.action),
            progress=_percent(task.progress),
            prompt=as_text(task.prompt),
            prompt_en=as_text(task.prompt_en),
            final_prompt=as_text(properties.final_prompt) if properties else None,
            final_prompt_zh=as_text(properties.final_zh_prompt) if properties else None,
            description=as_text(task.description),
            state=as_text(task.state),
            fail_reason=as_text(task.fail_reason),
            submitted_at=_moment(task.submit_time),
            started_at=_moment(task.start_time),
            finished_at=_moment(task.finish_time),
            image_url=picture if status == TaskStatus.SUCCESS else None,
            preview_url=picture if status != TaskStatus.SUCCESS else None,
            video_url=as_text(task.video_url),
            video_urls=filter(None, videos),
            buttons=(b for b in buttons if b.custom_id or b.label or b.emoji),
            base_url=base_url,
            raw=task,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """The task that `to_dict` was called on, or the one that the server's own JSON object holds. Added in 0.2."""
        if "done" not in values:
            return cls.from_model(models.Task.from_dict(values))
        ours: dict[str, Any] = {name: values[name] for name in _NAMES if name in values}
        ours |= {name: datetime.fromisoformat(ours[name]) for name in _TIMES if ours.get(name)}
        ours["buttons"] = [Button(**button) for button in ours.get("buttons", ())]
        return cls(**ours)

    def to_dict(self) -> dict[str, Json]:
        """The task under our names, ready for JSON.

        Times are ISO 8601, `done` is added, and `raw` and `base_url` are left out. Added in 0.2.
        """
        values: dict[str, Any] = {name: getattr(self, name) for name in _NAMES}
        values |= {name: values[name] and values[name].isoformat() for name in _TIMES}
        values["video_urls"] = list(self.video_urls)
        values["buttons"] = [{name: getattr(button, name) for name in _BUTTON_NAMES} for button in self.buttons]
        return {**values, "done": self.done}

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not. A fail reason without a status is an end too."""
        ends = (TaskStatus.SUCCESS, TaskStatus.FAILURE, TaskStatus.CANCEL)
        return self.status in ends or (self.status == TaskStatus.ACCEPTED and self.fail_reason is not None)

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well. It may have no picture: SHORTEN never has one."""
        return self.status == TaskStatus.SUCCESS

    @property
    def failed(self) -> bool:
        """Whether it has ended without success; cancelled counts."""
        return self.done and not self.succeeded

    @property
    def status_name(self) -> str:
        """The status as people read it: "ACCEPTED" if there is none yet, or "FAILURE" if there is only a reason.

        Added in 0.2.
        """
        return self.status or ("FAILURE" if self.failed else "ACCEPTED")

    @property
    def queued_for(self) -> timedelta | None:
        """From submission to start; None without both, or if negative."""
        return _between(self.submitted_at, self.started_at)

    @property
    def ran_for(self) -> timedelta | None:
        """From start to end; None without both, or if negative."""
        return _between(self.started_at, self.finished_at)

    @property
    def picture_url(self) -> str | None:
        """What `download` saves: the video if there is one, else the picture; None until the task has succeeded.

        Added in 0.2.
        """
        urls = (self.video_url, *self.video_urls, self.image_url) if self.succeeded else ()
        return next(filter(None, urls), None)

    @property
    def image_expires_at(self) -> datetime | None:
        """When `image_url` stops working, UTC, if its signature tells: Discord's last 24 hours."""
        return link_expires_at(self.image_url or "")

    def button(self, key: str) -> Button:
        """The button with this label or emoji: "U1", "🔄". Raises `ButtonNotFoundError` for none or several."""
        found = [b for b in self.buttons if _plain(key) in {_plain(b.label), _plain(b.emoji), _plain(b.name)} - {""}]
        if len(found) == 1:
            return found[0]
        there = ", ".join(quote(b.name) for b in self.buttons[:50]) or f"none, and the task is {quote(self.status)}"
        count = len(found) or "No"
        raise ButtonNotFoundError(f"{count} buttons are called {quote(str(key))}: there are {there}.", self.id)

    def _repr_html_(self) -> str:
        """What notebooks show: the picture, the state of the task, and its buttons."""
        from ._notebook import card  # noqa: PLC0415  (only notebooks need it)

        return card(self)


_NAMES = [attribute.name for attribute in fields(Task) if attribute.name not in ("base_url", "raw")]
_BUTTON_NAMES = [attribute.name for attribute in fields(Button) if attribute.name != "raw"]
_TIMES = ("submitted_at", "started_at", "finished_at")


def id_of(task: Task | str) -> str:
    """The id of a task, or the id itself. Raises `ConfigurationError` if it cannot be one."""
    task_id = cast("object", task.id if isinstance(task, Task) else task)
    if isinstance(task_id, str) and _ID.fullmatch(task_id):  # a blank id or a slash would address something else
        return task_id
    shown = f"{task_id!a:.100}" if isinstance(task_id, str) else f"of type {type(task_id).__name__}"
    raise ConfigurationError(
        f"A task id is a string of 1 to 128 of A-Z, a-z, 0-9, '_', '-', '.', '~' and ':', not {shown}."
    )


def link_expires_at(url: str) -> datetime | None:
    """When a signed link stops working, UTC, read from its query: Discord's, S3's (also version 4) or OSS's."""
    try:
        pairs = parse_qsl(urlsplit(url).query)
        query = {name.lower().removeprefix("x-amz-").removeprefix("x-oss-"): value for name, value in pairs}
        if {"ex", "is", "hm"} <= query.keys():
            return _after_epoch(int(query["ex"], 16) * 1000)
        seconds = int(query["expires"]) if "signature" in query else 0
        if "date" in query:
            begin = datetime.strptime(query["date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            seconds += int(begin.timestamp())
    except (KeyError, ValueError):
        return None
    return _after_epoch(seconds * 1000)


def _models(model: type[_Model], value: object) -> list[_Model]:
    """The models in a list. If one element is bad, the generated code returns the whole list unconverted."""
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [
        item if isinstance(item, model) else model.from_dict(cast("dict[str, Any]", item))
        for item in items
        if isinstance(item, (model, dict))
    ]


def _make_exportable(task: models.Task) -> None:
    """Moves a list that the generated code could not convert to the unknown fields, since `to_dict` fails on it."""
    for attribute, name in (("buttons", "buttons"), ("video_urls", "videoUrls")):
        items = getattr(task, attribute)
        if isinstance(items, list) and not all(hasattr(item, "to_dict") for item in cast("list[object]", items)):
            setattr(task, attribute, UNSET)
            task.additional_properties[name] = items


def _plain(name: object) -> str:
    return str(name or "").replace("\ufe0f", "")  # keyboards leave out the selector that makes 🖌 a 🖌️


def _percent(value: object) -> int | None:
    match = _PERCENT.match(as_text(value) or "")
    return int(match[1]) if match and int(match[1]) <= 100 else None


def _moment(value: object) -> datetime | None:
    number = as_int(value) or 0
    return _after_epoch(number if number >= 10**11 else number * 1000)  # some gateways send seconds


def _after_epoch(milliseconds: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds) if milliseconds > 0 else None
    except OverflowError:
        return None


def _between(start: datetime | None, end: datetime | None) -> timedelta | None:
    return end - start if start and end and end >= start else None
