"""Whatever a server sends, a task or a MidjourneyError comes out, and either can be used like any other value."""

import copy
import json
import os
import pickle
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyapi_midjourney import MidjourneyError, Task
from clients import EXAMPLE, Client, Stream

EXAMPLES = int(os.environ.get("EXAMPLES", "120"))
WORDS = ["", "SUCCESS", "FAILURE", "MODAL", "62%", "1730621826053", "MJ::JOB::upsample::1::x", "http://["]
NUMBERS = st.integers() | st.integers(10**300, 10**400) | st.floats()
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(st.characters()) | st.sampled_from(WORDS)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
BUTTONS = st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(EXAMPLE["buttons"][0], JSON)) | JSON)
FIELDS = dict.fromkeys([*EXAMPLE, "videoUrl", "videoUrls", "code", "error", "message", "extra"], JSON)
TASKS = st.fixed_dictionaries({}, optional=FIELDS | {"buttons": BUTTONS | JSON})
BODIES = st.binary() | st.text().map(str.encode) | (TASKS | JSON).map(lambda body: json.dumps(body).encode())
NAMES = b"content-type content-encoding retry-after date location set-cookie content-length x-oneapi-request-id".split()
VALUES = st.sampled_from([b"gzip", b"deflate", b"text/html", b"application/json; charset=utf-16", b"7", b"//"])
HEADERS = st.dictionaries(st.sampled_from(NAMES), st.binary() | VALUES)
KNOWN = [200, 200, 200, 204, 206, 299, 301, 400, 401, 403, 404, 408, 429, 500, 522]
STATUSES = st.sampled_from(KNOWN) | st.integers(0, 999)
FAULTS = st.sampled_from(
    [httpx.ReadError("x"), httpx.ReadTimeout("x"), OSError(5, "x"), ValueError(), RecursionError()]
)


def use(value: object) -> None:
    """Reads every property, and does what programs do with plain values."""
    for name in dir(value):
        if not name.startswith("_") and name != "characters_written":  # OSError's, which raises AttributeError
            getattr(value, name)
    for twin in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert type(twin) is type(value)
        assert repr(twin) == repr(value)
        if not isinstance(value, BaseException):
            assert twin == value
            assert hash(twin) == hash(value)
    f"{value!r} {value}".encode()


def use_task(task: Task) -> None:
    assert isinstance(task.id, str)
    task.raw.to_dict()
    assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task
    for part in (task, *task.buttons):
        use(part)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sync", "asyncio"])
@settings(max_examples=EXAMPLES)
@given(status=STATUSES, headers=HEADERS, chunks=st.lists(BODIES, max_size=2), fault=st.none() | FAULTS)
def test_any_response_whole_or_not_is_a_task_or_a_midjourney_error(
    name: str, status: int, headers: dict[bytes, bytes], chunks: list[bytes], fault: Exception | None
) -> None:
    body = Stream(*chunks, *([fault] if fault else []))
    try:
        task = Client(name).fetch(lambda _: httpx.Response(status, headers=list(headers.items()), stream=body))
    except MidjourneyError as error:
        use(error)
    else:
        use_task(task)


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(TASKS)
def test_any_object_is_a_task_that_its_own_dict_gives_back(body: dict[str, Any]) -> None:
    use_task(Task.from_dict(body))
