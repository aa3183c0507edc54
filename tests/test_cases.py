"""Every answer that was ever seen gives the right task or the right error."""

from datetime import UTC, datetime
from typing import Any

import pytest

from anyapi_midjourney import (
    APIResponseError,
    AuthenticationError,
    InvalidResponseError,
    MidjourneyError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    Task,
    TaskNotFoundError,
)
from anyapi_midjourney_generated import models
from shells import CASES, EXAMPLE, TASK_ID, Shell, reply

ERRORS: dict[str, type[MidjourneyError]] = {
    "code-40-task-no-found": TaskNotFoundError,
    "code-41-401-no-token": AuthenticationError,
    "code-43-401-bad-token-newer": AuthenticationError,
    "code-44-401-exhausted-status": AuthenticationError,
    "code-47-401-disabled": AuthenticationError,
    "code-48-403-user-banned": PermissionDeniedError,
    "code-49-403-channel-suffix": PermissionDeniedError,
    "code-50-403-ip": PermissionDeniedError,
    "code-52-403-group-gone": PermissionDeniedError,
    "code-53-403-model-limited": PermissionDeniedError,
    "code-56-429-empty": RateLimitError,
    "code-57-500-empty": ServerError,
    "code-58-200-html-spa": InvalidResponseError,
    "code-59-404-invalid-url": InvalidResponseError,
    "code-60-301-trailing-slash": APIResponseError,
    "code-60-nginx-502": ServerError,
    "code-60-nginx-503": ServerError,
    "code-60-nginx-504": ServerError,
    "code-97-novicezk-unknown-id-empty-200": TaskNotFoundError,
    "code-98-novicezk-bad-secret-empty-401": AuthenticationError,
    "code-99-trueai-unknown-id-204": TaskNotFoundError,
    "code-99b-trueai-401-plain-text": AuthenticationError,
    "pub-28-novicezk-describe-excerpt": InvalidResponseError,
    "pub-34-plus-docs-describe-excerpt": InvalidResponseError,
    "pub-35-plus-docs-shorten-excerpt": InvalidResponseError,
    "pub-36-plus-docs-show-details-excerpt": InvalidResponseError,
    "pub-37-newapi-issue-144-localhost-url": InvalidResponseError,
    "pub-38-pawmaas-localhost-3001": InvalidResponseError,
    "pub-48-apifox-describe-empty-prompt": InvalidResponseError,
    "pub-69-dooy-53-html-instead-of-json": InvalidResponseError,
    "pub-70-clone-200-code-4": TaskNotFoundError,
    "pub-71-clone-rust-401": AuthenticationError,
}
TEXTS = {
    "prompt": "prompt",
    "prompt_en": "promptEn",
    "description": "description",
    "state": "state",
    "fail_reason": "failReason",
    "video_url": "videoUrl",
}
TIMES = {"submitted_at": "submitTime", "started_at": "startTime", "finished_at": "finishTime"}


def answer_of(case: dict[str, Any]) -> Any:
    headers = {"content_type": case["content_type"]} if "content_type" in case else {}
    return reply(case.get("body", case.get("body_text")), case["http_status"] or 200, **headers)


def check(task: Task, body: dict[str, Any]) -> None:
    assert task.id == (body["id"] or TASK_ID)
    assert task.status == (body.get("status") or "")
    assert task.action == (body.get("action") or None)
    for attribute, name in TEXTS.items():
        assert getattr(task, attribute) == (body.get(name) or None), name
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


@pytest.mark.parametrize("name", CASES)
def test_a_known_answer_gives_its_task_or_its_error(name: str, shell: Shell) -> None:
    answer = answer_of(CASES[name])
    if name in ERRORS:
        with pytest.raises(MidjourneyError) as caught:
            shell.fetch(answer)
        assert type(caught.value) is ERRORS[name]
        assert caught.value.task_id == TASK_ID
    else:
        check(shell.fetch(answer), CASES[name]["body"])


def test_the_generated_model_takes_the_example_and_gives_it_back() -> None:
    assert models.Task.from_dict(EXAMPLE).to_dict() == EXAMPLE
