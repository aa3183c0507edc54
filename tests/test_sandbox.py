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

from anyapi_midjourney import sandbox

EXAMPLE = json.loads((Path(__file__).parent / "cases/pub-01-anyapi-imagine-success.json").read_text("utf-8"))["body"]
GRID = ["U1", "U2", "U3", "U4", "🔄", "V1", "V2", "V3", "V4"]


class Sandbox:
    """The application, with a clock that stands still."""

    def __init__(self, mount: str = "", **options: Any) -> None:
        self.now: float = 0
        self._transport = httpx.ASGITransport(sandbox.app(clock=lambda: self.now, **options), root_path=mount)
        self._base_url = f"http://localhost{mount}"

    def send(self, method: str, path: str, key: str = sandbox.API_KEY, **options: Any) -> httpx.Response:
        async def run() -> httpx.Response:
            async with httpx.AsyncClient(base_url=self._base_url, transport=self._transport) as client:
                return await client.request(method, path, headers={"Authorization": f"Bearer {key}"}, **options)

        return anyio.run(run)

    def fetch(self, task_id: str) -> Any:
        return self.send("GET", f"/mj/task/{task_id}/fetch").json()

    def fetch_many(self, *ids: str) -> Any:
        return self.send("POST", "/mj/task/list-by-condition", json={"ids": ids}).json()

    def submit(self, operation: str, **fields: Any) -> httpx.Response:
        return self.send("POST", f"/mj/submit/{operation}", json=fields)

    def imagine(self, prompt: str) -> Any:
        return self.submit("imagine", prompt=prompt).json()["result"]

    def press(self, task_id: str, name: str) -> httpx.Response:
        task = self.fetch(task_id)
        return self.submit("action", taskId=task_id, customId=task["buttons"][names(task).index(name)]["customId"])

    def pixels(self, task_id: str) -> list[bytes]:
        picture = self.send("GET", f"/mj/image/{task_id}").content
        rows = zlib.decompress(picture[picture.index(b"IDAT") + 4 : -16])
        return [rows[y * 769 + 1 :][:768] for y in range(256)]


def names(task: dict[str, Any]) -> list[str]:
    return [button["label"] or button["emoji"] for button in task["buttons"]]


def test_a_prompt_is_accepted_as_the_gateway_does_and_becomes_a_grid_at_the_refresh_after_its_end() -> None:
    box = Sandbox()
    box.now = 7
    response = box.submit("imagine", prompt="a pig on the moon", state="mine", unknown=1)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert response.text.startswith('{"code":1,"description":"Submit success","result":"')
    seen: list[str] = []
    for box.now in (7, 14.9, 15, 29.9, 30, 44.9, 45, 59.9, 60, 74.9, 75, 89.9):
        seen.append("{status} {progress}".format_map(box.fetch(response.json()["result"])))
    assert seen[::2] == [" 0%", "NOT_START ", "SUBMITTED 0%", "IN_PROGRESS 26%", "IN_PROGRESS 76%", "SUCCESS 100%"]
    assert seen[::2] == seen[1::2]
    (task,) = box.fetch_many(response.json()["result"])
    assert (list(task), names(task), task["state"]) == (list(EXAMPLE), GRID, "mine")
    assert (task["startTime"] - task["submitTime"], task["finishTime"] - task["submitTime"]) == (15_000, 60_000)


def test_time_runs_as_fast_as_one_likes_and_a_finished_task_has_ended_at_first_sight() -> None:
    box, at_once = Sandbox(speed=10), Sandbox(finished=True)
    task_id = box.imagine("pig")
    box.now = 7.6
    window = at_once.press("upscale", "Vary (Region)").json()["result"]
    assert (box.fetch(task_id)["status"], at_once.fetch(window)["status"]) == ("SUCCESS", "MODAL")
    at_once.submit("modal", taskId=window)
    assert [task["status"] for task in at_once.fetch_many(window)] == ["SUCCESS", "SUCCESS"]


