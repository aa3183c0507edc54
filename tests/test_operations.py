"""The generated operations, alone and through the package, against a server that answers as the gateway does."""

import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from anyapi_midjourney import AsyncMidjourney, Midjourney
from anyapi_midjourney_generated import AuthenticatedClient, models
from anyapi_midjourney_generated.api.tasks import (
    list_tasks,
    submit_action,
    submit_blend,
    submit_describe,
    submit_imagine,
    submit_modal,
    submit_shorten,
)

KEY = "sk-canary-7f3a91c2"
IMAGE = "data:image/png;base64,aQ=="
ANSWERS = [json.loads(path.read_text("utf-8"))["body"] for path in sorted(Path(__file__).parent.glob("cases-other/*"))]
ODD: list[dict[str, Any]] = [
    {"code": 1, "description": "Submit success", "result": 1730621826053455, "properties": None},
    {"code": 1, "description": "", "result": None},
    {"code": 4, "description": "prompt_is_required ", "type": "new_api_error"},
    {"error": {"message": "Invalid request: unknown_action:", "type": "new_api_error", "code": "invalid_request"}},
    {"code": 1, "result": ["https://a/b.png"], "properties": [], "more": {"a": 1}},
]
SUBMISSIONS: list[tuple[Any, Any, dict[str, Any]]] = [
    (submit_imagine, models.ImagineRequest, {"prompt": "pig", "base64Array": [IMAGE], "botType": "NIJI_JOURNEY"}),
    (submit_imagine, models.ImagineRequest, {"prompt": "pig", "state": "s"}),
    (submit_action, models.ActionRequest, {"taskId": "1", "customId": "MJ::JOB::upsample::1::a"}),
    (submit_modal, models.ModalRequest, {"taskId": "1", "prompt": "pig", "maskBase64": IMAGE}),
    (submit_describe, models.DescribeRequest, {"base64": IMAGE, "state": "s"}),
    (submit_blend, models.BlendRequest, {"base64Array": [IMAGE, IMAGE], "dimensions": "SQUARE"}),
    (submit_shorten, models.ShortenRequest, {"prompt": "pig", "botType": "MID_JOURNEY"}),
]


class Gateway(BaseHTTPRequestHandler):
    """Answers with one body, and remembers what it was asked."""

    answer: ClassVar[Any] = None
    asked: ClassVar[list[tuple[str, str | None, Any]]] = []

    def do_POST(self) -> None:
        request = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, self.headers["Authorization"], json.loads(request)))
        body = json.dumps(self.answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json" if "list" in self.path else "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002  (its name in http.server)
        """Nothing."""


@pytest.fixture
def base_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        Gateway.asked.clear()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def results(operation: Any, body: Any, base_url: str) -> list[Any]:
    """What an operation gives alone and through the package, sync and async."""

    async def asynchronously() -> list[Any]:
        async with AuthenticatedClient(base_url, token=KEY) as alone, AsyncMidjourney(KEY, base_url=base_url) as mj:
            return [await operation.asyncio(client=client, body=body) for client in (alone, mj.generated)]

    with AuthenticatedClient(base_url, token=KEY) as alone, Midjourney(KEY, base_url=base_url) as mj:
        synchronously = [operation.sync(client=client, body=body) for client in (alone, mj.generated)]
    return synchronously + asyncio.run(asynchronously())


@pytest.mark.parametrize(("operation", "kind", "sent"), SUBMISSIONS)
def test_a_submission_sends_its_fields_and_the_key(operation: Any, kind: Any, sent: object, base_url: str) -> None:
    Gateway.answer = ANSWERS[0]
    submissions = results(operation, kind.from_dict(sent), base_url)
    assert [submission.result for submission in submissions] == [ANSWERS[0]["result"]] * 4
    path = f"/mj/submit/{operation.__name__.rpartition('_')[2]}"
    assert Gateway.asked == [(path, f"Bearer {KEY}", sent)] * 4


@pytest.mark.parametrize("answer", ANSWERS + ODD)
def test_an_answer_to_a_submission_loses_nothing(answer: dict[str, Any], base_url: str) -> None:
    Gateway.answer = answer
    for result in results(submit_imagine, models.ImagineRequest("pig"), base_url):
        assert isinstance(result, models.Submission)
        assert result.to_dict() == answer


def test_a_list_of_tasks_is_a_list_of_the_tasks_that_fetch_gives(base_url: str) -> None:
    cases = Path(__file__).parent / "cases"
    tasks = [json.loads(path.read_text("utf-8"))["body"] for path in sorted(cases.glob("code-[01]*"))]
    for answer in (tasks, []):
        Gateway.answer = answer
        for result in results(list_tasks, models.TaskCondition(["1", "2"]), base_url):
            assert [task.to_dict() for task in result] == answer
    assert Gateway.asked == [("/mj/task/list-by-condition", f"Bearer {KEY}", {"ids": ["1", "2"]})] * 8
