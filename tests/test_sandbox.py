"""The sandbox: an AnyAPI whose prompts and ids decide what becomes of a task."""

import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from anyapi_midjourney import sandbox
from anyapi_midjourney_generated import AuthenticatedClient
from anyapi_midjourney_generated.api.tasks import submit_imagine
from anyapi_midjourney_generated.models import ImagineRequest

EXAMPLE = json.loads((Path(__file__).parent / "cases/pub-01-anyapi-imagine-success.json").read_text("utf-8"))["body"]
GRID = ["U1", "U2", "U3", "U4", "🔄", "V1", "V2", "V3", "V4"]
LOST = "Server disconnected"


class Sandbox:
    """The application, with a clock that stands still."""

    def __init__(self, mount: str = "", **options: Any) -> None:
        self.now = 0.0
        application = sandbox.app(clock=lambda: self.now, **options)
        self._transport = httpx.ASGITransport(Starlette(routes=[Mount(mount, application)]) if mount else application)
        self._base_url = f"http://localhost{mount}"

    def send(self, method: str, path: str, key: str = sandbox.API_KEY, **options: Any) -> httpx.Response:
        async def run() -> httpx.Response:
            headers = {"Authorization": f"Bearer {key}"}
            async with httpx.AsyncClient(base_url=self._base_url, transport=self._transport, headers=headers) as client:
                return await client.request(method, path, **options)

        return anyio.run(run)

    def fetch(self, task_id: str) -> dict[str, Any]:
        task: dict[str, Any] = self.send("GET", f"/mj/task/{task_id}/fetch").json()
        return task

    def fetch_many(self, *ids: str) -> list[dict[str, Any]]:
        tasks: list[dict[str, Any]] = self.send("POST", "/mj/task/list-by-condition", json={"ids": ids}).json()
        return tasks

    def submit(self, operation: str, **fields: Any) -> httpx.Response:
        return self.send("POST", f"/mj/submit/{operation}", json=fields)

    def imagine(self, prompt: str) -> str:
        task_id: str = self.submit("imagine", prompt=prompt).json()["result"]
        return task_id

    def press(self, task_id: str, name: str) -> httpx.Response:
        buttons = self.fetch(task_id)["buttons"]
        custom_id = next(b["customId"] for b in buttons if name in (b["label"], b["emoji"]))
        return self.submit("action", taskId=task_id, customId=custom_id)

    def pixels(self, task_id: str) -> list[bytes]:
        picture = self.send("GET", f"/mj/image/{task_id}").content
        side = int.from_bytes(picture[16:20], "big")
        rows = zlib.decompress(picture[picture.index(b"IDAT") + 4 : -16])
        return [rows[y * (3 * side + 1) + 1 :][: 3 * side] for y in range(side)]


def names(task: dict[str, Any]) -> list[str]:
    return [button["label"] or button["emoji"] for button in task["buttons"]]


def test_the_example_of_the_document_comes_back_field_by_field() -> None:
    assert Sandbox().fetch(sandbox.EXAMPLE_ID) == EXAMPLE
    assert list(Sandbox().fetch("success")) == list(EXAMPLE)


def test_a_prompt_is_accepted_as_the_gateway_does_and_becomes_a_grid_at_the_refresh_after_its_end() -> None:
    box = Sandbox()
    box.now = 7.0
    response = box.submit("imagine", prompt="a pig on the moon", state="mine", unknown=1)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert response.headers["x-oneapi-request-id"]
    assert response.json() | {"result": "", "properties": {}} == {
        **{"code": 1, "description": "Submit success", "result": "", "properties": {}}
    }
    task_id = response.json()["result"]
    seen: list[tuple[float, str, str]] = []
    for tenth in range(70, 900, 5):
        box.now = tenth / 10
        task = box.fetch(task_id)
        if not seen or (task["status"], task["progress"]) != seen[-1][1:]:
            seen.append((box.now, task["status"], task["progress"]))
    assert seen == [
        (7.0, "", "0%"),
        (15.0, "NOT_START", ""),
        (30.0, "SUBMITTED", "0%"),
        (45.0, "IN_PROGRESS", "26%"),
        (60.0, "IN_PROGRESS", "76%"),
        (75.0, "SUCCESS", "100%"),
    ]
    assert (names(task), task["prompt"], task["state"]) == (GRID, "a pig on the moon", "mine")
    assert (task["startTime"] - task["submitTime"], task["finishTime"] - task["submitTime"]) == (15_000, 60_000)