def test_a_preview_has_another_address_at_each_fetch_and_all_addresses_keep_the_mount_path() -> None:
    box = Sandbox(mount="/new-api")
    task_id = box.imagine("pig")
    address = f"http://localhost/new-api/mj/image/{task_id}"
    box.now = 46
    first, second = (box.fetch(task_id)["imageUrl"].partition("?rand=") for _ in range(2))
    assert (first[0], second[0], first == second) == (address, address, False)
    box.now = 90
    assert box.fetch(task_id)["imageUrl"] == box.fetch_many(task_id)[0]["imageUrl"] == address
    assert box.send("GET", address).headers["content-type"] == "image/png"


ENDS = {"failure": "FAILURE", "cancelled": "CANCEL", "never": "IN_PROGRESS"}


@pytest.mark.parametrize("word", ENDS)
def test_an_id_and_a_word_of_a_prompt_decide_how_a_task_ends(word: str) -> None:
    box = Sandbox()
    ids = (box.fetch(f"{word}-2")["id"], box.imagine(f"a {word} --v 7"))
    box.now = 10**6
    ends = [(task["status"], bool(task["failReason"])) for task in map(box.fetch, ids)]
    assert ends == [(ENDS[word], word == "failure")] * 2


def test_an_expired_picture_answers_404_and_a_video_has_the_fields_of_newer_gateways() -> None:
    box = Sandbox(finished=True)
    for task_id in ("expired", box.imagine("expired pig")):
        assert box.fetch(task_id)["status"] == "SUCCESS"
        assert box.send("GET", f"/mj/image/{task_id}").status_code == 404
    video = box.fetch("video")
    assert (len(video), video["videoUrls"]) == (20, [{"url": video["imageUrl"]}])
    assert box.send("GET", "/mj/image/video").content[4:8] == b"ftyp"


REFUSED = {"banned": (200, '{"code":24,'), "queue-full": (200, '{"code":23,'), "no-quota": (400, '{"code":4,"desc')}
FAULTS = {"rate-limit": (429, ""), "bad-gateway": (502, "<html>"), "html": (200, "<!doctype html>")}


@pytest.mark.parametrize("word", REFUSED | FAULTS)
def test_a_prompt_or_an_id_of_trouble_is_answered_with_it_and_not_taken(word: str) -> None:
    box, (status, start) = Sandbox(quota=1), (REFUSED | FAULTS)[word]
    responses = [box.submit("imagine", prompt=f"a {word} pig")]
    if word in FAULTS:
        responses += [box.send("GET", f"/mj/task/{word}/fetch"), box.submit("action", taskId=word, customId="MJ::x")]
        assert box.fetch_many(word) == []
    for response in responses:
        assert (response.status_code, response.text[: len(start)]) == (status, start)
    assert box.imagine("pig")  # nothing was charged


def test_the_last_submission_of_a_quota_is_taken_then_the_key_is_refused_until_a_failure_is_refunded() -> None:
    box = Sandbox(quota=2)
    _, last = box.imagine("failure"), box.imagine("pig")
    assert box.submit("imagine", prompt="pig").status_code == 401
    assert "TokenStatusExhausted" in box.fetch(last)["error"]["message"]
    box.now = 90
    assert box.fetch(last)["status"] == "SUCCESS"


def test_a_lost_task_is_taken_and_charged_though_no_response_comes() -> None:
    box = Sandbox(finished=True, quota=2)
    with pytest.raises(httpx.RemoteProtocolError, match="disconnected"):
        box.submit("imagine", prompt="a lost pig")
    with pytest.raises(httpx.RemoteProtocolError, match="disconnected"):
        box.press("lost", "U1")
    assert box.send("GET", "/mj/task/lost/fetch").status_code == 401


OUTCOMES = {  # by button: the action, ? for unknown_action, and - for a link, which has no custom id
    "success": "UPSCALE UPSCALE UPSCALE UPSCALE REROLL VARIATION VARIATION VARIATION VARIATION",
    "upscale": "UPSCALE UPSCALE LOW_VARIATION HIGH_VARIATION INPAINT ZOOM ZOOM CUSTOM_ZOOM PAN PAN PAN PAN ? ? ? -",
    "describe": "? ? ? ? ? ?",
    "video": "? ? ? ? REROLL -",
}


