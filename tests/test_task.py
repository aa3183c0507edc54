"""Tasks: what a model of odd values becomes."""

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from anyapi_midjourney import ButtonNotFoundError, Task, TaskAction, TaskStatus
from anyapi_midjourney_generated import models
from shells import EXAMPLE, TASK_ID
from shells import example as task


@pytest.mark.parametrize("nothing", ["", None, [], {}, True, ["x"]])
def test_one_none_stands_for_what_is_absent_null_empty_or_of_a_wrong_type(nothing: object) -> None:
    empty = Task.from_model(models.Task.from_dict(dict.fromkeys(EXAMPLE, nothing)), TASK_ID)
    assert empty == Task.from_model(models.Task(), TASK_ID)
    assert (empty.id, empty.status, empty.action, empty.progress, empty.prompt) == (TASK_ID, "", None, None, None)
    assert (empty.submitted_at, empty.image_url, empty.buttons, empty.done) == (None, None, (), False)


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (1730621826053, 1730621826.053),
        ("1730621826053", 1730621826.053),
        (1730621826053.0, 1730621826.053),
        (1730621826, 1730621826),  # seconds, as webman sends them
        ("1730621826", 1730621826),
        (0, None),
        ("0", None),
        (-1730621826053, None),
        (10**17, None),
        (10**400, None),
        ("9" * 5000, None),
        (float("inf"), None),
        (float("nan"), None),
        ("2024-11-03T08:17:06Z", None),
        ("١٧٣", None),
        (True, None),
        ([1730621826053], None),
    ],
)
def test_a_time_is_milliseconds_or_seconds_or_either_as_text(sent: object, seconds: float | None) -> None:
    expected = None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    assert task(submitTime=sent).submitted_at == expected


@pytest.mark.parametrize(
    ("sent", "percent"),
    [
        ("0%", 0),
        ("100%", 100),
        (" 62 % ", 62),
        ("62.5%", 62),
        (62, 62),
        ("62", 62),
        ("101%", None),
        ("", None),
        ("Waiting to start", None),
        ("paused", None),
        ("12 of 50", None),
        ("-5%", None),
    ],
)
def test_progress_is_percent_or_none(sent: object, percent: int | None) -> None:
    assert task(progress=sent).progress == percent


def test_a_number_for_a_text_is_its_text() -> None:
    assert (task(id=1730621826053455).id, task(prompt=7).prompt, task(state=1.5).state) == (TASK_ID, "7", "1.5")
    assert task(id=10**400, status=10**400, progress=10**400).id == "1" + "0" * 400


def test_what_is_no_number_is_no_text() -> None:
    nan = json.loads('{"id": NaN, "prompt": 1e999, "progress": -Infinity, "submitTime": NaN}')
    odd = task(**nan)
    assert (odd.id, odd.prompt, odd.progress, odd.submitted_at) == (TASK_ID, None, None, None)


@pytest.mark.parametrize("word", ["PAUSED", "FAILED", "completed", "任务"])
def test_a_word_that_is_not_listed_is_kept_and_is_no_end(word: str) -> None:
    unknown = task(status=word, action=word)
    assert unknown.status == word
    assert unknown.action == word
    assert isinstance(unknown.status, TaskStatus)
    assert isinstance(unknown.action, TaskAction)
    assert {unknown.status: 1}[word] == 1  # type: ignore[index]  # equal and hashed alike
    assert not unknown.done
    assert pickle.loads(pickle.dumps(unknown)) == unknown


def test_listed_words_are_members() -> None:
    assert task().status is TaskStatus.SUCCESS
    assert task(status=None).status is TaskStatus.ACCEPTED
    assert {TaskStatus.ACCEPTED} == {""}


def test_a_reason_without_a_status_is_a_failure() -> None:
    assert task(status="", failReason="banned prompt").failed
    assert not task(status="IN_PROGRESS", failReason="banned prompt").done


def test_durations_need_both_ends_and_are_not_negative() -> None:
    assert task().queued_for == timedelta(milliseconds=1971)
    assert task().ran_for == timedelta(milliseconds=27793)
    assert task(startTime=0).queued_for is task(startTime=0).ran_for is None
    assert task(startTime=EXAMPLE["submitTime"] - 1).queued_for is None


