"""The sandbox: an AnyAPI whose ids tell what becomes of a task."""

import subprocess
import sys
import zlib
from typing import Any

import anyio
import httpx
import pytest

from anyapi_midjourney import (
    AsyncMidjourney,
    AuthenticationError,
    InvalidResponseError,
    Midjourney,
    MidjourneyError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    Task,
    TaskNotFoundError,
    TaskStatus,
    sandbox,
)
from shells import EXAMPLE


class Sandbox:
    """The application, with a clock that stands still."""

    def __init__(self, **options: Any) -> None:
        self.now = 0.0
        self._transport = httpx.ASGITransport(sandbox.app(clock=lambda: self.now, **options))

    def fetch(self, task_id: str, key: str = sandbox.API_KEY, base_url: str = "http://localhost") -> Task:
        """One fetch, now."""

        async def run() -> Task:
            async with AsyncMidjourney(key, base_url=base_url, transport=self._transport, retries=0) as mj:
                return await mj.fetch(task_id)

        return anyio.run(run)

    def get(self, path: str) -> httpx.Response:
        """One plain GET, now."""

        async def run() -> httpx.Response:
            async with httpx.AsyncClient(base_url="http://localhost", transport=self._transport) as client:
                return await client.get(path)

        return anyio.run(run)

    def end(self, task_id: str) -> Task:
        """The task as it ends."""
        self.fetch(task_id)
        self.now += 90
        return self.fetch(task_id)


def test_the_example_of_the_document_comes_back_field_by_field() -> None:
    raw = Sandbox().fetch(sandbox.EXAMPLE_ID).raw.to_dict()
    assert raw == EXAMPLE
    assert list(Sandbox().fetch("success").raw.to_dict()) == list(EXAMPLE)


def test_a_task_lives_from_accepted_to_success_and_is_refreshed_every_15_s() -> None:
    box = Sandbox()
    box.now = 7.0
    seen: list[tuple[float, TaskStatus, int | None]] = []
    for tenth in range(70, 900):
        box.now = tenth / 10
        task = box.fetch("success-1")
        if not seen or (task.status, task.progress) != seen[-1][1:]:
            seen.append((box.now, task.status, task.progress))
    assert seen == [
        (7.0, TaskStatus.ACCEPTED, 0),
        (15.0, TaskStatus.NOT_START, None),
        (30.0, TaskStatus.SUBMITTED, 0),
        (45.0, TaskStatus.IN_PROGRESS, 26),
        (60.0, TaskStatus.IN_PROGRESS, 76),
        (75.0, TaskStatus.SUCCESS, 100),
    ]


def test_time_runs_as_fast_as_one_likes() -> None:
    box = Sandbox(speed=10)
    box.fetch("success")
    box.now = 7.6
    task = box.fetch("success")
    assert task.done
    assert task.queued_for is not None
    assert task.ran_for is not None
    assert (task.queued_for.total_seconds(), task.ran_for.total_seconds()) == (15, 45)


def test_a_preview_has_another_address_at_each_look_and_a_picture_keeps_its_own() -> None:
    box = Sandbox()
    box.fetch("success")
    box.now = 46
    first, second = box.fetch("success"), box.fetch("success")
    assert first.image_url is None
    assert first.preview_url
    assert second.preview_url
    assert first.preview_url != second.preview_url
    assert first.preview_url.partition("?rand=")[0] == "http://localhost/mj/image/success"
    box.now = 90
    assert box.fetch("success").image_url == "http://localhost/mj/image/success"


