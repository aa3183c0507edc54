"""Tasks: what fields of odd values become."""

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyapi_midjourney import Button, ButtonNotFoundError, ConfigurationError, Task, TaskAction, TaskStatus
from anyapi_midjourney._task import id_of, link_expires_at
from anyapi_midjourney._text import format_duration
from anyapi_midjourney_generated import models
from clients import EXAMPLE, TASK_ID
from clients import example as task

TEXT = st.none() | st.text(min_size=1)
MOMENT = st.none() | st.datetimes(timezones=st.just(UTC))
NUMBER = st.none() | st.integers(0, 100)
BUTTON = st.builds(Button, label=TEXT, emoji=TEXT, custom_id=TEXT, style=NUMBER, type=NUMBER)
FIELDS: dict[str, Any] = {
    **dict.fromkeys((field.name for field in attrs.fields(Task)), TEXT),
    **dict.fromkeys(["submitted_at", "started_at", "finished_at"], MOMENT),
    "id": st.text(),
    "status": st.text(),
    "progress": NUMBER,
    "video_urls": st.lists(st.text(min_size=1)),
    "buttons": st.lists(BUTTON),
    "raw": st.builds(models.Task),
}


@given(st.builds(Task, **FIELDS))
def test_a_task_comes_back_from_its_own_dict_by_way_of_json(original: Task) -> None:
    values = json.loads(json.dumps(original.to_dict()))
    assert Task.from_dict(values) == original
    assert values["done"] is original.done
    assert "raw" not in values


def test_from_dict_takes_the_servers_own_fields_and_keeps_them() -> None:
    sent = copy.deepcopy(EXAMPLE)
    assert Task.from_dict(sent) == Task.from_model(models.Task.from_dict(EXAMPLE))
    assert Task.from_dict(sent).raw.to_dict() == EXAMPLE == sent


def test_every_field_but_the_id_has_a_default() -> None:
    made = Task(id="1", status="SUCCESS")
    assert made == Task.from_dict({"id": "1", "status": "SUCCESS"})
    assert made.status is TaskStatus.SUCCESS
    assert Task(id="1") == Task.from_dict({"id": "1"})
    with pytest.raises(TypeError, match="'id'"):
        Task()  # type: ignore[call-arg]  # that is the point


@pytest.mark.parametrize("nothing", ["", None, [], {}, True, ["x"]])
def test_one_none_stands_for_what_is_absent_null_empty_or_of_a_wrong_type(nothing: object) -> None:
    empty = Task.from_model(models.Task.from_dict(dict.fromkeys(EXAMPLE, nothing)), TASK_ID)
    assert empty == Task(id=TASK_ID)
    assert (empty.status, empty.action, empty.progress, empty.prompt, empty.buttons) == ("", None, None, None, ())


NO_TIMES = (0, "0", -1730621826053, 10**17, 10**400, "9" * 5000, float("inf"), float("nan"), "2024-11-03", "١", True)
TIMES: dict[Any, float | None] = {
    **dict.fromkeys((1730621826053, "1730621826053", 1730621826053.5), 1730621826.053),
    **dict.fromkeys((1730621826, "1730621826"), 1730621826.0),
    **dict.fromkeys(NO_TIMES),
}


def test_a_time_is_milliseconds_or_seconds_or_either_as_text() -> None:
    for sent, seconds in TIMES.items():
        expected = None if seconds is None else datetime.fromtimestamp(seconds, UTC)
        assert task(submitTime=sent).submitted_at == expected, sent


def test_progress_is_percent_or_none() -> None:
    percents = {"0%": 0, "100%": 100, " 62 % ": 62, "62.5%": 62, 62: 62, "62": 62}
    others = ["101%", "", "Waiting to start", "paused", "12 of 50", "-5%"]
    for sent, percent in (percents | dict.fromkeys(others)).items():
        assert task(progress=sent).progress == percent, sent


