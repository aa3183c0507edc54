"""An embedded AnyAPI for tests, demos and first steps: it takes submissions and plays the whole life of a task.

```python
with sandbox.serve(speed=100) as base_url, Midjourney(sandbox.API_KEY, base_url=base_url) as mj:
    ...
```

**Prompts.** Each prompt succeeds: it becomes a grid of four pictures that are different for each prompt. One of these
words in it, in lower case and between blanks, decides otherwise:

- `failure`: FAILURE with a reason, and the quota is refunded
- `cancelled`: CANCEL
- `never`: IN_PROGRESS, without an end
- `modal`: MODAL, until the window is answered
- `expired`: a grid whose picture answers HTTP 404
- `lost`: the task is taken and charged, and the connection closes without a response
- `banned`: refused with code 24
- `queue-full`: refused with code 23
- `no-quota`: refused with code 4, `quota_not_enough`
- `rate-limit`: HTTP 429 with an empty body; nothing is taken
- `bad-gateway`: HTTP 502 with nginx's page; nothing is taken
- `html`: HTTP 200 with a web page; nothing is taken

**Ids.** A task with one of these ids need not be submitted. It begins when its id is first used. Each id may have a
suffix, so that there are as many tasks as one likes: `success`, `success-2`, `success-cat`.

- `success`: a grid, with its nine buttons
- `failure`, `cancelled`, `never`, `modal`, `expired`: what the word in a prompt does
- `lost`: a grid; each task that one of its buttons submits is taken, and the connection closes without a response
- `upscale`: one picture with its sixteen buttons
- `describe`: a description, and no picture
- `video`: a video, in the 20 fields of newer gateways
- `rate-limit`, `bad-gateway`, `html`: each request for this id has that response; a list leaves the id out
- `1730621826053455`: the example of AnyAPI's documentation, finished at once

**Buttons.** All buttons of a grid and of a single picture work, but for those that the gateway refuses with
`unknown_action`: Animate, ❤️, and those of a description, of a shortened prompt and of a video. U2 gives the second
quarter of the grid. Vary (Region) and Custom Zoom open a window. Once that is answered, the gateway has two rows with
one id: a list shows both, and a fetch and the picture's address show the old one until one refresh after the end.

**Time.** Upstream, a task waits for 15 s, is handed over for 15 s, runs for 30 s and ends. The gateway shows what it
saw at its last refresh; it refreshes every 15 s. `speed` is how many times as fast this time runs; with `finished=True`
each task has ended when it is first seen.

**Quota.** With `quota=3` the third submission is the last that is taken. From then on the key is refused with 401, for
fetches too, as the gateway does.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import math
import secrets
import socket
import struct
import threading
import time
import zlib
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from random import Random
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import httpx

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
    from starlette.routing import Route
except ImportError as error:
    missing = "The sandbox needs more packages: pip install 'anyapi-midjourney[sandbox]'"
    if __name__ == "__main__":
        raise SystemExit(missing) from None
    raise ImportError(missing) from error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

__all__ = ["API_KEY", "EXAMPLE_ID", "KINDS", "app", "serve"]

_Json: TypeAlias = "dict[str, _Json] | list[_Json] | str | float | bool | None"
_Sent: TypeAlias = "Mapping[str, str]"

API_KEY = "sk-sandbox"
"""The key that the sandbox takes."""
EXAMPLE_ID = "1730621826053455"
"""The id of the example of AnyAPI's documentation."""
_REFRESH = 15.0
"""Seconds between two refreshes of the gateway, as in new-api's `controller/midjourney.go`."""
_HANDED_OVER, _STARTED, _ENDED = 15, 30, 60
"""The ages, in seconds, after which a task is handed over, has started and has ended."""
_JSON, _TEXT = "application/json; charset=utf-8", "text/plain; charset=utf-8"

