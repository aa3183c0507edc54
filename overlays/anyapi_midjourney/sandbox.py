"""An embedded AnyAPI for tests and for trying things out: `GET /mj/task/{id}/fetch` as the gateway answers it.

What a task becomes is told by its id, as the numbers of Stripe's test cards tell what a payment becomes. Each id may
have a suffix, so that there are as many tasks as one likes: "success", "success-2", "success-cat".

- `success`: a grid of four pictures with nine buttons
- `failure`: FAILURE with a reason
- `cancelled`: CANCEL
- `modal`: MODAL, for ever: a window is open that nobody answers
- `describe`: a description, and no picture
- `upscale`: one enlarged picture with sixteen buttons
- `video`: a video, in the 20 fields of newer gateways
- `never`: IN_PROGRESS, for ever
- `rate-limit`: HTTP 429, without a word
- `bad-gateway`: HTTP 502, with nginx's page
- `html`: HTTP 200, with a web page
- `1730621826053455`: the example of AnyAPI's documentation, finished at once

A task is submitted when its id is first asked for. Upstream, it waits for 15 s, is handed over for 15 s, runs for 30 s
and ends; what is shown is what the gateway saw when it last looked, every 15 s of the sandbox's time.
"""

from __future__ import annotations

import argparse
import json
import math
import secrets
import socket
import struct
import threading
import time
import zlib
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, Response
    from starlette.routing import Route
except ImportError as error:
    missing = "The sandbox needs more packages: pip install 'anyapi-midjourney[sandbox]'"
    if __name__ == "__main__":
        raise SystemExit(missing) from None
    raise ImportError(missing) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from starlette.requests import Request

    from .errors import Json

_VIDEO = struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 512, b"isom") + struct.pack(">I4s", 8, b"mdat")
"""An MP4 with nothing in it but what tells that it is one."""
__all__ = ["API_KEY", "EXAMPLE_ID", "app", "serve"]

API_KEY = "sk-sandbox"
"""The key that the sandbox takes."""
_REFRESH = 15.0
"""Seconds between two looks of the gateway at its upstream, as in new-api's `controller/midjourney.go`."""

EXAMPLE_ID = "1730621826053455"
"""The id of the example of AnyAPI's documentation."""
_JOB = "3785da15-4f70-4034-9128-f3ff1ac634fa"
_CDN = "https://cdnmjp.oneabc.org/attachments/1300842274347028520/1302547211321741343/"
_PIG = f"kennedyhernandez46715_74108_pig_{_JOB}.png?ex=6728831f&is=6727319f&hm="
_SIGNATURE = "f6d701914d608e4da9298d2290b3616317264a70635fbf08a37ca6c1bb671b50&"
_NGINX = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
_WEB_PAGE = '<!doctype html>\n<html lang="zh">\n<head><meta charset="utf-8"><title>New API</title></head>\n</html>\n'


def _buttons(*buttons: tuple[str, str, str]) -> list[Json]:
    """Buttons of (custom id without `MJ::`, emoji, label); `#` stands for the job."""
    return [
        {"customId": f"MJ::{said.replace('#', _JOB)}", "emoji": emoji, "label": label, "type": 2, "style": 2}
        for said, emoji, label in buttons
    ]