def test_a_number_for_a_text_is_its_text_unless_it_is_infinite_or_nan() -> None:
    numbers = task(id=10**400, prompt=7, state=1.5, progress=10**400)
    assert (numbers.id, numbers.prompt, numbers.state) == ("1" + "0" * 400, "7", "1.5")
    odd = task(**json.loads('{"prompt": 1e999, "progress": -Infinity, "submitTime": NaN}'))
    assert (odd.prompt, odd.progress, odd.submitted_at) == (None, None, None)


@pytest.mark.parametrize("word", ["PAUSED", "FAILED", "completed", "任务"])
def test_an_unknown_status_or_action_is_kept_and_is_no_end(word: str) -> None:
    unknown = task(status=word, action=word)
    assert unknown.status == word == unknown.action
    assert (type(unknown.status), type(unknown.action)) == (TaskStatus, TaskAction)
    assert {unknown.status: 1}[word] == 1  # type: ignore[index]  # equal and hashed alike
    assert not unknown.done
    assert pickle.loads(pickle.dumps(unknown)) == unknown


def test_a_known_status_is_a_member_and_no_status_is_accepted() -> None:
    assert task().status is TaskStatus.SUCCESS
    assert task(status=None).status is TaskStatus.ACCEPTED
    assert {TaskStatus.ACCEPTED} == {""}


def test_a_reason_without_a_status_is_a_failure() -> None:
    failed = task(status="", failReason="banned")
    assert (failed.failed, failed.status_name) == (True, "FAILURE")
    assert not task(status="IN_PROGRESS", failReason="banned").done
    assert (task(status="").status_name, task().status_name) == ("ACCEPTED", "SUCCESS")


def test_durations_need_both_ends_and_are_not_negative() -> None:
    assert (task().queued_for, task().ran_for) == (timedelta(milliseconds=1971), timedelta(milliseconds=27793))
    assert task(startTime=0).queued_for is task(startTime=0).ran_for is None
    assert task(startTime=EXAMPLE["submitTime"] - 1).queued_for is None


def test_a_duration_is_shown_as_people_say_it() -> None:
    shown = {0: "0.0 s", 59.94: "59.9 s", 59.96: "1 min 0 s", 65: "1 min 5 s", 3599.7: "1 h 0 min", 7260: "2 h 1 min"}
    assert [format_duration(timedelta(seconds=seconds)) for seconds in shown] == [*shown.values()]


def test_the_picture_of_a_running_task_is_a_preview() -> None:
    running = task(status="IN_PROGRESS", videoUrl="https://cdn/v.mp4")
    assert (running.image_url, running.preview_url, running.picture_url) == (None, EXAMPLE["imageUrl"], None)
    assert task().preview_url is None
    assert task().image_url == task().picture_url == EXAMPLE["imageUrl"]


def test_the_picture_url_of_a_video_task_is_its_video() -> None:
    videos = task(videoUrl="https://cdn/v.mp4", videoUrls=[{"url": "https://cdn/0.mp4"}, None, {}, "x", {"url": 5}])
    assert videos.raw.to_dict()["videoUrls"][-2] == "x"
    assert (videos.video_url, videos.video_urls) == ("https://cdn/v.mp4", ("https://cdn/0.mp4", "5"))
    assert videos.picture_url == "https://cdn/v.mp4"
    assert task(videoUrl="", videoUrls=[{}, {"url": "https://cdn/0.mp4"}]).picture_url == "https://cdn/0.mp4"


END = datetime(2024, 11, 4, 8, 17, 35, tzinfo=UTC)
S3 = "https://s3/x.png?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20241104T081635Z&X-Amz-Expires=60&X-Amz-Signature=a"