@pytest.mark.parametrize("parent", OUTCOMES)
def test_a_button_leads_to_its_task_or_is_refused_as_the_gateway_does(parent: str) -> None:
    box = Sandbox(finished=True)
    for name, outcome in zip(names(box.fetch(parent)), OUTCOMES[parent].split(), strict=True):
        response = box.press(parent, name)
        if response.status_code == 400:
            words = {"?": "unknown_action:MJ::", "-": "custom_id_is_required"}[outcome]
            assert response.json()["error"]["message"].startswith(f"Invalid request: {words}")
            continue
        child = box.fetch(response.json()["result"])
        assert (child["action"], child["prompt"]) == (outcome, "pig --v 6.1")
        assert child["status"] == ("MODAL" if response.json()["code"] == 21 else "SUCCESS")
        if child["buttons"]:
            redo = [name for name in names(child) if name.startswith("Redo")]
            assert (len(names(child)), len(redo)) == (16 if outcome == "UPSCALE" else 9, 2 if "Upscale" in name else 0)


U1 = "MJ::JOB::upsample::1::x"
MISTAKES: dict[str, dict[str, Any]] = {
    '{"code":4,"description":"prompt_is_required ","type":"upstream_error"}': {},
    '{"code":4,"description":"task_not_found ",': {"taskId": "1", "customId": U1},
    '{"code":4,"description":"task_status_not_success ",': {"taskId": "success", "customId": U1},
    '{"error":{"code":"","message":"Invalid request: json: cannot unmarshal': {"prompt": 1},
}


@pytest.mark.parametrize("start", MISTAKES)
def test_a_mistake_is_answered_with_400_and_a_malformed_custom_id_not_at_all(start: str) -> None:
    operation = "action" if "customId" in MISTAKES[start] else "imagine"
    response = Sandbox().submit(operation, **MISTAKES[start])
    assert (response.status_code, response.text[: len(start)]) == (400, start)
    for custom_id in ("nothing", "MJ::JOB::upsample"):
        with pytest.raises(httpx.RemoteProtocolError, match="disconnected"):
            Sandbox().submit("action", taskId="success", customId=custom_id)


@pytest.mark.parametrize(("before", "status"), [(90, "MODAL"), (1, "")])
def test_an_answered_window_has_two_rows_and_its_own_shows_the_end_one_refresh_late(before: int, status: str) -> None:
    box = Sandbox()
    box.fetch("upscale")
    box.now, answered = 90, 90 + before
    opened = box.press("upscale", "Custom Zoom").json()
    box.now, task_id = answered, opened["result"]
    answers = [box.submit("modal", taskId=task_id, prompt="a cow --zoom 1.8").json() for _ in range(2)]
    assert (opened["code"], [answer["code"] for answer in answers], answers[0]["result"]) == (21, [1, 4], task_id)
    for box.now, end in ((answered + 50, "IN_PROGRESS"), (answered + 75, "SUCCESS")):
        rows = [(task["action"], task["status"]) for task in box.fetch_many(task_id)]
        assert rows == [("CUSTOM_ZOOM", status), ("MODAL", end)]
        assert (box.fetch(task_id)["status"], box.send("GET", f"/mj/image/{task_id}").status_code) == (status, 500)
    box.now += 15
    task = box.fetch(task_id)
    assert (task["action"], task["prompt"], names(task)) == ("CUSTOM_ZOOM", "pig --v 6.1", GRID)
    assert task["promptEn"] == task["properties"]["finalPrompt"] == "a cow --zoom 1.8"
    assert box.send("GET", f"/mj/image/{task_id}").status_code == 200


def test_describe_shorten_and_blend_end_with_what_they_are_for() -> None:
    box, image = Sandbox(finished=True), "data:image/png;base64,AA=="
    described = box.fetch(box.submit("describe", base64=image).json()["result"])
    shortened = box.fetch(box.submit("shorten", prompt="a very very small pig").json()["result"])
    blended = box.fetch(box.submit("blend", base64Array=[image, image]).json()["result"])
    assert described["promptEn"] == described["properties"]["finalPrompt"] != described["imageUrl"] == ""
    assert shortened["properties"]["finalPrompt"].startswith("## Shortened prompts\n1️⃣ a very very small\n")
    assert (blended["action"], names(blended), bool(blended["imageUrl"])) == ("BLEND", GRID, True)