def test_a_picture_of_a_running_task_is_a_preview() -> None:
    assert (task(status="IN_PROGRESS").image_url, task(status="IN_PROGRESS").preview_url) == (None, EXAMPLE["imageUrl"])
    assert (task().image_url, task().preview_url) == (EXAMPLE["imageUrl"], None)


@pytest.mark.parametrize(
    ("url", "expires"),
    [
        (EXAMPLE["imageUrl"], datetime(2024, 11, 4, 8, 17, 35, tzinfo=UTC)),
        ("https://cdn/x.png?hm=ab&is=6727319f&ex=6728831f", datetime(2024, 11, 4, 8, 17, 35, tzinfo=UTC)),
        ("https://cdn/x.png?ex=5f5e0ff&is=1&hm=1", datetime(1973, 3, 3, 9, 46, 39, tzinfo=UTC)),
        ("https://cdn/x.png?ex=6728831f", None),
        ("https://cdn/x.png?ex=zz&is=1&hm=1", None),
        ("https://cdn/x.png?ex=ffffffffffff&is=1&hm=1", None),
        ("http://[not a url", None),
        ("", None),
    ],
)
def test_the_end_of_a_signed_address_is_read(url: str, expires: datetime | None) -> None:
    assert task(imageUrl=url).image_expires_at == expires


def test_videos_are_read_whatever_stands_between_them() -> None:
    videos = task(videoUrl="https://cdn/v.mp4", videoUrls=[{"url": "https://cdn/0.mp4"}, None, {}, "x", {"url": 5}])
    assert videos.raw.to_dict()["videoUrls"][-2] == "x"
    assert (videos.video_url, videos.video_urls) == ("https://cdn/v.mp4", ("https://cdn/0.mp4", "5"))


@pytest.mark.parametrize("bad", [None, 5, "U2", [], {}, {"customId": ["x"]}])
def test_a_bad_button_loses_no_other(bad: object) -> None:
    first, *others = EXAMPLE["buttons"]
    mixed = [first, bad, *others]
    assert task(buttons=mixed).buttons == task().buttons
    if bad != []:  # which the generated code takes for an empty button
        assert task(buttons=mixed, videoUrls=["x"]).raw.to_dict()["buttons"] == mixed


@pytest.mark.parametrize("key", ["U1", "🔄", "V4"])
def test_a_button_is_found_by_its_label_or_emoji(key: str) -> None:
    assert task().button(key).name == key


def test_a_button_that_is_not_there_or_not_alone_says_what_there_is() -> None:
    with pytest.raises(
        ButtonNotFoundError, match=r'No buttons are called "U9": there are "U1", "U2", "U3", "U4", "🔄", "V1"'
    ) as caught:
        task().button("U9")
    assert caught.value.task_id == TASK_ID
    with pytest.raises(LookupError, match="9 buttons"):
        task(buttons=[EXAMPLE["buttons"][0]] * 9).button("U1")
    with pytest.raises(ButtonNotFoundError, match='none, and the task is "IN_PROGRESS"'):
        task(buttons=None, status="IN_PROGRESS").button("")
    with pytest.raises(ButtonNotFoundError) as hostile:
        task(buttons=[{"label": "\x1b[2J\n" + "x" * 10**6}]).button("1")
    assert len(str(hostile.value)) < 1000
    assert str(hostile.value).isprintable()


@pytest.mark.parametrize("raw", [EXAMPLE, {"id": "1", "new": {"deep": [1]}}, {"buttons": [5]}])
def test_a_task_survives_pickle_and_copy_with_its_raw_model(raw: dict[str, Any]) -> None:
    original = Task.from_model(models.Task.from_dict(raw), TASK_ID)
    for twin in (pickle.loads(pickle.dumps(original)), copy.copy(original), copy.deepcopy(original)):
        assert twin == original
        assert hash(twin) == hash(original)
        assert twin.raw == original.raw
        assert twin.raw.video_url is original.raw.video_url  # the generated code compares UNSET with `is`
        assert repr(twin) == repr(original)


def test_a_task_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        task().status = TaskStatus.FAILURE  # type: ignore[misc]  # that is the point