def test_time_runs_as_fast_as_one_likes_and_a_finished_task_has_ended_at_first_sight() -> None:
    box, at_once = Sandbox(speed=10), Sandbox(finished=True)
    task_id = box.imagine("pig")
    box.now = 7.6
    assert box.fetch(task_id)["status"] == at_once.fetch(at_once.imagine("pig"))["status"] == "SUCCESS"
    window = at_once.press("upscale", "Vary (Region)").json()["result"]
    assert at_once.fetch(window)["status"] == "MODAL"
    at_once.submit("modal", taskId=window)
    assert [task["status"] for task in at_once.fetch_many(window)] == ["SUCCESS", "SUCCESS"]


def test_a_preview_has_another_address_at_each_fetch_and_all_addresses_keep_the_mount_path() -> None:
    box = Sandbox(mount="/new-api")
    box.fetch("success")
    box.now = 46
    first, second = (box.fetch("success")["imageUrl"] for _ in range(2))
    assert first != second
    assert first.partition("?rand=")[0] == "http://localhost/new-api/mj/image/success"
    box.now = 90
    assert box.fetch("success")["imageUrl"] == "http://localhost/new-api/mj/image/success"
    assert box.fetch_many("success")[0]["imageUrl"] == "http://localhost/new-api/mj/image/success"
    assert box.send("GET", "http://localhost/new-api/mj/image/success").headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("word", "status"), [("failure", "FAILURE"), ("cancelled", "CANCEL"), ("never", "IN_PROGRESS")]
)
def test_an_id_and_a_word_of_a_prompt_decide_how_a_task_ends(word: str, status: str) -> None:
    box = Sandbox()
    box.fetch(f"{word}-2")
    ids = (f"{word}-2", box.imagine(f"a {word} --v 7"))
    box.now = 10**6
    assert [box.fetch(task_id)["status"] for task_id in ids] == [status, status]
    assert bool(box.fetch(ids[1])["failReason"]) is (word == "failure")


def test_an_expired_picture_answers_404_and_a_video_has_the_fields_of_newer_gateways() -> None:
    box = Sandbox(finished=True)
    expired = box.imagine("expired pig")
    assert box.fetch(expired)["status"] == box.fetch("expired")["status"] == "SUCCESS"
    assert box.send("GET", f"/mj/image/{expired}").status_code == 404
    video = box.fetch("video")
    assert len(video) == 20
    assert video["videoUrls"] == [{"url": video["imageUrl"]}]
    assert box.send("GET", "/mj/image/video").content[4:8] == b"ftyp"


@pytest.mark.parametrize(
    ("word", "status", "start"),
    [
        ("banned", 200, '{"code":24,'),
        ("queue-full", 200, '{"code":23,'),
        ("no-quota", 400, '{"code":4,"description":"quota_not_enough ",'),
        ("rate-limit", 429, ""),
        ("bad-gateway", 502, "<html>"),
        ("html", 200, "<!doctype html>"),
    ],
)
def test_a_prompt_with_a_word_of_trouble_is_not_taken(word: str, status: int, start: str) -> None:
    box = Sandbox(quota=1)
    response = box.submit("imagine", prompt=f"a {word} pig")
    assert response.status_code == status
    assert response.text.startswith(start)
    assert box.imagine("pig")
    if word in sandbox.KINDS:
        box = Sandbox()
        for again in (box.send("GET", f"/mj/task/{word}/fetch"), box.submit("action", taskId=word, customId="MJ::x")):
            assert (again.status_code, again.text) == (response.status_code, response.text)
        assert [task["id"] for task in box.fetch_many(word, "success")] == ["success"]


def test_the_last_submission_of_a_quota_is_taken_and_then_the_key_is_refused_until_a_failure_is_refunded() -> None:
    box = Sandbox(quota=2)
    box.imagine("failure")
    last = box.imagine("pig")
    for response in (box.submit("imagine", prompt="pig"), box.send("GET", f"/mj/task/{last}/fetch")):
        assert response.status_code == 401
        assert "TokenStatusExhausted" in response.json()["error"]["message"]
    box.now = 90
    assert box.fetch(last)["status"] == "SUCCESS"


