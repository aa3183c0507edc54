"""What a submission sends, and what its response means. No I/O but reading images."""

# pyright: reportPrivateUsage=false
# (We send what the generated operations would send.)

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import httpx
from attrs import frozen

from anyapi_midjourney_generated import models
from anyapi_midjourney_generated.api.tasks import (
    submit_action,
    submit_blend,
    submit_describe,
    submit_imagine,
    submit_modal,
    submit_shorten,
)
from anyapi_midjourney_generated.types import UNSET

from . import errors
from ._button import Button
from ._http import parsed_body
from ._task import Task, TaskAction
from ._text import as_text, format_message, quote
from .errors import ConfigurationError, MidjourneyError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from .errors import Json

Image: TypeAlias = "str | PathLike[str] | bytes"
"""A path, the bytes of a file, or a data URL."""

READ_TIMEOUT = 90.0
"""Seconds to wait for a response at least: the gateway itself waits 60 s for Midjourney's proxy."""
MAX_IMAGE = 20 * 2**20
"""Bytes."""
_TYPES = {"png": "png", "jpg": "jpeg", "webp": "webp", "gif": "gif"}
_ACTIONS = {  # by how the family of a custom id begins: new-api, `service/midjourney.go`
    "upsample": TaskAction.UPSCALE,
    "variation": TaskAction.VARIATION,
    "low_variation": TaskAction.LOW_VARIATION,
    "high_variation": TaskAction.HIGH_VARIATION,
    "reroll": TaskAction.REROLL,
    "pan_": TaskAction.PAN,
    "Outpaint": TaskAction.ZOOM,
    "CustomZoom": TaskAction.CUSTOM_ZOOM,
    "Inpaint": TaskAction.INPAINT,
}
_ERRORS = {23: errors.QueueFullError, 24: errors.PromptRejectedError, 30: errors.QueueFullError}
# new-api's words when Midjourney's proxy took the job, and new-api failed afterwards (`relay/relay-mj.go`).
_TAKEN = ("insert_midjourney_task_failed", "copy_response_body_failed")
# What fails before a request is sent. Submissions use new connections, so nothing else does.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)


@frozen
class Submission:
    """One job to submit."""

    arguments: dict[str, Any]
    """Of `httpx.Client.build_request`."""
    action: TaskAction | None
    prompt: str | None
    state: str | None
    parent: str | None = None
    """The task whose button or window it is."""

    def task(self, response: httpx.Response) -> Task:
        """The task that a response accepted. Raises the error that the response means instead."""
        body = parsed_body(response)
        fields = body if isinstance(body, dict) else {}
        task_id, description = (as_text(fields.get("result")) or "").strip(), as_text(fields.get("description"))
        accepted = _code(fields) in (1, 21, 22) and response.status_code not in (401, 403)
        if not accepted or not task_id:
            raise _error(response, body)
        return Task(id=task_id, action=self.action, prompt=self.prompt, description=description, state=self.state)


def imagine(prompt: str, images: Sequence[Image], bot_type: str | None, state: str | None) -> Submission:
    """A new picture."""
    if isinstance(images, str | bytes):
        raise ConfigurationError("images is a list of images, also for one; nothing was sent.")
    urls = [data_url(image) for image in images]
    body = models.ImagineRequest(_not_blank(prompt), urls or UNSET, bot_type or UNSET, state or UNSET)
    return Submission(submit_imagine._get_kwargs(body=body), TaskAction.IMAGINE, prompt, state)


def press(task: Task, button: Button | str, state: str | None) -> Submission:
    """A press of a button."""
    custom_id = _custom_id(task, button)
    family = Button(custom_id=custom_id).action or ""
    action = next((action for begin, action in _ACTIONS.items() if family.startswith(begin)), None)
    body = models.ActionRequest(task.id, custom_id, state or UNSET)
    return Submission(submit_action._get_kwargs(body=body), action, task.prompt, state, task.id)


def answer_modal(task_id: str, prompt: str | None, mask: Image | None) -> Submission:
    """The answer to a window."""
    text = UNSET if prompt is None else _not_blank(prompt)
    body = models.ModalRequest(task_id, text, UNSET if mask is None else data_url(mask))
    return Submission(submit_modal._get_kwargs(body=body), TaskAction.MODAL, prompt, None, task_id)


def describe(image: Image, bot_type: str | None, state: str | None) -> Submission:
    """A description of an image."""
    body = models.DescribeRequest(data_url(image), bot_type or UNSET, state or UNSET)
    return Submission(submit_describe._get_kwargs(body=body), TaskAction.DESCRIBE, None, state)


def blend(images: Sequence[Image], dimensions: str | None, bot_type: str | None, state: str | None) -> Submission:
    """A picture that mixes images."""
    if isinstance(images, str | bytes) or not 2 <= len(images := list(images)) <= 5:
        raise ConfigurationError("A blend takes 2 to 5 images; nothing was sent.")
    if dimensions not in (None, "PORTRAIT", "SQUARE", "LANDSCAPE"):
        raise ConfigurationError(f"dimensions is PORTRAIT, SQUARE or LANDSCAPE, not {dimensions!r}; nothing was sent.")
    urls = [data_url(image) for image in images]
    body = models.BlendRequest(urls, dimensions or UNSET, bot_type or UNSET, state or UNSET)
    return Submission(submit_blend._get_kwargs(body=body), TaskAction.BLEND, None, state)


