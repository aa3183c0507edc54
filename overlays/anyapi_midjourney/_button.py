"""Buttons: what may be pressed next, and what a custom id says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from attrs import field, frozen

from anyapi_midjourney_generated import models

from ._text import as_int, as_text

if TYPE_CHECKING:
    from collections.abc import Iterable

# Families whose custom id names no Midjourney job.
_WITHOUT_JOB = {"PicReader", "Picread", "PromptAnalyzer"}
# Which families share a row under Midjourney's messages; live Discord messages of versions 5.2 and 7 show it.
_ROWS: dict[str | None, str] = {
    **dict.fromkeys(("Inpaint", "low_variation", "high_variation"), "vary"),
    **dict.fromkeys(("Outpaint", "CustomZoom"), "zoom"),
    **dict.fromkeys(("pan_left", "pan_right", "pan_up", "pan_down"), "pan"),
    **dict.fromkeys(("animate_high", "animate_low", "BOOKMARK", None), "last"),  # None is a link
}
_ROW_LENGTH = 5  # Discord's limit
# What people call buttons, for servers that send only the custom id.
_NAMES = {"upsample": "U{}", "variation": "V{}", "video_virtual_upscale": "U{}"}


@frozen(kw_only=True)
class Button:
    """A button under a finished picture.

    The custom ids' forms are those of live Discord messages and of trueai-org/midjourney-proxy,
    `CustomComponentModel.cs`.
    """

    label: str | None = None
    """Its text: "U1", "Vary (Region)". None for a button with an emoji only."""
    emoji: str | None = None
    """A character, or the name of one of Discord's own emoji: "upscale_1"."""
    custom_id: str | None = None
    """What a press sends. Always send one that came with the task. A link has none; its URL is in `raw`."""
    style: int | None = None
    """Discord's: 1 already pressed, or highlighted; 2 normal; 3 green; 5 a link."""
    type: int | None = None
    """Discord's: 2, a button."""
    raw: models.Button = field(factory=models.Button, repr=False, eq=False)
    """The generated model: every member, as it was sent."""

    @classmethod
    def from_model(cls, button: models.Button) -> Self:
        """The button that a generated model holds. Members of wrong types are None."""
        return cls(
            label=as_text(button.label),
            emoji=as_text(button.emoji),
            custom_id=as_text(button.custom_id),
            style=as_int(button.style),
            type=as_int(button.type_),
            raw=button,
        )

    @property
    def action(self) -> str | None:
        """The family, as sent: "upsample", "upsample_v7_2x_subtle", "Inpaint"."""
        return self._parsed_id[0]

    @property
    def index(self) -> int | None:
        """Which picture or clip of the grid, from 1; under a single picture 1 or None, for 🔄 0."""
        return self._parsed_id[2]

    @property
    def factor(self) -> int | None:
        """Of the family "Outpaint": 50 zooms out twice, 75 one and a half times, 100 makes a square."""
        return self._parsed_id[1]

    @property
    def job_id(self) -> str | None:
        """Midjourney's job of this message; not the id of the task."""
        return self._parsed_id[3]

    @property
    def opens_modal(self) -> bool:
        """Whether a press always opens a window that must be answered, as Vary (Region) does.

        Variations, 🔄 and the arrows do so too if the account has Remix on; a task does not show that.
        """
        match self.action:
            case "CustomZoom" | "Inpaint" | "PromptAnalyzer":
                return True
            case "PicReader":
                return self.index is not None  # not "Imagine all"
            case "video":
                return (self.custom_id or "").endswith("::manual")
            case _:
                return False

    @property
    def name(self) -> str:
        """What a person calls it: its label, else its emoji, else what the custom id says: "U1", "🔄"."""
        emoji = self.emoji if self.emoji and not self.emoji.isascii() else None
        numbered = _NAMES.get(self.action or "") if self.index is not None else None
        known = numbered.format(self.index) if numbered else "🔄" if self.action == "reroll" else None
        return self.label or emoji or known or self.emoji or self.action or self.custom_id or "?"

    @property
    def _parsed_id(self) -> tuple[str | None, int | None, int | None, str | None]:
        """Family, factor, index and job of `MJ::[JOB::]family[::factor][::index][::job][::SOLO]`."""
        head, *rest = (self.custom_id or "").split("::", 8)[:8]  # real ones have six parts
        if rest and rest[0].upper() == "JOB":
            del rest[0]
        if head != "MJ" or not rest or not rest[0]:
            return None, None, None, None
        family, *rest = rest
        numbers: list[int] = []
        while rest and len(rest[0]) < 10 and rest[0].isascii() and rest[0].isdecimal():
            numbers.append(int(rest.pop(0)))
        factor = numbers.pop(0) if numbers and family == "Outpaint" else None
        job = rest[0] if rest and rest[0] not in ("", "SOLO", "manual") and family not in _WITHOUT_JOB else None
        return family, factor, numbers[0] if numbers else None, job


def button_rows(buttons: Iterable[Button]) -> list[list[Button]]:
    """The buttons in rows of up to five, as Midjourney lays them out; the server sends one list."""
    found: list[list[Button]] = []
    row: str | None = None
    for button in buttons:
        action = button.action
        own_row = "upscale" if (action or "").startswith("upsample_") else _ROWS.get(action, action)
        if action == "PicReader" and button.index is None:  # "Imagine all"
            own_row = "all"
        goes_on = own_row == row or action in ("reroll", "Picread")  # those end the first row
        if found and goes_on and len(found[-1]) < _ROW_LENGTH:
            found[-1].append(button)
        else:
            found.append([button])
            row = own_row
    return found


def button_label(button: Button) -> str:
    """The emoji and the label of a button, as Midjourney shows them."""
    emoji = button.emoji if button.label and button.emoji and not button.emoji.isascii() else ""
    return f"{emoji} {button.name}".lstrip()