def test_a_lost_task_is_taken_and_charged_though_no_response_comes() -> None:
    box = Sandbox(finished=True, quota=2)
    box.fetch("lost")
    with pytest.raises(httpx.RemoteProtocolError, match=LOST):
        box.submit("imagine", prompt="a lost pig")
    with pytest.raises(httpx.RemoteProtocolError, match=LOST):
        box.press("lost", "U1")
    assert box.send("GET", "/mj/task/lost/fetch").status_code == 401


@pytest.mark.parametrize(
    ("parent", "name", "action", "buttons"),
    [
        *[("success", f"U{n}", "UPSCALE", 16) for n in range(1, 5)],
        *[("success", f"V{n}", "VARIATION", 9) for n in range(1, 5)],
        ("success", "🔄", "REROLL", 9),
        *[("upscale", f"Upscale ({how})", "UPSCALE", 16) for how in ("Subtle", "Creative")],
        ("upscale", "Vary (Subtle)", "LOW_VARIATION", 9),
        ("upscale", "Vary (Strong)", "HIGH_VARIATION", 9),
        *[("upscale", f"Zoom Out {factor}x", "ZOOM", 9) for factor in (2, 1.5)],
        *[("upscale", arrow, "PAN", 9) for arrow in ("⬅️", "➡️", "⬆️", "⬇️")],
    ],
)
def test_a_button_leads_to_a_task_with_its_action_buttons_and_prompt(
    parent: str, name: str, action: str, buttons: int
) -> None:
    box = Sandbox(finished=True)
    child = box.fetch(box.press(parent, name).json()["result"])
    assert (child["action"], len(names(child)), child["prompt"]) == (action, buttons, "pig --v 6.1")
    assert [name for name in names(child) if name.startswith("Redo")] == (
        ["Redo Upscale (Subtle)", "Redo Upscale (Creative)"] if name.startswith("Upscale") else []
    )
    assert box.pixels(child["id"]) != box.pixels(parent) or action == "UPSCALE"


def test_buttons_that_the_gateway_does_not_take_are_refused_with_its_words() -> None:
    box = Sandbox(finished=True)
    tasks = [box.fetch(task_id) for task_id in ("upscale", "describe", "video")]
    refused: list[str] = []
    for task, custom_id in ((task["id"], button["customId"]) for task in tasks for button in task["buttons"]):
        response = box.submit("action", taskId=task, customId=custom_id or "")
        if response.status_code == 400:
            refused.append(response.json()["error"]["message"].partition(" (request id")[0])
    families = ["JOB::animate_high", "JOB::animate_low", "BOOKMARK", *[f"Job::PicReader::{n}" for n in "1234"]]
    families += ["Picread::Retry", "Job::PicReader::all", *["JOB::video_virtual_upscale"] * 4]
    unknown = [message for message in refused if "unknown_action" in message]
    for message, family in zip(unknown, families, strict=True):
        assert message.startswith(f"Invalid request: unknown_action:MJ::{family}")
    assert set(refused) - set(unknown) == {"Invalid request: custom_id_is_required"}  # the links


@pytest.mark.parametrize("custom_id", ["nothing", "MJ::JOB::upsample"])
def test_a_malformed_custom_id_closes_the_connection(custom_id: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match=LOST):
        Sandbox().submit("action", taskId="success", customId=custom_id)


@pytest.mark.parametrize(
    ("operation", "fields", "word"),
    [
        ("imagine", {}, "prompt_is_required "),
        ("action", {"taskId": "1", "customId": "MJ::JOB::upsample::1::x"}, "task_not_found "),
        ("action", {"taskId": "success", "customId": "MJ::JOB::upsample::1::x"}, "task_status_not_success "),
        ("action", {"taskId": "success", "customId": "MJ::JOB::upsample::x::x"}, "index_parse_failed"),
        ("modal", {}, "task_not_found "),
        ("modal", {"taskId": "success"}, "关联任务状态错误"),
        ("imagine", {"prompt": 1}, "cannot unmarshal"),
        ("blend", {"base64Array": "data:"}, "cannot unmarshal"),
    ],
)
def test_what_a_submission_lacks_is_said_as_the_gateway_does(operation: str, fields: dict[str, Any], word: str) -> None:
    response = Sandbox().submit(operation, **fields)
    body = response.json()
    assert word in (body["error"]["message"] if "error" in body else body["description"])
    assert response.status_code == (200 if operation == "modal" and fields else 400)