@pytest.mark.parametrize(
    ("url", "expires"),
    [
        (EXAMPLE["imageUrl"], END),
        ("https://cdn/x.png?hm=ab&is=6727319f&ex=6728831f", END),
        (S3, END),
        (S3.replace("X-Amz", "x-oss"), END),
        ("https://s3/x.png?AWSAccessKeyId=a&Signature=b%2F&Expires=1730708255", END),
        ("https://oss/x.png?Expires=1730708255&OSSAccessKeyId=a&Signature=b", END),
        ("https://cdn/x.png?Expires=1730708255", None),
        ("https://cdn/x.png?Signature=b&Expires=soon", None),
        (S3.replace("20241104T", "yesterday"), None),
        ("https://cdn/x.png?ex=6728831f", None),
        ("https://cdn/x.png?ex=zz&is=1&hm=1", None),
        ("https://cdn/x.png?ex=ffffffffffff&is=1&hm=1", None),
        ("http://[not a url", None),
        ("", None),
    ],
)
def test_the_end_of_a_signed_link_is_read_from_its_query(url: str, expires: datetime | None) -> None:
    assert link_expires_at(url) == expires == task(imageUrl=url).image_expires_at


@pytest.mark.parametrize("bad", [None, 5, "U2", [], {}, {"customId": ["x"]}])
def test_a_bad_button_loses_no_other(bad: object) -> None:
    first, *others = EXAMPLE["buttons"]
    mixed = [first, bad, *others]
    assert task(buttons=mixed).buttons == task().buttons
    if bad != []:  # which the generated code takes for an empty button
        assert task(buttons=mixed, videoUrls=["x"]).raw.to_dict()["buttons"] == mixed


def test_a_button_is_found_by_its_label_or_emoji() -> None:
    assert [task().button(key).name for key in ("U1", "🔄", "V4")] == ["U1", "🔄", "V4"]


def test_a_button_that_is_missing_or_ambiguous_is_an_error_that_says_what_there_is() -> None:
    label = "\x1b[2J\n" + "x" * 10**6
    for one, key, text in (
        (task(), "U9", r'No buttons are called "U9": there are "U1", "U2", "U3", "U4", "🔄", "V1"'),
        (task(buttons=[EXAMPLE["buttons"][0]] * 9), "U1", "9 buttons"),
        (task(buttons=None, status="IN_PROGRESS"), "", 'none, and the task is "IN_PROGRESS"'),
        (task(buttons=[{"label": label}]), "1", "No buttons"),
    ):
        with pytest.raises(ButtonNotFoundError, match=text) as caught:
            one.button(key)
        assert caught.value.task_id == TASK_ID
        assert len(str(caught.value)) < 1000
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("raw", [EXAMPLE, {"id": "1", "new": {"deep": [1]}}, {"buttons": [5]}])
def test_a_task_survives_pickle_and_copy_with_its_raw_model(raw: dict[str, Any]) -> None:
    original = Task.from_dict(raw)
    for twin in (pickle.loads(pickle.dumps(original)), copy.copy(original), copy.deepcopy(original)):
        assert (twin, hash(twin), repr(twin), twin.raw) == (original, hash(original), repr(original), original.raw)
        assert twin.raw.video_url is original.raw.video_url  # the generated code compares UNSET with `is`


def test_a_task_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        task().status = TaskStatus.FAILURE  # type: ignore[misc]  # that is the point


NO_IDS = ["", " ", ".", "..", "a/b", "a%2Fb", "a b", "a\n", "é", "x" * 129, "?", "#", "\x00", None, 7, b"1"]


@pytest.mark.parametrize("task_id", NO_IDS)
def test_what_cannot_be_an_id_is_refused(task_id: Any) -> None:
    with pytest.raises(ConfigurationError, match="A task id is"):
        id_of(task_id)


def test_an_id_is_a_string_or_comes_from_a_task() -> None:
    for task_id in ("1", "task-mj-1.2~3:4_5", "x" * 128, "...a"):
        assert id_of(task_id) == id_of(Task(id=task_id)) == task_id