_AGAIN = ("JOB::reroll::0::#::SOLO", "🔄", "")
_WEB: Json = {"customId": None, "emoji": None, "label": "Web", "type": 2, "style": 5}
_GRID = _buttons(
    *[(f"JOB::upsample::{n}::#", "", f"U{n}") for n in range(1, 5)],
    _AGAIN,
    *[(f"JOB::variation::{n}::#", "", f"V{n}") for n in range(1, 5)],
)
_SINGLE = [
    *_buttons(
        ("JOB::upsample_v7_2x_subtle::1::#::SOLO", "upscale_1", "Upscale (Subtle)"),
        ("JOB::upsample_v7_2x_creative::1::#::SOLO", "upscale_1", "Upscale (Creative)"),
        ("JOB::low_variation::1::#::SOLO", "🪄", "Vary (Subtle)"),
        ("JOB::high_variation::1::#::SOLO", "🪄", "Vary (Strong)"),
        ("Inpaint::1::#::SOLO", "🖌️", "Vary (Region)"),
        ("Outpaint::50::1::#::SOLO", "🔍", "Zoom Out 2x"),
        ("Outpaint::75::1::#::SOLO", "🔍", "Zoom Out 1.5x"),
        ("CustomZoom::#", "🔍", "Custom Zoom"),
        ("JOB::pan_left::1::#::SOLO", "⬅️", ""),
        ("JOB::pan_right::1::#::SOLO", "➡️", ""),
        ("JOB::pan_up::1::#::SOLO", "⬆️", ""),
        ("JOB::pan_down::1::#::SOLO", "⬇️", ""),
        ("JOB::animate_high::1::#::SOLO", "🎞️", "Animate (High motion)"),
        ("JOB::animate_low::1::#::SOLO", "🎞️", "Animate (Low motion)"),
        ("BOOKMARK::#", "❤️", ""),
    ),
    _WEB,
]
_DESCRIPTION = "1️⃣ a pig --ar 1:1\n\n2️⃣ a pink pig --ar 1:1\n\n3️⃣ a piglet --ar 1:1\n\n4️⃣ a small pig --ar 1:1"
_DESCRIBED = _buttons(
    *[(f"Job::PicReader::{n}", f"{n}\ufe0f\u20e3", "") for n in range(1, 5)],
    ("Picread::Retry", "🔄", ""),
    ("Job::PicReader::all", "🎉", "Imagine all"),
)
_CLIPS = [
    *_buttons(*[(f"JOB::video_virtual_upscale::{n}::#", "", f"U{n}") for n in range(1, 5)], _AGAIN),
    _WEB,
]


# What was submitted, where it is not IMAGINE, and how each task ends.
_ACTIONS = {"describe": "DESCRIBE", "modal": "INPAINT", "upscale": "UPSCALE", "video": "VIDEO"}
_SUCCESS: dict[str, Json] = {"status": "SUCCESS", "progress": "100%"}
_ENDS: dict[str, dict[str, Json]] = {
    "success": {**_SUCCESS, "buttons": _GRID},
    # The gateway writes 100% where there is a reason, and where the upstream's own is kept, nothing.
    "failure": {"status": "FAILURE", "progress": "100%", "failReason": "[Invalid parameter] Invalid value"},
    "cancelled": {"status": "CANCEL", "progress": "", "startTime": 0, "finishTime": 0},
    "describe": {
        **_SUCCESS,
        "promptEn": _DESCRIPTION,
        "properties": {"finalPrompt": _DESCRIPTION, "finalZhPrompt": ""},
        "buttons": _DESCRIBED,
    },
    "upscale": {**_SUCCESS, "buttons": _SINGLE},
    "video": {**_SUCCESS, "buttons": _CLIPS},
    "modal": {},
    "never": {},
}
_WITH_PICTURE = ("success", "upscale", "video", "never")
_FAULTS: dict[str, Callable[[], Response]] = {
    "rate-limit": lambda: Response(status_code=429),
    "bad-gateway": lambda: HTMLResponse(_NGINX, 502),
    "html": lambda: HTMLResponse(_WEB_PAGE),
}
KINDS = (EXAMPLE_ID, *_ENDS, *_FAULTS)
_IDS = ", ".join(KINDS)


def _kind(task_id: str) -> str | None:
    return next((kind for kind in KINDS if task_id == kind or task_id.startswith(f"{kind}-")), None)