@pytest.mark.parametrize(("before", "status"), [(90, "MODAL"), (1, "")])
def test_an_answered_window_has_two_rows_and_its_own_shows_the_end_one_refresh_late(before: int, status: str) -> None:
    box = Sandbox()
    box.fetch("upscale")
    box.now = 90
    opened = box.press("upscale", "Custom Zoom").json()
    assert (opened["code"], opened["description"]) == (21, "Waiting for window confirm")
    task_id = opened["result"]
    box.now += before
    assert box.fetch(task_id)["status"] == status
    answered = box.submit("modal", taskId=task_id, prompt="a cow --zoom 1.8").json()
    assert (answered["code"], answered["result"]) == (1, task_id)
    assert box.submit("modal", taskId=task_id).json()["code"] == 4
    box.now = 90 + before + 50
    assert [(task["action"], task["status"]) for task in box.fetch_many(task_id)] == [
        ("CUSTOM_ZOOM", status),
        ("MODAL", "IN_PROGRESS"),
    ]
    box.now = 90 + before + 75
    assert [task["status"] for task in box.fetch_many(task_id)] == [status, "SUCCESS"]
    assert (box.fetch(task_id)["status"], box.send("GET", f"/mj/image/{task_id}").status_code) == (status, 500)
    box.now += 15
    task = box.fetch(task_id)
    assert (task["action"], task["status"], names(task)) == ("CUSTOM_ZOOM", "SUCCESS", GRID)
    assert (task["prompt"], task["promptEn"]) == ("pig --v 6.1", "a cow --zoom 1.8")
    assert box.send("GET", f"/mj/image/{task_id}").status_code == 200


def test_describe_shorten_and_blend_end_with_what_they_are_for() -> None:
    box = Sandbox(finished=True)
    described, shortened, blended = (
        box.fetch(box.submit(operation, **fields).json()["result"])
        for operation, fields in (
            ("describe", {"base64": "data:image/png;base64,AA=="}),
            ("shorten", {"prompt": "a very very small pig"}),
            ("blend", {"base64Array": ["data:image/png;base64,AA=="] * 2}),
        )
    )
    assert described["promptEn"] == described["properties"]["finalPrompt"] != ""
    assert names(described) == ["1️⃣", "2️⃣", "3️⃣", "4️⃣", "🔄", "Imagine all"]
    assert described["imageUrl"] == shortened["imageUrl"] == ""
    assert shortened["properties"]["finalPrompt"].startswith("## Shortened prompts\n1️⃣ a very very small\n")
    assert (blended["action"], names(blended), bool(blended["imageUrl"])) == ("BLEND", GRID, True)


def test_u2_is_the_second_quarter_of_the_grid_and_each_prompt_has_a_picture_of_its_own() -> None:
    box = Sandbox(finished=True)
    grid, other = box.imagine("pig"), box.imagine("cow")
    quarters = [[row[:384], row[384:]] for row in box.pixels(grid)[:128]]
    second = box.pixels(box.press(grid, "U2").json()["result"])
    shrunk = [b"".join(row[6 * x : 6 * x + 3] for x in range(128)) for row in second[::2]]
    pairs = [
        (ours, theirs)
        for (_, quarter), row in zip(quarters, shrunk, strict=True)
        for ours, theirs in zip(quarter, row, strict=True)
    ]
    assert sum(abs(ours - theirs) > 8 for ours, theirs in pairs) < len(pairs) / 50  # the edge of the disc
    assert box.pixels(grid) == box.pixels(box.imagine("pig")) != box.pixels(other)
    assert Sandbox().send("GET", f"/mj/image/{grid}").json() == {"error": "midjourney_task_not_found"}