def test_each_magic_id_has_its_end() -> None:
    box = Sandbox()
    assert [b.name for b in box.end("success").buttons] == ["U1", "U2", "U3", "U4", "🔄", "V1", "V2", "V3", "V4"]
    assert (box.end("failure").status, box.fetch("failure").fail_reason) == (
        "FAILURE",
        "[Invalid parameter] Invalid value",
    )
    assert (box.end("cancelled").status, box.fetch("cancelled").failed) == ("CANCEL", True)
    assert (box.end("modal").status, box.fetch("modal").done) == ("MODAL", False)
    assert (box.end("never").status, box.fetch("never").progress) == ("IN_PROGRESS", 99)
    described = box.end("describe")
    assert described.succeeded
    assert described.image_url is None
    assert described.prompt_en == described.final_prompt != None  # noqa: E711
    assert [b.name for b in described.buttons] == ["1️⃣", "2️⃣", "3️⃣", "4️⃣", "🔄", "Imagine all"]
    assert len(box.end("upscale").buttons) == 16
    assert box.fetch("upscale").button("Vary (Region)").opens_modal
    video = box.end("video")
    assert video.video_urls == (video.video_url,) == (video.image_url,)
    assert len(video.raw.to_dict()) == 20
    box.now += 10**6
    assert not box.fetch("never").done
    assert box.fetch("modal").status == "MODAL"


@pytest.mark.parametrize(
    ("task_id", "error"),
    [
        ("rate-limit", RateLimitError),
        ("bad-gateway-2", ServerError),
        ("html", InvalidResponseError),
        ("1730621826053456", TaskNotFoundError),
        ("successful", TaskNotFoundError),
    ],
)
def test_faults_and_unknown_ids_have_their_errors(task_id: str, error: type[MidjourneyError]) -> None:
    with pytest.raises(error):
        Sandbox().fetch(task_id)


@pytest.mark.parametrize(
    ("key", "error"),
    [("sk-wrong", AuthenticationError), ("sk-", AuthenticationError), ("sk-sandbox-7", PermissionDeniedError)],
)
def test_the_key_is_checked_as_the_gateway_does(key: str, error: type[MidjourneyError]) -> None:
    with pytest.raises(error) as caught:
        Sandbox().fetch("success", key)
    assert caught.value.request_id  # type: ignore[attr-defined]  # both are APIResponseErrors
    assert Sandbox(api_key="sk-a-b").fetch("success", "a-b").status == ""


def test_a_mode_may_stand_before_the_path_and_a_wrong_path_answers_as_the_gateway_does() -> None:
    assert Sandbox().fetch("success", base_url="http://localhost/mj-fast").id == "success"
    for base_url in ("http://localhost/v1", "http://localhost/v1/x", "http://localhost/x/y"):
        with pytest.raises(InvalidResponseError):
            Sandbox().fetch("success", base_url=base_url)


def test_pictures_need_no_key_and_are_real() -> None:
    box = Sandbox()
    assert box.get("/mj/image/success").status_code == 400
    box.fetch("success")
    assert box.get("/mj/image/success").json() == {"error": "http_get_image_failed"}
    box.end("success")
    box.end("video")
    picture = box.get("/mj/image/success")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content == box.get(f"/mj/image/{sandbox.EXAMPLE_ID}").content
    rows = zlib.decompress(picture.content[picture.content.index(b"IDAT") + 4 : -16])
    middles = {bytes(rows[y * 385 + 1 + 3 * x :][:3]) for x in (32, 96) for y in (32, 96)}
    assert len(middles) == 4  # quarters of four colours
    assert box.get("/mj/image/video").content[4:8] == b"ftyp"


def test_time_that_stands_still_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"), sandbox.serve(speed=0):
        pass
    command = [sys.executable, "-m", "anyapi_midjourney.sandbox", "--port", "99999"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_it_serves_on_a_free_port_and_stops() -> None:
    with sandbox.serve(speed=1000) as base_url, Midjourney(sandbox.API_KEY, base_url=base_url) as mj:
        assert mj.fetch("success").status == ""
    with pytest.raises(ConnectionError), Midjourney("sk-sandbox", base_url=base_url, retries=0) as mj:
        mj.fetch("success")


def test_the_command_says_how_to_reach_it() -> None:
    command = [sys.executable, "-u", "-m", "anyapi_midjourney.sandbox", "--port", "0", "--speed", "10"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().split("ANYAPI_BASE_URL=")[1].split()[0]
        with Midjourney(sandbox.API_KEY, base_url=base_url) as mj:
            assert mj.fetch(sandbox.EXAMPLE_ID).succeeded
        process.send_signal(2)
        assert process.wait(10) == 0
