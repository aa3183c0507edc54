"""Whatever a server sends, a task or a MidjourneyError comes out, and either can be used like any other."""

import copy
import json
import os
import pickle
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyapi_midjourney import Button, MidjourneyError, Task
from shells import EXAMPLE, Shell, Stream

EXAMPLES = int(os.environ.get("EXAMPLES", "120"))

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**400)
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(
        ["", "SUCCESS", "FAILURE", "MODAL", "62%", "1730621826053", "MJ::JOB::upsample::1::x", "http://["]
    )
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
BUTTONS = st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(EXAMPLE["buttons"][0], JSON)) | JSON)
FIELDS = dict.fromkeys([*EXAMPLE, "videoUrl", "videoUrls", "code", "error", "message", "extra"], JSON)
TASKS = st.fixed_dictionaries({}, optional=FIELDS | {"buttons": BUTTONS | JSON})
BODIES = st.binary() | st.text().map(str.encode) | (TASKS | JSON).map(lambda body: json.dumps(body).encode())
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            b"content-type",
            b"content-encoding",
            b"retry-after",
            b"date",
            b"location",
            b"set-cookie",
            b"x-oneapi-request-id",
            b"content-length",
            b"transfer-encoding",
        ]
    ),
    st.binary()
    | st.sampled_from([b"gzip", b"deflate", b"text/html", b"application/json; charset=utf-16", b"7", b"//"]),
)
STATUSES = st.sampled_from([200, 200, 200, 204, 206, 299, 301, 400, 401, 403, 404, 408, 429, 500, 522]) | st.integers(
    0, 999
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
    repr(value).encode()
    str(value).encode()


def check(shell: Shell, status: int, headers: dict[bytes, bytes], *chunks: bytes | Exception) -> None:
    """One fetch of one answer."""
    try:
        result: Any = shell.fetch(
            lambda _: httpx.Response(status, headers=list(headers.items()), stream=Stream(*chunks))
        )
    except MidjourneyError as error:
        result = error
    else:
        assert isinstance(result, Task)
        result.raw.to_dict()
        assert isinstance(result.id, str)
        for button in result.buttons:
            assert isinstance(button, Button)
            use(button)
    use(result)


@pytest.mark.parametrize("name", ["sync", "asyncio"])
@settings(max_examples=EXAMPLES, deadline=None)
@given(status=STATUSES, headers=HEADERS, body=BODIES)
def test_any_answer_is_a_task_or_a_midjourney_error(
    name: str, status: int, headers: dict[bytes, bytes], body: bytes
) -> None:
    check(Shell(name), status, headers, body)


@settings(max_examples=EXAMPLES, deadline=None)
@given(TASKS)
def test_any_object_is_a_task_or_a_midjourney_error(body: dict[str, Any]) -> None:
    check(Shell("sync"), 200, {}, json.dumps(body).encode())


FAULTS = st.sampled_from(
    [httpx.ReadError("x"), httpx.ReadTimeout("x"), OSError(5, "x"), ValueError(), RecursionError()]
)


@pytest.mark.parametrize("name", ["sync", "trio"])
@settings(max_examples=EXAMPLES // 4, deadline=None)
@given(status=STATUSES, headers=HEADERS, chunks=st.lists(st.binary(), max_size=3), fault=FAULTS)
def test_any_answer_that_breaks_off_is_a_midjourney_error(
    name: str, status: int, headers: dict[bytes, bytes], chunks: list[bytes], fault: Exception
) -> None:
    check(Shell(name), status, headers, *chunks, fault)
