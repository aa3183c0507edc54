"""Buttons: what a custom id says."""

import pytest

from anyapi_midjourney import Button
from anyapi_midjourney_generated import models

JOB = "3785da15-4f70-4034-9128-f3ff1ac634fa"
NOTHING = (None, None, None, None, False)


def button(**members: object) -> Button:
    """A button as a server sends it."""
    return Button.from_model(models.Button.from_dict(members))


@pytest.mark.parametrize(
    ("custom_id", "expected"),
    [
        (f"MJ::JOB::upsample::3::{JOB}", ("upsample", 3, None, JOB, False)),
        (f"MJ::JOB::reroll::0::{JOB}::SOLO", ("reroll", 0, None, JOB, False)),
        (f"MJ::JOB::upsample_v7_2x_subtle::1::{JOB}::SOLO", ("upsample_v7_2x_subtle", 1, None, JOB, False)),
        (f"MJ::Inpaint::1::{JOB}::SOLO", ("Inpaint", 1, None, JOB, True)),
        (f"MJ::Outpaint::50::1::{JOB}::SOLO", ("Outpaint", 1, 50, JOB, False)),
        (f"MJ::CustomZoom::{JOB}", ("CustomZoom", None, None, JOB, True)),
        (f"MJ::CustomZoom::1::{JOB}", ("CustomZoom", 1, None, JOB, True)),
        (f"MJ::JOB::video::1::{JOB}::manual", ("video", 1, None, JOB, True)),
        (f"MJ::JOB::video::1::{JOB}", ("video", 1, None, JOB, False)),
        (f"MJ::BOOKMARK::{JOB}", ("BOOKMARK", None, None, JOB, False)),
        ("MJ::Job::PicReader::2", ("PicReader", 2, None, None, True)),
        ("MJ::Job::PicReader::all", ("PicReader", None, None, None, False)),
        ("MJ::Picread::Retry", ("Picread", None, None, None, False)),
        ("MJ::JOB::PromptAnalyzer::5", ("PromptAnalyzer", 5, None, None, True)),
        ("MJ::JOB::upsample::1::xxx", ("upsample", 1, None, "xxx", False)),
        (f"MJ::JOB::upsample::9999999999::{JOB}", ("upsample", None, None, "9999999999", False)),
        ("MJ::JOB::x" + "::1" * 10**6, ("x", 1, None, None, False)),
        *[(odd, NOTHING) for odd in ("MJ::JOB", "MJ::", "MJ", "::::", "pr::JOB::upsample::1", None)],
    ],
)
def test_a_custom_id_says_what_a_press_does(custom_id: str | None, expected: tuple[object, ...]) -> None:
    it = button(customId=custom_id, label="x")
    assert (it.action, it.index, it.factor, it.job_id, it.opens_modal) == expected


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ({"label": "U1", "emoji": ""}, "U1"),
        ({"label": "", "emoji": "🔄"}, "🔄"),
        ({"label": "Upscale (Subtle)", "emoji": "upscale_1"}, "Upscale (Subtle)"),
        ({"customId": "MJ::JOB::upsample::2::abc"}, "U2"),
        ({"customId": "MJ::JOB::reroll::0::abc::SOLO"}, "🔄"),
        ({"customId": "MJ::BOOKMARK::abc"}, "BOOKMARK"),
        ({"customId": "MJ::JOB::upsample::x"}, "upsample"),
        ({"customId": "{0.__class__}"}, "{0.__class__}"),
        ({"emoji": "upscale_1"}, "upscale_1"),
        ({}, "?"),
    ],
)
def test_a_button_has_the_name_that_people_give_it(members: dict[str, object], name: str) -> None:
    assert button(**members).name == name


def test_members_of_wrong_types_are_none_and_digits_are_numbers() -> None:
    it = button(customId=["x"], label={"a": 1}, emoji={"name": "🔄"}, style="2", type="button")
    assert (it.custom_id, it.label, it.emoji, it.style, it.type) == (None, None, None, 2, None)
    assert it.raw.to_dict()["emoji"] == {"name": "🔄"}