def shorten(prompt: str, bot_type: str | None, state: str | None) -> Submission:
    """Shorter versions of a prompt."""
    body = models.ShortenRequest(_not_blank(prompt), bot_type or UNSET, state or UNSET)
    return Submission(submit_shorten._get_kwargs(body=body), TaskAction.SHORTEN, prompt, state)


def data_url(image: Image) -> str:
    """An image as a data URL. Raises `ConfigurationError` if it is not one, or too large, and `OSError` of its file."""
    if isinstance(image, str) and image.startswith("data:"):
        return image
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        raise ConfigurationError("An image is a path, bytes or a data URL, not a web address; nothing was sent.")
    from ._download import file_kind  # noqa: PLC0415  (few submissions have images, and it takes time to import)

    if isinstance(image, bytes):
        content = image
    else:
        with Path(image).open("rb") as file:
            content = file.read(MAX_IMAGE + 1)
    media_type = _TYPES.get(file_kind(content) or "")
    if media_type is None or len(content) > MAX_IMAGE:
        problem = "is not PNG, JPEG, WebP or GIF" if media_type is None else f"is larger than {MAX_IMAGE >> 20} MiB"
        name = "The image" if isinstance(image, bytes) else f"The image {str(image)!r}"
        raise ConfigurationError(f"{name} {problem}; nothing was sent.")
    return f"data:image/{media_type};base64,{b64encode(content).decode()}"


def unconfirmed(error: MidjourneyError) -> MidjourneyError:
    """What an error means for a submission: itself, if it is certain that nothing was sent."""
    if isinstance(error, ConfigurationError) or isinstance(error.__cause__, _NOT_SENT):
        return error
    what = f"no response ({type(error.__cause__).__name__})"
    if isinstance(error, errors.APIResponseError):
        what = format_message(error.message, f"HTTP {error.status_code}")
    failure = errors.SubmissionUnconfirmedError(
        f"This may have been submitted and billed: {what}. Look in the gateway's own log of tasks before you submit it "
        "again; no operation lists them.",
        error.task_id,
    )
    failure.__cause__ = error
    return failure


def _not_blank(prompt: str) -> str:
    if not isinstance(cast("object", prompt), str) or not prompt.strip():
        raise ConfigurationError("A prompt is text, and not blank; nothing was sent.")  # the gateway charges for it
    return prompt


def _custom_id(task: Task, button: Button | str) -> str:
    """What a press sends. Raises for what the gateway refuses, or does not survive."""
    if not task.succeeded:
        advice = "submit it again" if task.done else "wait for it first"
        raise ConfigurationError(
            f"A button can be pressed once its task has succeeded. This one is {quote(task.status_name)}: {advice}."
        )
    is_id = isinstance(button, str) and button.startswith("MJ::")
    found = button if isinstance(button, Button) else Button(custom_id=button) if is_id else task.button(button)
    custom_id = found.custom_id or ""
    parts = custom_id.split("::")
    if found.style == 5 or not custom_id:
        name = quote(found.name)
        raise ConfigurationError(f"The button {name} is a link, or has no custom id: it cannot be pressed.")
    if parts[0] != "MJ" or not all(parts) or len(parts) < (4 if parts[1:2] == ["JOB"] else 3):
        raise ConfigurationError(f"{quote(custom_id)} is not a valid custom id: take one of the task's buttons.")
    if task.buttons and custom_id not in {b.custom_id for b in task.buttons}:  # some gateways send no buttons
        task.button(custom_id)  # raises ButtonNotFoundError
    return custom_id


def _error(response: httpx.Response, body: Json) -> MidjourneyError:
    """The error that a response without a task means. The first row that fits counts."""
    of = response.status_code, response.headers, body
    status, fields = response.status_code, body if isinstance(body, dict) else {}
    error, code, words = fields.get("error"), _code(fields), str(fields.get("description")).strip()
    is_page = status == 403 and isinstance(errors.error_from_response(*of), errors.ServerError)  # a firewall's
    if status in (401, 403) and not is_page:
        return (errors.AuthenticationError if status == 401 else errors.PermissionDeniedError)(*of)
    if code is not None:
        if code not in (1, 5, 21, 22) and not any(taken in words for taken in _TAKEN):
            quota = code == 4 and words.startswith("quota_not_enough")
            kind = errors.InsufficientQuotaError if quota else _ERRORS.get(code, errors.SubmissionRefusedError)
            return kind(*of)
    elif status == 429:
        return errors.RateLimitError(*of)
    elif status == 503 and isinstance(error, dict):
        failure = errors.ServerError(*of)
        return failure if errors.is_overload(failure) else errors.SubmissionRefusedError(*of)
    elif 300 <= status < 500:
        advice = "This gateway cannot press that button." if "unknown_action" in str(error) else ""
        return errors.SubmissionRefusedError(*of, "A web page answered." if is_page else advice)
    return unconfirmed(errors.APIResponseError(*of, "It does not tell whether the job was taken."))


def _code(fields: dict[str, Json]) -> int | None:
    code = fields.get("code")
    return code if type(code) is int else None  # True == 1
