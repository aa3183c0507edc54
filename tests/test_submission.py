"""Submissions: what is sent, how often it arrives, and what each response means."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
from contextlib import contextmanager
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from anyapi_midjourney import (
    APIConnectionError,
    APIResponseError,
    APITimeoutError,
    AuthenticationError,
    Button,
    ButtonNotFoundError,
    ConfigurationError,
    InsufficientQuotaError,
    MidjourneyError,
    PermissionDeniedError,
    PromptRejectedError,
    QueueFullError,
    RateLimitError,
    ServerError,
    SubmissionError,
    SubmissionRefusedError,
    SubmissionUnconfirmedError,
    Task,
    _operations,
)
from clients import EXAMPLE, KEY, ROOT, Client, example, listening, reply, sequence

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

ACCEPTED = {"code": 1, "description": "Submit success", "result": "1795807712179329", "properties": None}
PNG = b"\x89PNG\r\n\x1a\n and so on"
OVERLOADED = {"error": {"message": "busy", "type": "new_api_error", "code": "system_cpu_overloaded"}}
NO_CHANNEL = {"error": {"message": "no channel", "type": "new_api_error", "code": "model_not_found"}}


def submit(
    client: Client, response: Callable[[httpx.Request], httpx.Response], script: Callable[[Any], Any] | None = None
) -> Any:
    """What a submission returns, or its error."""
    transport = httpx.MockTransport(response)
    try:
        return client.run(script or (methodcaller("imagine", "a pig")), transport)
    except MidjourneyError as error:
        return error


SENT: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "imagine": (
        methodcaller("imagine", "a pig  --v 7", images=[PNG, "data:image/png;base64,AA=="], state="mine"),
        {"prompt": "a pig  --v 7", "base64Array": [..., "data:image/png;base64,AA=="], "state": "mine"},
    ),
    "describe": (methodcaller("describe", PNG, bot_type="NIJI_JOURNEY"), {"base64": ..., "botType": "NIJI_JOURNEY"}),
    "blend": (
        methodcaller("blend", [PNG, PNG], dimensions="SQUARE"),
        {"base64Array": [..., ...], "dimensions": "SQUARE"},
    ),
    "shorten": (methodcaller("shorten", "a long pig"), {"prompt": "a long pig"}),
    "action": (
        methodcaller("press", example(), "U2"),
        {"taskId": EXAMPLE["id"], "customId": EXAMPLE["buttons"][1]["customId"]},
    ),
    "modal": (
        methodcaller("answer_modal", "17", prompt="a hat", mask=PNG),
        {"taskId": "17", "prompt": "a hat", "maskBase64": ...},
    ),
}


@pytest.mark.parametrize("operation", SENT)
def test_each_operation_sends_one_signed_post_and_returns_the_accepted_task(client: Client, operation: str) -> None:
    requests: list[httpx.Request] = []

    def accept(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return reply(ACCEPTED, content_type="text/plain; charset=utf-8")(request)

    script, expected = SENT[operation]
    task = submit(client, accept, script)
    (request,) = requests
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert json.loads(request.content) == json.loads(json.dumps(expected, default=lambda _: url))
    assert request.url.path == f"/mj/submit/{operation}"
    assert (request.method, request.headers["content-type"]) == ("POST", "application/json")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.extensions["timeout"]["read"] == 90
    assert (task.id, task.status, task.description) == ("1795807712179329", "", "Submit success")
    assert task.action == {"action": "UPSCALE"}.get(operation, operation.upper())


@pytest.mark.parametrize(
    ("status", "body", "outcome", "times"),
    [
        (201, {**ACCEPTED, "result": 1795807712179329}, Task, 1),
        (200, {**ACCEPTED, "code": 21}, Task, 1),
        (200, {**ACCEPTED, "code": 22}, Task, 1),
        (401, {"error": {"message": "no"}}, AuthenticationError, 1),
        (403, {"error": {"message": "no"}}, PermissionDeniedError, 1),
        (401, {"code": 4, "description": "no"}, AuthenticationError, 1),
        (403, {"code": 4, "description": "no"}, PermissionDeniedError, 1),
        (403, "<html>", SubmissionRefusedError, 1),
        (429, "", RateLimitError, 3),
        (503, OVERLOADED, ServerError, 3),
        (200, {"code": 23, "result": "14001"}, QueueFullError, 1),
        (429, {"code": 23}, QueueFullError, 1),
        (200, {"code": 30}, QueueFullError, 1),
        (200, {"code": 24, "properties": {"bannedWord": "nude"}}, PromptRejectedError, 1),
        (400, {"code": 4, "description": "quota_not_enough "}, InsufficientQuotaError, 1),
        (400, {"code": 4, "description": "insert_midjourney_task_failed "}, SubmissionUnconfirmedError, 1),
        (400, {"code": 4, "description": "copy_response_body_failed "}, SubmissionUnconfirmedError, 1),
        (400, {"code": 4, "description": "insert_midjourney_task_failed (id: 1)"}, SubmissionUnconfirmedError, 1),
        (400, {"code": 5, "description": "do_request_failed "}, SubmissionUnconfirmedError, 1),
        (200, {"code": 1, "result": None}, SubmissionUnconfirmedError, 1),
        (200, {"code": 1, "result": " "}, SubmissionUnconfirmedError, 1),
        (400, {"code": 4, "description": "task_not_found "}, SubmissionRefusedError, 1),
        (404, {"code": 3, "result": None}, SubmissionRefusedError, 1),
        (500, {"code": 9, "result": None}, SubmissionRefusedError, 1),
        (400, {"error": {"message": "unknown_action:MJ::BOOKMARK::x"}}, SubmissionRefusedError, 1),
        (302, "", SubmissionRefusedError, 1),
        (404, "<html>", SubmissionRefusedError, 1),
        (503, NO_CHANNEL, SubmissionRefusedError, 1),
        (503, "<html>", SubmissionUnconfirmedError, 1),
        (500, {"error": {"message": "panic"}}, SubmissionUnconfirmedError, 1),
        (522, "<html>", SubmissionUnconfirmedError, 1),
        (200, "<html>", SubmissionUnconfirmedError, 1),
        (200, "", SubmissionUnconfirmedError, 1),
        (204, "", SubmissionUnconfirmedError, 1),
        (200, [], SubmissionUnconfirmedError, 1),
        (200, {"code": True, "result": "1"}, SubmissionUnconfirmedError, 1),
        (200, {"code": "1", "result": "1"}, SubmissionUnconfirmedError, 1),
    ],
)
def test_the_first_row_of_the_table_that_fits_tells_what_a_response_means(
    client: Client, pauses: list[float], *, status: int, body: object, outcome: type, times: int
) -> None:
    arrived: list[object] = []

    def respond(request: httpx.Request) -> httpx.Response:
        arrived.append(request)
        return reply(body, status, location="https://elsewhere/")(request)

    found = submit(client, respond)
    assert type(found) is outcome
    assert len(arrived) == times
    assert all(5 <= pause <= 6 for pause in pauses)
    if isinstance(found, SubmissionError):
        assert not found.is_transient
    if isinstance(found, SubmissionUnconfirmedError):
        assert str(found).startswith("This may have been submitted and billed: ")
        assert isinstance(found.__cause__, APIResponseError)
    if isinstance(found, PromptRejectedError):
        assert found.banned_word == "nude"


def test_retry_after_tells_when_a_refused_submission_is_sent_again(client: Client, pauses: list[float]) -> None:
    respond = sequence(reply("", 429, retry_after="2"), reply(ACCEPTED))
    assert isinstance(submit(client, respond), Task)
    assert 2 <= pauses[0] <= 2.5


RESET = b"(reset)"


@contextmanager
def counting(*endings: bytes) -> Generator[tuple[str, list[bytes]]]:
    """A real server that counts the jobs that arrived whole, and ends each connection in its own way."""
    jobs: list[bytes] = []
    left = list(endings)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    ending, received = left.pop(0), b""
                    while not received.endswith(b"}"):
                        received += connection.recv(65536)
                    jobs.extend([received] if received else [])
                    connection.sendall(ending.removesuffix(RESET))
                    if ending.endswith(RESET):
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", jobs
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


GOOD = json.dumps(ACCEPTED).encode()
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(GOOD), GOOD)


@pytest.mark.parametrize(
    "ending",
    [RESET, b"", WHOLE[:9] + RESET, WHOLE[:-9] + RESET, WHOLE[:-9], b"SSH-2.0\r\n"],
)
def test_a_job_that_may_have_arrived_is_never_sent_again(client: Client, ending: bytes) -> None:
    with counting(ending, WHOLE) as (base_url, jobs), pytest.raises(SubmissionUnconfirmedError) as caught:
        client.run(methodcaller("imagine", "a pig"), base_url=base_url)
    assert len(jobs) <= 1
    assert isinstance(caught.value.__cause__, APIConnectionError)
    assert not isinstance(caught.value, ConnectionError)
    assert KEY not in f"{caught.value} {vars(caught.value)}"


def test_a_server_that_never_answers_leaves_a_job_unconfirmed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def take(connection: socket.socket) -> None:
        while not connection.recv(65536).endswith(b"}"):
            pass
        connection.recv(1)  # until the client gives up

    monkeypatch.setattr(_operations, "READ_TIMEOUT", 0.1)
    with listening(take) as base_url, pytest.raises(SubmissionUnconfirmedError) as caught:
        client.run(methodcaller("imagine", "a pig"), base_url=base_url, timeout=0.1)
    assert isinstance(caught.value.__cause__, APITimeoutError)


def test_each_submission_has_a_new_connection(client: Client) -> None:
    def twice(mj: Any) -> Any:
        return [mj.imagine("a pig"), mj.imagine("a cow")]

    async def awaited(mj: Any) -> Any:
        return [await mj.imagine("a pig"), await mj.imagine("a cow")]

    with counting(WHOLE, WHOLE) as (base_url, jobs):  # one job a connection
        tasks = client.run(twice if client.name == "sync" else awaited, base_url=base_url)
    assert len(tasks) == len(jobs) == 2


def test_a_connection_that_cannot_be_made_is_tried_again(client: Client, pauses: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(APIConnectionError):
        client.run(methodcaller("imagine", "a pig"), base_url=base_url)
    assert len(pauses) == 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_submission_is_not_sent_again(backend: str) -> None:
    arrived: list[object] = []

    async def hang(request: httpx.Request) -> httpx.Response:
        arrived.append(request)
        await anyio.sleep_forever()
        raise AssertionError

    async def script(mj: Any) -> None:
        with anyio.move_on_after(0.05) as scope:
            await mj.imagine("a pig")
        assert scope.cancelled_caught

    Client(backend).run(script, httpx.MockTransport(hang))
    assert len(arrived) == 1


# Buttons


@pytest.mark.parametrize(
    "button", ["V3", EXAMPLE["buttons"][7]["customId"], example().button("V3")], ids=["V3", "id", "b"]
)
def test_a_button_is_a_label_a_custom_id_or_a_button(client: Client, button: Any) -> None:
    task = submit(client, reply(ACCEPTED), methodcaller("press", example(), button))
    assert (task.action, task.prompt) == ("VARIATION", "pig --v 6.1")


def test_a_press_of_an_id_fetches_the_task_first(client: Client) -> None:
    paths: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return reply(EXAMPLE if request.method == "GET" else ACCEPTED)(request)

    assert submit(client, respond, methodcaller("press", EXAMPLE["id"], "🔄")).action == "REROLL"
    assert paths == [f"/mj/task/{EXAMPLE['id']}/fetch", "/mj/submit/action"]


@pytest.mark.parametrize(
    ("task", "button", "error"),
    [
        (example(), "U9", ButtonNotFoundError),
        (example(), "MJ::JOB::upsample::1::another-job", ButtonNotFoundError),
        (example(), Button(label="U1", custom_id="MJ::JOB::upsample::1::another-job"), ButtonNotFoundError),
        (example(), "MJ::JOB::upsample", ConfigurationError),
        (Task(id="1", status="SUCCESS"), "MJ::CustomZoom::", ConfigurationError),
        (example(), Button(label="Web", style=5), ConfigurationError),
        (example(status="IN_PROGRESS"), "U1", ConfigurationError),
    ],
)
def test_a_press_that_cannot_work_is_refused_before_anything_is_sent(task: Task, button: Any, error: type) -> None:
    for client in map(Client, ("sync", "asyncio")):
        outcome = submit(client, lambda _: pytest.fail("sent"), methodcaller("press", task, button))
        assert type(outcome) is error


def test_a_press_of_an_answered_windows_id_takes_the_live_row(client: Client) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        rows = [{**EXAMPLE, "status": "MODAL"}, {**EXAMPLE, "action": "MODAL"}]
        response = {"GET": rows[0], "/mj/submit/action": ACCEPTED}
        return reply(response.get(request.method) or response.get(request.url.path) or rows)(request)

    assert submit(client, respond, methodcaller("press", EXAMPLE["id"], "U1")).action == "UPSCALE"


def test_a_custom_id_is_enough_where_a_gateway_sends_no_buttons() -> None:
    task = Task(id="1", status="SUCCESS")
    pressed = submit(Client("sync"), reply(ACCEPTED), methodcaller("press", task, "MJ::CustomZoom::3785da15"))
    assert pressed.action == "CUSTOM_ZOOM"


# Images and prompts


@pytest.mark.parametrize(
    ("content", "kind"),
    [(PNG, "png"), (b"\xff\xd8\xff\xe0 JFIF", "jpeg"), (b"RIFF1234WEBPVP8 ", "webp"), (b"GIF89a and so on", "gif")],
)
def test_an_image_becomes_a_data_url_of_its_true_type(tmp_path: Path, content: bytes, kind: str) -> None:
    file = tmp_path / "image.txt"
    file.write_bytes(content)
    sent: list[Any] = []

    def accept(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content)["base64"])
        return reply(ACCEPTED)(request)

    for image in (file, str(file), content):
        submit(Client("sync"), accept, methodcaller("describe", image))
    assert sent == [f"data:image/{kind};base64,{base64.b64encode(content).decode()}"] * 3


@pytest.mark.parametrize(
    "script",
    [
        methodcaller("imagine", "  "),
        methodcaller("imagine", None),
        methodcaller("imagine", "half a surrogate: \ud83d"),
        methodcaller("imagine", "a pig", images="pig.png"),
        methodcaller("describe", "https://cdn.example/pig.png"),
        methodcaller("answer_modal", "17", prompt=" "),
        methodcaller("shorten", ""),
        methodcaller("describe", b"<svg>"),
        methodcaller("describe", PNG + bytes(20 * 2**20)),
        methodcaller("describe", ROOT / "README.md"),
        methodcaller("blend", [PNG]),
        methodcaller("blend", [PNG] * 6),
        methodcaller("blend", [PNG, PNG], dimensions="ROUND"),
        methodcaller("answer_modal", "a/b"),
    ],
)
def test_what_the_gateway_would_charge_for_in_vain_is_refused_before_anything_is_sent(script: Any) -> None:
    for client in map(Client, ("sync", "asyncio")):
        assert type(submit(client, lambda _: pytest.fail("sent"), script)) is ConfigurationError


def test_a_file_that_is_not_there_is_an_os_error(client: Client) -> None:
    with pytest.raises(FileNotFoundError):
        submit(client, reply(ACCEPTED), methodcaller("describe", "no such file.png"))
