"""Every recorded response gives the right task or the right error."""

from datetime import UTC, datetime
from typing import Any

import pytest

from anyapi_midjourney import Task, errors
from anyapi_midjourney_generated import models
from clients import CASES, EXAMPLE, SYNC, TASK_ID, reply

ERRORS: dict[type[errors.MidjourneyError], str] = {  # each code and number of a case
    errors.TaskNotFoundError: "code-40 code-97 code-99 pub-70",
    errors.AuthenticationError: "code-41 code-43 code-44 code-47 code-98 code-99b pub-71",
    errors.PermissionDeniedError: "code-48 code-49 code-50 code-52 code-53",
    errors.RateLimitError: "code-56",
    errors.ServerError: "code-57 code-60-nginx",
    errors.APIResponseError: "code-60-301",
    errors.InvalidResponseError: "code-58 code-59 pub-28 pub-34 pub-35 pub-36 pub-37 pub-38 pub-48 pub-69",
}
TEXTS = ("prompt", "prompt_en", "description", "state", "fail_reason", "video_url")
TIMES = {"submitted_at": "submitTime", "started_at": "startTime", "finished_at": "finishTime"}


def expected_error(name: str) -> type[errors.MidjourneyError] | None:
    found = [error for error, cases in ERRORS.items() if any(f"{name}-".startswith(f"{c}-") for c in cases.split())]
    return found[0] if found else None


def check(task: Task, body: dict[str, Any]) -> None:
    assert task.id == (body["id"] or TASK_ID)
    assert task.status == (body.get("status") or "")
    assert task.action == (body.get("action") or None)
    for attribute in TEXTS:
        first, *words = attribute.split("_")
        assert getattr(task, attribute) == (body.get(first + "".join(map(str.title, words))) or None), attribute
    for attribute, name in TIMES.items():
        expected = datetime.fromtimestamp(body[name] / 1000, UTC) if body.get(name) else None
        assert getattr(task, attribute) == expected, name
    assert task.progress == (int(body["progress"].rstrip("%")) if body.get("progress") else None)
    properties: dict[str, Any] = body.get("properties") or {}
    assert task.final_prompt == (properties.get("finalPrompt") or None)
    assert task.final_prompt_zh == (properties.get("finalZhPrompt") or None)
    done = body.get("status") in ("SUCCESS", "FAILURE", "CANCEL")
    succeeded = body.get("status") == "SUCCESS"
    assert (task.done, task.succeeded, task.failed) == (done, succeeded, done and not succeeded)
    shown, hidden = (task.image_url, task.preview_url) if succeeded else (task.preview_url, task.image_url)
    assert (shown, hidden) == (body.get("imageUrl") or None, None)
    for button, sent in zip(task.buttons, body.get("buttons") or [], strict=True):
        assert button.custom_id == sent["customId"]
        assert (button.label, button.emoji) == (sent.get("label") or None, sent.get("emoji") or None)
        assert (button.style, button.type) == (sent.get("style"), sent.get("type"))
    assert task.raw.to_dict() == body
    assert Task.from_dict(task.to_dict()) == task


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_response_gives_its_task_or_its_error(name: str) -> None:
    case = CASES[name]
    headers = {"content_type": case["content_type"]} if "content_type" in case else {}
    respond = reply(case.get("body", case.get("body_text")), case["http_status"] or 200, **headers)
    sent: Any = case.get("body") or {}
    task_id: str = sent.get("id") or TASK_ID
    if error := expected_error(name):
        with pytest.raises(errors.MidjourneyError) as caught:
            SYNC.fetch(respond, task_id)
        assert type(caught.value) is error
        assert caught.value.task_id == task_id
    else:
        check(SYNC.fetch(respond, task_id), case["body"])


def test_the_generated_model_takes_the_example_and_gives_it_back() -> None:
    assert models.Task.from_dict(EXAMPLE).to_dict() == EXAMPLE