def _row(task_id: str, kind: str, age: float, submitted: int, image_url: str) -> dict[str, Json]:
    """The 18 fields of a task as the gateway saw it `age` seconds after its submission (ms since 1970)."""
    prompt = "" if kind == "describe" else "pig --v 6.1"
    row: dict[str, Json] = {
        "id": task_id,
        "action": _ACTIONS.get(kind, "IMAGINE"),
        "customId": "",
        "botType": "",
        "prompt": prompt,
        "promptEn": "",
        "description": "Waiting for window confirm" if kind == "modal" else "Submit success",
        "state": "",
        "submitTime": submitted,
        "startTime": 0,
        "finishTime": 0,
        "imageUrl": "",
        **({"videoUrl": "", "videoUrls": None} if kind == "video" else {}),
        "status": "",
        "progress": "0%",
        "failReason": "",
        "buttons": None,
        "maskBase64": "",
        "properties": None,
    }
    if age <= 0:  # the gateway has not looked yet
        return row
    row |= {"properties": {"finalPrompt": "", "finalZhPrompt": ""}, "progress": ""}
    if kind == "modal":
        return row | {"status": "MODAL"}
    row |= {"promptEn": prompt}
    if age <= 15:
        return row | {"status": "NOT_START"}
    row |= {"startTime": submitted + 15_000, "progress": "0%"}
    if age <= 30:
        return row | {"status": "SUBMITTED"}
    row |= {"properties": {"finalPrompt": prompt, "finalZhPrompt": ""}}
    if age <= 60 or kind == "never":
        preview = f"{image_url}?rand={time.time_ns()}" if kind in _WITH_PICTURE else ""
        percent = min(int((age - 30) / 30 * 100), 99)
        return row | {"status": "IN_PROGRESS", "progress": f"{percent}%", "imageUrl": preview}
    row |= {"finishTime": submitted + 60_000, "imageUrl": image_url if kind in _WITH_PICTURE else ""}
    if kind == "video":
        row |= {"videoUrl": image_url, "videoUrls": [{"url": image_url}]}
    return row | _ENDS[kind]


_EXAMPLE = _row(EXAMPLE_ID, "success", 61, 1730621826053, _CDN + _PIG + _SIGNATURE) | {
    "startTime": 1730621828024,
    "finishTime": 1730621855817,
}


class _Gateway:
    """The gateway's answers, from its table of the tasks that were asked for."""

    def __init__(self, speed: float, api_key: str, clock: Callable[[], float]) -> None:
        self._speed = speed
        self._api_key = api_key
        self._clock = clock
        self._start = clock()
        self._epoch = time.time()
        self._submitted: dict[str, float] = {}

    async def fetch(self, request: Request) -> Response:
        """`GET /mj/task/{id}/fetch`, also with a mode before it, whose name nobody checks."""
        if request.path_params.get("mode") in ("v1", "api", "assets"):
            return await _nowhere(request)
        number = time.strftime("%Y%m%d%H%M%S") + secrets.token_hex(8)
        response = self._refused(request, number) or self._look(request)
        response.headers["X-Oneapi-Request-Id"] = number
        return response

    async def image(self, request: Request) -> Response:
        """`GET /mj/image/{id}`, which asks for no key."""
        task_id: str = request.path_params["id"]
        kind = _kind(task_id)
        if kind is None or (task_id != EXAMPLE_ID and task_id not in self._submitted):
            return _json(400, {"error": "midjourney_task_not_found"})
        row = self._seen(task_id, kind, "")
        if not row["imageUrl"]:
            return _json(500, {"error": "http_get_image_failed"})
        if row.get("videoUrl"):
            return Response(_VIDEO, media_type="video/mp4")
        return Response(_picture(), media_type="image/png")

    def _refused(self, request: Request, number: str) -> Response | None:
        given = request.headers.get("authorization", "")
        if given in ("", "midjourney-proxy"):  # as in new-api's `middleware/auth.go`
            given = request.headers.get("mj-api-secret", "")
        key, expected = (text.removeprefix("Bearer ").removeprefix("sk-") for text in (given, self._api_key))
        if key == expected:
            return None
        status, words = (401, "无效的令牌") if key else (401, "未提供令牌")
        if key.startswith(f"{expected}-"):
            status, words = 403, "普通用户不支持指定渠道"
        error: Json = {"message": f"{words} (request id: {number})", "type": "new_api_error"}
        return _json(status, {"error": error})

    def _look(self, request: Request) -> Response:
        task_id: str = request.path_params["id"]
        kind = _kind(task_id)
        if kind is None:
            return _json(400, {"code": 4, "description": "task_no_found ", "type": "upstream_error"})
        if fault := _FAULTS.get(kind):
            return fault()
        return _json(200, self._seen(task_id, kind, str(request.base_url)))

    def _seen(self, task_id: str, kind: str, base_url: str) -> dict[str, Json]:
        if kind == EXAMPLE_ID:
            return _EXAMPLE
        now = (self._clock() - self._start) * self._speed
        submitted = self._submitted.setdefault(task_id, now)
        age = math.floor(now / _REFRESH) * _REFRESH - submitted
        return _row(task_id, kind, age, int((self._epoch + submitted) * 1000), f"{base_url}mj/image/{task_id}")