_JOB = "3785da15-4f70-4034-9128-f3ff1ac634fa"
_CDN = "https://cdnmjp.oneabc.org/attachments/1300842274347028520/1302547211321741343/"
_SIGNATURE = "f6d701914d608e4da9298d2290b3616317264a70635fbf08a37ca6c1bb671b50&"
_PICTURE_URL = f"{_CDN}kennedyhernandez46715_74108_pig_{_JOB}.png?ex=6728831f&is=6727319f&hm={_SIGNATURE}"
_VIDEO = struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 512, b"isom") + struct.pack(">I4s", 8, b"mdat")
"""An MP4 with nothing in it but what tells that it is one."""
_NGINX = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center>nginx</center></body>\r\n</html>\r\n"
_WEB_PAGE = '<!doctype html>\n<html lang="zh">\n<head><meta charset="utf-8"><title>New API</title></head>\n</html>\n'


_PANS = {"left": ("⬅️", 0.3, 0), "right": ("➡️", -0.3, 0), "up": ("⬆️", 0, 0.3), "down": ("⬇️", 0, -0.3)}
"""By its side, the emoji of a pan, and how far the subject moves."""


def _buttons(*buttons: tuple[str, str, str]) -> list[_Json]:
    """Buttons of (custom id without `MJ::`, emoji, label); `#` stands for the job."""
    return [
        {"customId": f"MJ::{custom_id.replace('#', _JOB)}", "emoji": emoji, "label": label, "type": 2, "style": 2}
        for custom_id, emoji, label in buttons
    ]


def _single(redo: str = "") -> list[_Json]:
    """The buttons under one picture; under an enlarged one "Redo " stands before those that enlarge."""
    buttons = _buttons(
        ("JOB::upsample_v7_2x_subtle::1::#::SOLO", "upscale_1", f"{redo}Upscale (Subtle)"),
        ("JOB::upsample_v7_2x_creative::1::#::SOLO", "upscale_1", f"{redo}Upscale (Creative)"),
        ("JOB::low_variation::1::#::SOLO", "🪄", "Vary (Subtle)"),
        ("JOB::high_variation::1::#::SOLO", "🪄", "Vary (Strong)"),
        ("Inpaint::1::#::SOLO", "🖌️", "Vary (Region)"),
        ("Outpaint::50::1::#::SOLO", "🔍", "Zoom Out 2x"),
        ("Outpaint::75::1::#::SOLO", "🔍", "Zoom Out 1.5x"),
        ("CustomZoom::#", "🔍", "Custom Zoom"),
        *[(f"JOB::pan_{k}::1::#::SOLO", emoji, "") for k, (emoji, *_) in _PANS.items()],
        *[(f"JOB::animate_{k}::1::#::SOLO", "🎞️", f"Animate ({k.title()} motion)") for k in ("high", "low")],
        ("BOOKMARK::#", "❤️", ""),
    )
    return [*buttons, _WEB]


def _quarters(name: str, letter: str) -> list[_Json]:
    return _buttons(*[(f"JOB::{name}::{n}::#", "", f"{letter}{n}") for n in range(1, 5)])


def _numbered(custom_id: str) -> list[_Json]:
    return _buttons(*[(f"{custom_id}::{n}", f"{n}\ufe0f\u20e3", "") for n in range(1, 5)])


_WEB: _Json = {"customId": None, "emoji": None, "label": "Web", "type": 2, "style": 5}
_REROLL = _buttons(("JOB::reroll::0::#::SOLO", "🔄", ""))
_GRID = [*_quarters("upsample", "U"), *_REROLL, *_quarters("variation", "V")]
_BUTTONS = {  # of a task that succeeded; all others have those of a grid
    "UPSCALE": _single(),
    "DESCRIBE": _numbered("Job::PicReader")
    + _buttons(("Picread::Retry", "🔄", ""), ("Job::PicReader::all", "🎉", "Imagine all")),
    "SHORTEN": _numbered("Job::PromptAnalyzer"),
    "VIDEO": [*_quarters("video_virtual_upscale", "U"), *_REROLL, _WEB],
}
_DESCRIPTION = "1️⃣ a pig --ar 1:1\n\n2️⃣ a pink pig --ar 1:1\n\n3️⃣ a piglet --ar 1:1\n\n4️⃣ a small pig --ar 1:1"


