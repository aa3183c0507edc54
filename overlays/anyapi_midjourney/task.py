"""Tasks: how a picture job stands, and what came of it."""

from __future__ import annotations

import copyreg
import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Self, cast

from attrs import field, frozen

from anyapi_midjourney_generated import models
from anyapi_midjourney_generated.types import UNSET, Unset

from .answer import as_int, as_list, as_text
from .button import Button
from .errors import ButtonNotFoundError, quoted

# The generated code tests `is UNSET`, so a pickled or copied UNSET must be the same object.
copyreg.pickle(Unset, lambda _: "UNSET")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PERCENT = re.compile(r"\s*([0-9]{1,3})(?:\.[0-9]*)?\s*(?:%|$)")
# Discord's signed addresses: `ex`, `is` and `hm` all belong to the signature; `ex` is the end, hexadecimal seconds.
_SIGNED = re.compile(r"(?=[^#]*[?&]is=)(?=[^#]*[?&]hm=)[^#]*[?&]ex=([0-9a-f]{1,12})(?:[&#]|$)")


class _OpenStrEnum(StrEnum):
    """An enum that forgets nothing: a word that is not listed is kept as it came."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = member._value_ = value
        return member

    def __reduce_ex__(self, _: object) -> tuple[type[Self], tuple[str]]:
        return type(self), (str(self),)  # Python 3.11 up to 3.11.3 looks for the name among the listed ones


class TaskStatus(_OpenStrEnum):
    """Where a task stands. A word that is not listed is kept as the server sent it, and equals it.

    Source: new-api's `controller/midjourney.go` and the Midjourney proxies whose words it copies.
    """

    ACCEPTED = ""
    """Taken; the gateway has not looked at it yet, which it does about every 15 s."""
    NOT_START = "NOT_START"
    """Waits in the proxy's queue."""
    SUBMITTED = "SUBMITTED"
    """Handed to Midjourney."""
    IN_PROGRESS = "IN_PROGRESS"
    """Midjourney draws; there may be a preview."""
    MODAL = "MODAL"
    """A window is open, and nothing happens until somebody answers it."""
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


@frozen(kw_only=True)
class Task:
    """A picture job, as it stood when the server was asked. A plain value: it holds no client.

    One None stands for what is absent, null, empty, zero (of times) or of a wrong type; `raw` has it as it was sent.
    """

    id: str
    """The task's id; the one that was asked for, if the answer has none."""
    status: TaskStatus
    """Where it stands."""
    action: TaskAction | None
    """What was submitted."""
    progress: int | None
    """Percent, 0 to 100. Not monotonic, often straight from 0 to 100, and 100 on failure too."""
    prompt: str | None
    """What the client sent; for a button, the parent's prompt."""
    prompt_en: str | None
    """The proxy's translation; the result, for DESCRIBE."""
    final_prompt: str | None
    """The prompt as Midjourney showed it; of DESCRIBE and SHORTEN the result (midjourney-proxy-plus, `docs/api.md`)."""
    final_prompt_zh: str | None
    """The same in Chinese."""
    description: str | None
    """Upstream's answer to the submission; never updated."""
    state: str | None
    """The submitter's own value, echoed."""
    fail_reason: str | None
    """Why it failed, in the server's words. May be missing, or come later."""
    submitted_at: datetime | None
    """When the gateway took it, UTC."""
    started_at: datetime | None
    """When Midjourney began, UTC."""
    finished_at: datetime | None
    """When it ended, UTC. May be missing on failure."""
    image_url: str | None
    """The picture of a task that succeeded: a 2 × 2 grid, one picture, or a video. See also `image_expires_at`."""
    preview_url: str | None
    """The unfinished picture of a task that has not succeeded. Another address at each look."""
    video_url: str | None
    """The video, where the gateway has a field for it; an extracted clip comes in `image_url`."""
    video_urls: tuple[str, ...]
    """All videos of a finished video task."""
    buttons: tuple[Button, ...]
    """What may be pressed next, in Midjourney's order."""
    raw: models.Task = field(repr=False, eq=False)
    """The generated model: every field as it was sent, unknown ones too; `to_dict()` gives JSON."""

    @classmethod
    def from_model(cls, task: models.Task, task_id: str = "") -> Self:
        """The task that a generated model holds; `task_id` is the one asked for, should the model have none."""
        status = TaskStatus(as_text(task.status) or TaskStatus.ACCEPTED)
        action = as_text(task.action)
        properties = task.properties if isinstance(task.properties, models.TaskProperties) else None
        picture = as_text(task.image_url)
        videos = [as_text(video.url) for video in as_list(models.Video, task.video_urls)]
        buttons = [Button.from_model(button) for button in as_list(models.Button, task.buttons)]
        _make_exportable(task)
        return cls(
            id=as_text(task.id) or task_id,
            status=status,
            action=TaskAction(action) if action else None,
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
            video_urls=tuple(filter(None, videos)),
            buttons=tuple(b for b in buttons if b.custom_id or b.label or b.emoji),
            raw=task,
        )

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not. A reason to fail without a status is an end too."""
        ends = (TaskStatus.SUCCESS, TaskStatus.FAILURE, TaskStatus.CANCEL)
        return self.status in ends or (self.status == TaskStatus.ACCEPTED and self.fail_reason is not None)

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well. That need not mean a picture: SHORTEN has none."""
        return self.status == TaskStatus.SUCCESS

    @property
    def failed(self) -> bool:
        """Whether it has ended otherwise; cancelled counts."""
        return self.done and not self.succeeded

    @property
    def queued_for(self) -> timedelta | None:
        """From submission to start; None without both, or if negative."""
        return _between(self.submitted_at, self.started_at)

    @property
    def ran_for(self) -> timedelta | None:
        """From start to end; None without both, or if negative."""
        return _between(self.started_at, self.finished_at)

    @property
    def image_expires_at(self) -> datetime | None:
        """When `image_url` stops working, UTC: read from a Discord address, whose signature lasts 24 hours."""
        signed = _SIGNED.match(self.image_url or "")
        return _after_epoch(int(signed[1], 16) * 1000) if signed else None

    def button(self, key: str) -> Button:
        """The button with this label or emoji: "U1", "🔄". Raises `ButtonNotFoundError` for none or several."""
        found = [b for b in self.buttons if _plain(key) in {_plain(b.label), _plain(b.emoji), _plain(b.name)} - {""}]
        if len(found) == 1:
            return found[0]
        there = ", ".join(quoted(b.name) for b in self.buttons[:50]) or f"none, and the task is {quoted(self.status)}"
        count = len(found) or "No"
        raise ButtonNotFoundError(f"{count} buttons are called {quoted(str(key))}: there are {there}.", self.id)

    def _repr_html_(self) -> str:
        """What notebooks show: the picture, how the task stands, and its buttons."""
        from .notebook import card  # noqa: PLC0415  (only notebooks need it)

        return card(self)


def _make_exportable(task: models.Task) -> None:
    """Moves a list that the generated code could not convert to the unknown fields: its `to_dict` would fail on it."""
    for attribute, name in (("buttons", "buttons"), ("video_urls", "videoUrls")):
        items = getattr(task, attribute)
        if isinstance(items, list) and not all(hasattr(item, "to_dict") for item in cast("list[object]", items)):
            setattr(task, attribute, UNSET)
            task.additional_properties[name] = items


def _plain(name: object) -> str:
    return str(name or "").replace("\ufe0f", "")  # the selector that makes 🖌 a 🖌️, which keyboards leave out


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