def app(*, speed: float = 1.0, api_key: str = API_KEY, clock: Callable[[], float] = time.monotonic) -> Starlette:
    """The sandbox as an ASGI application, for `httpx.ASGITransport`.

    Args:
        speed: How many times as fast as ours the sandbox's time runs.
        api_key: The key that it takes.
        clock: Seconds, as `time.monotonic` gives them; tests can pass their own.
    """
    if not 0 < speed < math.inf:
        raise ValueError("speed is a number above 0")
    gateway = _Gateway(speed, api_key, clock)
    return Starlette(
        routes=[
            Route("/mj/task/{id}/fetch", gateway.fetch),
            Route("/{mode}/mj/task/{id}/fetch", gateway.fetch),
            Route("/mj/image/{id}", gateway.image),
            Route("/{path:path}", _nowhere),
        ]
    )


@contextmanager
def serve(*, speed: float = 1.0, api_key: str = API_KEY, port: int = 0) -> Generator[str]:
    """Serves the sandbox on loopback while the `with` block lasts, and gives its base URL.

    Args:
        speed: How many times as fast as ours the sandbox's time runs.
        api_key: The key that it takes.
        port: 0 takes any free one.
    """
    application = app(speed=speed, api_key=api_key)
    listener = socket.create_server(("127.0.0.1", port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does so only for sockets of its own
    config = uvicorn.Config(
        application,
        log_level="warning",
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"  # it listens already: no request comes too early
    finally:
        server.should_exit = True
        thread.join()


@cache
def _picture() -> bytes:
    """A PNG of a 2 × 2 grid, each quarter a gradient of its own colour."""
    size = 128
    colours = ((230, 80, 60), (60, 140, 220), (90, 180, 90), (240, 190, 60))

    def pixel(x: int, y: int) -> bytes:
        light = (x % (size // 2) + y % (size // 2)) / size
        return bytes(int(c + (255 - c) * light) for c in colours[2 * (2 * y // size) + 2 * x // size])

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"".join(pixel(x, y) for x in range(size)) for y in range(size))
    header = struct.pack(">2I5B", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


async def _nowhere(request: Request) -> Response:
    # As new-api does: JSON under these three, else the web front end, with 200.
    if request.url.path.startswith(("/v1", "/api", "/assets")):
        message = f"Invalid URL ({request.method} {request.url.path})"
        error: Json = {"message": message, "type": "invalid_request_error", "param": "", "code": ""}
        return _json(404, {"error": error})
    return HTMLResponse(_WEB_PAGE)


def _json(status: int, body: Json) -> Response:
    media_type = "application/json" if status == 200 else "application/json; charset=utf-8"
    return Response(json.dumps(body, ensure_ascii=False), status, media_type=media_type)


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