class _Scene(NamedTuple):
    """What a picture shows: a disc before a sky. Lengths are parts of its side."""

    hue: float = 0.5
    x: float = 0.5
    y: float = 0.5
    radius: float = 0.25


_Scenes: TypeAlias = tuple[_Scene, ...]  # one, or the four of a grid


def _four(seed: str, like: _Scene | None = None, change: float = 1.0) -> _Scenes:
    """Four scenes that the seed decides. With a small change they resemble the given one."""
    dice = Random(seed)  # noqa: S311  (no secret)
    first, near = dice.random(), dice.uniform
    moves = [((first + n / 4) % 1 - 0.5, near(-0.3, 0.3), near(-0.3, 0.3), near(-0.1, 0.1)) for n in range(4)]
    scene = like or _Scene()
    return tuple(_Scene._make(part + change * by for part, by in zip(scene, move, strict=True)) for move in moves)


@lru_cache(maxsize=256)
def _picture(scenes: _Scenes, size: int = 256) -> bytes:
    """A PNG of one scene or of four."""
    columns = 1 if len(scenes) == 1 else 2
    side = size // columns

    def line(scene: _Scene, y: float) -> bytes:
        colours = (scene.hue, 0.7, 0.9 - y / 2), (scene.hue + 0.5, 0.6, 1.0)
        sky, disc = (bytes(int(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, s, v)) for hue, s, v in colours)
        half = math.sqrt(max(scene.radius**2 - (y - scene.y) ** 2, 0))
        left, right = (int(side * min(max(edge, 0), 1)) for edge in (scene.x - half, scene.x + half))
        return sky * left + disc * (right - left) + sky * (side - right)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bands = [scenes[n : n + columns] for n in range(0, len(scenes), columns)]
    lines = [b"\0" + b"".join(line(scene, y / side) for scene in band) for band in bands for y in range(side)]
    header, pixels = struct.pack(">2I5B", size, size, 8, 2, 0, 0, 0), zlib.compress(b"".join(lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@dataclass(slots=True, eq=False)
class _Row:
    """A row of the gateway's table. A task has a second one once its window was answered."""

    id: str
    action: str
    kind: str
    prompt: str
    scenes: _Scenes
    buttons: list[_Json] = field(default_factory=lambda: _GRID)
    state: str = ""
    prompt_en: str = ""
    submitted: float = 0
    answer: _Row | None = None


def _fields(row: _Row, age: float, submitted: int, image_url: str) -> dict[str, _Json]:
    """The fields of a task as the gateway saw it `age` seconds after its submission (ms since 1970)."""
    words = "Waiting for window confirm" if row.kind == "modal" else "Submit success"
    fields: dict[str, _Json] = {"id": row.id, "action": row.action, "customId": "", "botType": "", "prompt": row.prompt}
    fields |= {"promptEn": "", "description": words, "state": row.state, "submitTime": submitted, "startTime": 0}
    fields |= {"finishTime": 0, "imageUrl": "", "status": "", "progress": "0%", "failReason": "", "buttons": None}
    fields |= {"maskBase64": "", "properties": None}
    if row.action == "VIDEO":
        fields |= {"videoUrl": "", "videoUrls": None}
    if row.action in ("DESCRIBE", "SHORTEN"):
        image_url = ""
    if age <= 0:  # the gateway has not refreshed yet
        return fields
    fields |= {"properties": {"finalPrompt": "", "finalZhPrompt": ""}, "progress": ""}
    if row.kind == "modal":
        return fields | {"status": "MODAL"}
    fields["promptEn"] = row.prompt_en
    if age <= _HANDED_OVER:
        return fields | {"status": "NOT_START"}
    fields |= {"startTime": submitted + 1000 * _HANDED_OVER, "progress": "0%"}
    if age <= _STARTED:
        return fields | {"status": "SUBMITTED"}
    fields["properties"] = {"finalPrompt": row.prompt_en, "finalZhPrompt": ""}
    if age > _ENDED and row.kind != "never":
        return fields | {"finishTime": submitted + 1000 * _ENDED} | _end(row, image_url)
    preview = f"{image_url}?rand={time.time_ns()}" if image_url else ""
    percent = min(int((age - _STARTED) / (_ENDED - _STARTED) * 100), 99)
    return fields | {"status": "IN_PROGRESS", "progress": f"{percent}%", "imageUrl": preview}


def _end(row: _Row, image_url: str) -> dict[str, _Json]:
    if row.kind == "failure":  # the gateway writes 100% where there is a reason
        return {"status": "FAILURE", "progress": "100%", "failReason": "[Invalid parameter] Invalid value"}
    if row.kind == "cancelled":
        return {"status": "CANCEL", "progress": "", "startTime": 0, "finishTime": 0}
    end: dict[str, _Json] = {"status": "SUCCESS", "progress": "100%", "imageUrl": image_url, "buttons": row.buttons}
    if row.action == "VIDEO":
        end |= {"videoUrl": image_url, "videoUrls": [{"url": image_url}]}
    elif row.action == "DESCRIBE":
        end |= {"promptEn": _DESCRIPTION, "properties": {"finalPrompt": _DESCRIPTION, "finalZhPrompt": ""}}
    elif row.action == "SHORTEN":
        words = row.prompt.split()
        shorter = "\n\n".join(f"{n}\ufe0f\u20e3 {' '.join(words[:-n] or words[:1])}" for n in range(1, 5))
        end["properties"] = {"finalPrompt": f"## Shortened prompts\n{shorter}", "finalZhPrompt": ""}
    return end


_PIG = "pig --v 6.1"
_PIGS = _four(_PIG)
_EXAMPLE_ROW = _Row(EXAMPLE_ID, "IMAGINE", "success", _PIG, _PIGS, prompt_en=_PIG)
_TIMES: dict[str, _Json] = {"startTime": 1730621828024, "finishTime": 1730621855817}
_EXAMPLE = _fields(_EXAMPLE_ROW, 61, 1730621826053, _PICTURE_URL) | _TIMES


class _RefusedError(Exception):
    """A refusal in the shape of OpenAI's errors, from in front of the gateway's Midjourney handler."""


class _HangUp(Response):
    """No response at all: the connection closes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  (nothing is sent)
        for connection in [c for c in scope["app"].state.connections if c.client == scope["client"]]:
            connection.transport.close()
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        # Without a socket, what httpx raises with one.
        raise httpx.RemoteProtocolError("Server disconnected without sending a response.")


def _refused(description: str, media_type: str = _JSON) -> Response:
    """A refusal by the gateway's Midjourney handler, whose text ends in a blank."""
    body = {"code": 4, "description": f"{description} ", "type": "upstream_error"}
    return JSONResponse(body, 400, media_type=media_type)


def _passed_on(code: int, description: str, result: str | None = None, **properties: str) -> Response:
    """An upstream's response to a submission, which the gateway passes on without its content type."""
    body = {"code": code, "description": description, "result": result, "properties": properties}
    return JSONResponse(body, media_type=_TEXT)


_ACTIONS = {"describe": "DESCRIBE", "modal": "INPAINT", "upscale": "UPSCALE", "video": "VIDEO"}
"""What was submitted, by id. All others are IMAGINE."""
_FAULTS: dict[str, Callable[[str], Response]] = {
    "rate-limit": lambda _: Response(status_code=429),
    "bad-gateway": lambda _: HTMLResponse(_NGINX, 502),
    "html": lambda _: HTMLResponse(_WEB_PAGE),
}
_REFUSALS: dict[str, Callable[[str], Response]] = {
    "banned": lambda prompt: _passed_on(24, "可能包含敏感词", promptEn=prompt, bannedWord="banned"),
    "queue-full": lambda _: _passed_on(23, "队列已满，请稍后尝试"),
    "no-quota": lambda _: _refused("quota_not_enough"),
}
_COURSES = ("failure", "cancelled", "never", "modal", "expired", "lost")
KINDS = (EXAMPLE_ID, "success", *_COURSES, "describe", "upscale", "video", *_FAULTS)
"""The ids that decide what becomes of a task. Added in 0.2."""
_IDS = ", ".join(KINDS)
_RENAMED = {"upsample": "UPSCALE", "Outpaint": "ZOOM", "CustomZoom": "CUSTOM_ZOOM"}
_PRESSED = ("low_variation", "high_variation", "variation", "pan", "reroll", "Inpaint", *_RENAMED)
_FIELDS = ("prompt", "state", "taskId", "customId", "base64", "base64Array", "maskBase64", "botType", "dimensions")


def _kind(task_id: str) -> str:
    return next((kind for kind in KINDS if task_id == kind or task_id.startswith(f"{kind}-")), "")


def _word(prompt: str) -> str:
    return next((word for word in prompt.split() if word in (*_COURSES, *_FAULTS, *_REFUSALS)), "success")


def _texts(value: _Json) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError("json: cannot unmarshal into Go value of type string")
    return [text.encode(errors="replace").decode() for text in value if isinstance(text, str)]


def _sent(request: Request, body: bytes) -> _Sent:
    """The fields of a submission that the gateway knows, "" where there is none; the texts of a list in one."""
    sent: dict[str, str] = dict.fromkeys(_FIELDS, "")
    if not request.headers.get("content-type", "").startswith("application/json"):
        return sent  # the gateway then reads nothing
    try:
        fields: dict[str, _Json] = json.loads(body) or {}
        for name, value in fields.items():
            if name in sent and value is not None:
                sent[name] = "".join(_texts(value if name == "base64Array" else [value]))
    except (AttributeError, TypeError, ValueError) as error:
        raise _RefusedError(400, f"Invalid request: {error}") from None
    return sent


def _pressed(custom_id: str, scenes: _Scenes) -> tuple[str, _Scenes, list[_Json]]:
    """The action of a custom id, and the scenes and buttons of the task that it leads to.

    As new-api's `CoverPlusActionToNormalAction`; an IndexError stands where that panics.
    """
    if not custom_id:
        raise _RefusedError(400, "Invalid request: custom_id_is_required")
    parts = custom_id.split("::")
    name = parts[2] if parts[1] == "JOB" else parts[1]
    pressed = next((word for word in _PRESSED if word in name), None)
    if pressed is None:
        raise _RefusedError(400, f"Invalid request: unknown_action:{custom_id}")
    action = _RENAMED.get(pressed, pressed.upper())
    index = parts[3] if action in ("UPSCALE", "VARIATION") else "1"
    if not index.isdecimal():
        raise _RefusedError(400, "Invalid request: index_parse_failed")
    scene = scenes[(int(index) - 1) % len(scenes)] if scenes else _Scene()
    if action == "UPSCALE":
        return action, (scene,), _single("" if name == "upsample" else "Redo ")
    _, x, y = _PANS.get(name.removeprefix("pan_"), ("", 0, 0))
    scale = {"ZOOM": 0.75 if "::75::" in custom_id else 0.5, "CUSTOM_ZOOM": 0.5}.get(action, 1)
    x, y = (0.5 + (part - 0.5) * scale for part in (scene.x + x, scene.y + y))
    change = {"REROLL": 1.0, "VARIATION": 0.4, "HIGH_VARIATION": 0.4}.get(action, 0.1)
    return action, _four(custom_id, _Scene(scene.hue, x, y, scene.radius * scale), change), _GRID


class _Gateway:
    """The gateway's operations, on its table of tasks."""

    def __init__(self, speed: float, key: str, quota: int | None, finished: bool, clock: Callable[[], float]) -> None:
        self._speed, self._key, self._quota, self._clock = speed, key, quota, clock
        # The older row of an answered window ends one refresh after the newer.
        self._head_start = _ENDED + 2 * _REFRESH if finished else 0
        self._start, self._epoch = clock(), time.time()
        self._table = {EXAMPLE_ID: [_EXAMPLE_ROW]}
        self._charged: list[_Row] = []

    def operation(self, run: Callable[[Request, bytes], Response]) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of an operation that needs the key."""

        async def endpoint(request: Request) -> Response:
            number = time.strftime("%Y%m%d%H%M%S") + secrets.token_hex(8)
            try:
                self._check_key(request)
                response = run(request, await request.body())
            except _RefusedError as error:
                status, words = error.args
                body = {"code": "", "message": f"{words} (request id: {number})", "type": "new_api_error"}
                response = JSONResponse({"error": body}, status, media_type=_JSON)
            response.headers["X-Oneapi-Request-Id"] = number
            return response

        return endpoint

    def submission(self, run: Callable[[_Sent], Response]) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of an operation that submits, unless the task or the prompt names a fault."""

        def operation(request: Request, body: bytes) -> Response:
            sent = _sent(request, body)
            fault = _FAULTS.get(_kind(sent["taskId"])) or (_FAULTS | _REFUSALS).get(_word(sent["prompt"]))
            return fault(sent["prompt"]) if fault else run(sent)

        return self.operation(operation)

    def fetch(self, request: Request, _: bytes) -> Response:
        """`GET /mj/task/{id}/fetch`."""
        task_id: str = request.path_params["id"]
        if fault := _FAULTS.get(_kind(task_id)):
            return fault("")
        rows = self._rows(task_id)
        return JSONResponse(self._seen(rows[0], _images(request))) if rows else _refused("task_no_found")

    def list_tasks(self, request: Request, body: bytes) -> Response:
        """`POST /mj/task/list-by-condition`, the newest task first."""
        try:
            condition: dict[str, _Json] = json.loads(body) or {}
            ids = _texts(condition.get("ids") or [])
        except (AttributeError, TypeError, ValueError):
            return _refused("do_request_failed", _TEXT)
        if len(ids) > 32_765:  # too many for SQLite, and such a database error is answered with an empty list
            ids.clear()
        found = [rows for task_id in dict.fromkeys(reversed(ids)) if (rows := self._rows(task_id))]
        found.sort(key=lambda rows: rows[0].submitted, reverse=True)
        images = _images(request)
        return JSONResponse([self._seen(row, images) for rows in found for row in rows])

    async def image(self, request: Request) -> Response:
        """`GET /mj/image/{id}`, which needs no key."""
        rows = self._table.get(request.path_params["id"])
        if not rows:
            return JSONResponse({"error": "midjourney_task_not_found"}, 400, media_type=_JSON)
        row = rows[0]
        if not self._seen(row)["imageUrl"]:
            return JSONResponse({"error": "http_get_image_failed"}, 500, media_type=_JSON)
        if rows[-1].kind == "expired":
            return JSONResponse({"error": "This content is no longer available."}, 404, media_type=_JSON)
        headers = {"Access-Control-Allow-Origin": "*"}  # so that notebooks show it
        if row.action == "VIDEO":
            return Response(_VIDEO, headers=headers, media_type="video/mp4")
        return Response(_picture(rows[-1].scenes), headers=headers, media_type="image/png")

    def submit(self, action: str, sent: _Sent) -> Response:
        """`POST /mj/submit/imagine`, `/blend`, `/describe` and `/shorten`."""
        prompt = sent["prompt"]
        if action == "IMAGINE" and not prompt:
            return _refused("prompt_is_required")
        scenes = _four(prompt + sent["base64Array"])
        buttons = _BUTTONS.get(action, _GRID)
        return self._accept(_Row("", action, _word(prompt), prompt, scenes, buttons, sent["state"], prompt))

    def press(self, sent: _Sent) -> Response:
        """`POST /mj/submit/action`."""
        rows = self._rows(sent["taskId"])
        try:
            action, scenes, buttons = _pressed(sent["customId"], rows[-1].scenes if rows else ())
        except IndexError:
            return _HangUp()
        if not rows:
            return _refused("task_not_found")
        if self._seen(rows[0])["status"] != "SUCCESS":
            return _refused("task_status_not_success")
        opens = action in ("INPAINT", "CUSTOM_ZOOM")
        kind = "modal" if opens else "lost" if rows[0].kind == "lost" else "success"
        return self._accept(_Row("", action, kind, rows[0].prompt, scenes, buttons, sent["state"], rows[-1].prompt_en))

    def answer(self, sent: _Sent) -> Response:
        """`POST /mj/submit/modal`."""
        if not (rows := self._rows(sent["taskId"])):
            return _refused("task_not_found")
        window = rows[0]
        if window.kind != "modal" or window.answer:
            return _passed_on(4, "关联任务状态错误")
        prompt = sent["prompt"] or window.prompt
        kind = "success" if _word(prompt) == "modal" else _word(prompt)
        scenes = _four(prompt + sent["maskBase64"], window.scenes[0], 0.2)
        window.answer = _Row(window.id, "MODAL", kind, window.prompt, scenes, _GRID, sent["state"], prompt)
        return self._accept(window.answer)

    def _accept(self, row: _Row) -> Response:
        self._add(row)
        code, words = (21, "Waiting for window confirm") if row.kind == "modal" else (1, "Submit success")
        if self._quota is not None and code == 1:  # a window costs nothing, its answer does
            self._charged.append(row)
        if row.kind == "lost":
            return _HangUp()
        discord = {"discordInstanceId": "1572398367386955776", "discordChannelId": "1300842676874379336"}
        return _passed_on(code, words, row.id, **discord)

    def _add(self, row: _Row) -> None:
        row.id = row.id or f"{int((self._epoch + self._now()) * 1000)}{len(self._table) % 1000:03}"
        row.submitted = self._now() - self._head_start
        self._table.setdefault(row.id, []).append(row)

    def _rows(self, task_id: str) -> list[_Row]:
        """The rows of a task. One whose id decides what becomes of it is submitted when it is first used."""
        kind = _kind(task_id)
        if task_id not in self._table and kind and kind not in _FAULTS:
            action, prompt = _ACTIONS.get(kind, "IMAGINE"), "" if kind == "describe" else _PIG
            scenes = _PIGS[:1] if kind == "upscale" else _PIGS
            self._add(_Row(task_id, action, kind, prompt, scenes, _BUTTONS.get(action, _GRID), prompt_en=prompt))
        return self._table.get(task_id, [])

    def _now(self) -> float:
        return (self._clock() - self._start) * self._speed

    def _seen(self, row: _Row, images: str = "") -> dict[str, _Json]:
        """A row as the gateway saw it at its last refresh."""
        if row is _EXAMPLE_ROW:
            return _EXAMPLE
        live, at = row, self._now() // _REFRESH * _REFRESH
        if answer := row.answer:  # the gateway updates the newer row, and this one when that has ended
            if answer.kind != "never" and at - _REFRESH - answer.submitted > _ENDED:
                live = answer
            else:
                at = answer.submitted // _REFRESH * _REFRESH
        submitted = int((self._epoch + live.submitted) * 1000)
        fields = _fields(live, at - live.submitted, submitted, images + row.id)
        if live is not row:
            fields |= {"action": row.action, "state": row.state, "description": "Waiting for window confirm"}
        return fields

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("authorization", "")
        if given in ("", "midjourney-proxy"):  # as in new-api's `middleware/auth.go`
            given = request.headers.get("mj-api-secret", "")
        key, expected = (text.removeprefix("Bearer ").removeprefix("sk-") for text in (given, self._key))
        if key.startswith(f"{expected}-"):
            raise _RefusedError(403, "普通用户不支持指定渠道")
        if key != expected:
            raise _RefusedError(401, "无效的令牌" if key else "未提供令牌")
        refunded = sum(self._seen(row)["status"] == "FAILURE" for row in self._charged)
        if self._quota is not None and len(self._charged) - refunded >= self._quota:
            raise _RefusedError(401, f"该令牌额度已用尽 TokenStatusExhausted[sk-{key[:3]}***{key[-3:]}]")


def _images(request: Request) -> str:
    """The address of all pictures, with the path that the sandbox is mounted at."""
    return f"{request.url.scheme}://{request.url.netloc}{request.scope.get('root_path', '')}/mj/image/"


async def _nowhere(request: Request) -> Response:
    path = request.url.path
    if path.endswith("/") and "/mj/" in path:
        return RedirectResponse(path[:-1], 301 if request.method == "GET" else 307)
    # As new-api does: JSON under these three, else the web front end, with 200.
    if path.startswith(("/v1", "/api", "/assets")):
        message = f"Invalid URL ({request.method} {path})"
        error: _Json = {"message": message, "type": "invalid_request_error", "param": "", "code": ""}
        return JSONResponse({"error": error}, 404, media_type=_JSON)
    return HTMLResponse(_WEB_PAGE)


def app(
    *,
    speed: float = 1.0,
    api_key: str = API_KEY,
    quota: int | None = None,
    finished: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Starlette:
    """The sandbox as an ASGI application, for `httpx.ASGITransport`.

    Args:
        speed: How many times as fast as ours the sandbox's time runs.
        api_key: The key that it takes.
        quota: How many submissions it takes, before it refuses the key. None is no limit. Added in 0.2.
        finished: Whether each task has ended when it is first seen. Added in 0.2.
        clock: Seconds, as `time.monotonic` gives them; tests can pass their own.
    """
    if not 0 < speed < math.inf:
        raise ValueError("speed is a number above 0")
    gateway = _Gateway(speed, api_key, quota, finished, clock)
    operations = {
        "/mj/image/{id}": gateway.image,
        "/mj/task/{id}/fetch": gateway.operation(gateway.fetch),
        "/mj/task/list-by-condition": gateway.operation(gateway.list_tasks),
        "/mj/submit/action": gateway.submission(gateway.press),
        "/mj/submit/modal": gateway.submission(gateway.answer),
    }
    for name in ("imagine", "blend", "describe", "shorten"):
        operations[f"/mj/submit/{name}"] = gateway.submission(partial(gateway.submit, name.upper()))
    routes = [
        Route(f"{mode}{path}", endpoint, methods=["GET" if "{" in path else "POST"])
        for mode in ("", "/{mode}")  # whose name nobody checks
        for path, endpoint in operations.items()
    ]
    nowhere = Route("/{path:path}", _nowhere, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    application = Starlette(routes=[*routes, nowhere])
    application.state.connections = set()
    return application


@contextmanager
def serve(
    *, speed: float = 1.0, api_key: str = API_KEY, port: int = 0, quota: int | None = None, finished: bool = False
) -> Generator[str]:
    """Serves the sandbox on loopback while the `with` block lasts, and gives its base URL.

    Args:
        speed: How many times as fast as ours the sandbox's time runs.
        api_key: The key that it takes.
        port: 0 takes any free one.
        quota: How many submissions it takes, before it refuses the key. None is no limit. Added in 0.2.
        finished: Whether each task has ended when it is first seen. Added in 0.2.
    """
    with _serving(app(speed=speed, api_key=api_key, quota=quota, finished=finished), port) as base_url:
        yield base_url


@contextmanager
def _serving(application: Starlette, port: int = 0) -> Generator[str]:
    listener = socket.create_server(("127.0.0.1", port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does so only for sockets of its own
    config = uvicorn.Config(application, log_level="warning", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    application.state.connections = server.server_state.connections
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"  # it listens already: no request comes too early
    finally:
        server.should_exit = True
        thread.join()


def main(arguments: Sequence[str] | None = None, program: str = "python -m anyapi_midjourney.sandbox") -> None:
    """Serves until interrupted."""
    parser = argparse.ArgumentParser(program, description="An embedded AnyAPI.")
    parser.add_argument("--port", type=int, default=8080, help="0 takes any free one (default: 8080)")
    parser.add_argument("--speed", type=float, default=1.0, help="how many times as fast time runs (default: 1)")
    parser.epilog = f"Takes the key {API_KEY}. Tasks: {_IDS}; each may have a suffix, as success-2."
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        try:
            base_url = stack.enter_context(serve(speed=options.speed, port=options.port))
        except (OSError, OverflowError, ValueError) as error:
            parser.error(str(error))
        print(f"export ANYAPI_BASE_URL={base_url} ANYAPI_API_KEY={API_KEY}")
        print(f"Tasks: {_IDS}; each may have a suffix, as success-2. ^C stops.")
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