def test_a_list_has_its_own_order_each_task_once_and_only_what_exists() -> None:
    box = Sandbox()
    for box.now, task_id in enumerate(("success-3", "success-4", "success-5")):
        box.fetch(task_id)
    asked = ("success-5", "1", "success-3", "success-4", "success-3")
    assert [task["id"] for task in box.fetch_many(*asked)] == ["success-5", "success-4", "success-3"]
    assert box.fetch_many("success-3") == [box.fetch("success-3")]
    for body, status, text in (
        ("{}", 200, "[]"),
        ("null", 200, "[]"),
        ('{"ids": []}', 200, "[]"),
        (json.dumps({"ids": ["success"] * 40_000}), 200, "[]"),
        ('{"ids": [1]}', 400, '{"code":4,"description":"do_request_failed ","type":"upstream_error"}'),
        ('{"ids": "1"}', 400, '{"code":4,"description":"do_request_failed ","type":"upstream_error"}'),
        ("{", 400, '{"code":4,"description":"do_request_failed ","type":"upstream_error"}'),
    ):
        response = box.send("POST", "/mj/task/list-by-condition", content=body)
        assert (response.status_code, response.text) == (status, text)
        assert response.headers["content-type"] == (
            "application/json" if status == 200 else "text/plain; charset=utf-8"
        )


def test_paths_are_the_gateways() -> None:
    box = Sandbox()
    for mode in ("", "/mj-fast", "/v1"):
        assert box.send("GET", f"{mode}/mj/task/success/fetch").headers["content-type"] == "application/json"
        assert box.send("POST", f"{mode}/mj/submit/imagine", json={"prompt": "pig"}).json()["code"] == 1
    assert box.send("POST", "/mj/task/list-by-condition/").status_code == 307
    assert box.send("GET", "/mj/task/success/fetch/").headers["location"] == "/mj/task/success/fetch"
    for path in ("/mj/task/list-by-condition", "/mj/submit/imagine", "/x/y/mj/task/success/fetch", "/"):
        assert box.send("GET", path).headers["content-type"] == "text/html; charset=utf-8"
    assert box.send("GET", "/v1/x/mj/task/success/fetch").status_code == 404
    assert box.send("GET", "/mj/task/successful/fetch").json()["description"] == "task_no_found "


@pytest.mark.parametrize(("key", "status"), [("sk-wrong", 401), ("sk-", 401), ("sk-sandbox-7", 403), ("sandbox", 200)])
def test_the_key_is_checked_as_the_gateway_does(key: str, status: int) -> None:
    for method, path in (("GET", "/mj/task/success/fetch"), ("POST", "/mj/submit/describe")):
        response = Sandbox().send(method, path, key)
        assert response.status_code == status
        assert status == 200 or response.headers["x-oneapi-request-id"] in response.json()["error"]["message"]


def test_it_serves_over_a_socket_until_the_block_ends_and_hangs_up_on_lost_tasks() -> None:
    with sandbox.serve(finished=True) as base_url:
        with AuthenticatedClient(base_url, sandbox.API_KEY) as client:
            accepted = submit_imagine.sync(client=client, body=ImagineRequest(prompt="pig"))
        assert accepted is not None
        with httpx.Client(base_url=base_url, headers={"Authorization": sandbox.API_KEY}) as http:
            assert http.get(f"/mj/task/{accepted.result}/fetch").json()["status"] == "SUCCESS"
            with pytest.raises(httpx.RemoteProtocolError, match=LOST):
                http.post("/mj/submit/imagine", json={"prompt": "lost"})
            assert http.get("/mj/task/success/fetch").json()["status"] == "SUCCESS"
    with pytest.raises(httpx.ConnectError):
        httpx.get(base_url)


def test_the_command_says_how_to_reach_it_and_what_is_wrong() -> None:
    command = [sys.executable, "-u", "-m", "anyapi_midjourney.sandbox", "--speed", "10", "--port"]
    with subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().split("ANYAPI_BASE_URL=")[1].split()[0]
        headers = {"Authorization": sandbox.API_KEY}
        assert httpx.get(f"{base_url}/mj/task/{sandbox.EXAMPLE_ID}/fetch", headers=headers).json() == EXAMPLE
        process.send_signal(2)
        assert process.wait(10) == 0
    result = subprocess.run([*command, "99999"], capture_output=True, text=True, check=False)
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    with pytest.raises(ValueError, match="above 0"), sandbox.serve(speed=0):
        pass