def test_u2_is_the_second_quarter_of_the_grid_and_each_prompt_has_a_picture_of_its_own() -> None:
    box = Sandbox(finished=True)
    grid = box.imagine("pig")
    second = box.pixels(box.press(grid, "U2").json()["result"])
    quarter = b"".join(row[384:] for row in box.pixels(grid)[:128])
    shrunk = b"".join(row[6 * x :][:3] for row in second[::2] for x in range(128))
    # Only the edge of the disc differs.
    assert sum(abs(a - b) > 8 for a, b in zip(quarter, shrunk, strict=True)) < len(quarter) / 50
    assert box.pixels(grid) == box.pixels(box.imagine("pig")) != box.pixels(box.imagine("cow"))


def test_a_list_has_its_own_order_each_task_once_and_only_what_exists() -> None:
    box = Sandbox()
    for box.now, task_id in enumerate(("success-3", "success-4", "success-5")):
        box.fetch(task_id)
    asked = ("success-5", "1", "success-3", "success-4", "success-3")
    assert [task["id"] for task in box.fetch_many(*asked)] == ["success-5", "success-4", "success-3"]
    assert box.fetch_many("success-3") == [box.fetch("success-3")]
    for body in ("{}", "null", '{"ids": []}', json.dumps({"ids": ["success"] * 40_000})):
        assert box.send("POST", "/mj/task/list-by-condition", content=body).text == "[]"
    for body in ('{"ids": [1]}', '{"ids": "1"}', "{"):
        response = box.send("POST", "/mj/task/list-by-condition", content=body)
        assert (response.status_code, response.headers["content-type"]) == (400, "text/plain; charset=utf-8")


def test_paths_are_the_gateways() -> None:
    box = Sandbox()
    for mode in ("", "/mj-fast", "/v1"):
        assert box.send("POST", f"{mode}/mj/submit/imagine", json={"prompt": "pig"}).json()["code"] == 1
    assert box.send("POST", "/mj/task/list-by-condition/").status_code == 307
    for path in ("/mj/task/list-by-condition", "/mj/submit/imagine", "/x/y/mj/task/success/fetch", "/"):
        assert box.send("GET", path).headers["content-type"] == "text/html; charset=utf-8"
    assert box.send("GET", "/v1/x/mj/task/success/fetch").status_code == 404
    assert box.fetch("successful")["description"] == "task_no_found "
    assert box.send("GET", "/mj/image/successful").json() == {"error": "midjourney_task_not_found"}


@pytest.mark.parametrize(("key", "status"), [("sk-wrong", 401), ("sk-", 401), ("sk-sandbox-7", 403), ("sandbox", 200)])
def test_the_key_is_checked_as_the_gateway_does(key: str, status: int) -> None:
    response = Sandbox().send("POST", "/mj/submit/describe", key)
    assert response.status_code == status
    assert status == 200 or response.headers["x-oneapi-request-id"] in response.json()["error"]["message"]


def test_over_a_socket_it_hangs_up_on_lost_tasks_refuses_wrong_options_and_ends_with_the_block() -> None:
    with sandbox.serve(finished=True) as base_url:
        headers = {"Authorization": sandbox.API_KEY}
        with pytest.raises(httpx.RemoteProtocolError, match="disconnected"):
            httpx.post(f"{base_url}/mj/submit/imagine", headers=headers, json={"prompt": "lost"})
        for wrong in ("--speed=0", f"--port={httpx.URL(base_url).port}"):
            with pytest.raises(SystemExit, match="2"):
                sandbox.main([wrong])
        assert httpx.get(f"{base_url}/mj/task/success/fetch", headers=headers).json()["status"] == "SUCCESS"
    with pytest.raises(httpx.ConnectError):
        httpx.get(base_url)


def test_the_command_says_how_to_reach_it() -> None:
    command = [sys.executable, "-u", "-m", "anyapi_midjourney.sandbox", "--speed=10", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().split("ANYAPI_BASE_URL=")[1].split()[0]
        url, headers = f"{base_url}/mj/task/{sandbox.EXAMPLE_ID}/fetch", {"mj-api-secret": sandbox.API_KEY}
        assert httpx.get(url, headers=headers).json() == EXAMPLE
        process.send_signal(2)
        assert process.wait(10) == 0
