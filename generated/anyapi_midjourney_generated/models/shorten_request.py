from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

T = TypeVar("T", bound="ShortenRequest")


@_attrs_define
class ShortenRequest:
    """
    Attributes:
        prompt (str): The prompt to shorten.
        bot_type (str | Unset): MID_JOURNEY, the default, or NIJI_JOURNEY.
        state (str | Unset): Any text. It becomes the task's `state`.
    """

    prompt: str
    bot_type: str | Unset = UNSET
    state: str | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        prompt = self.prompt

        bot_type = self.bot_type

        state = self.state

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "prompt": prompt,
            }
        )
        if bot_type is not UNSET:
            field_dict["botType"] = bot_type
        if state is not UNSET:
            field_dict["state"] = state

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        prompt = d.pop("prompt")

        bot_type = d.pop("botType", UNSET)

        state = d.pop("state", UNSET)

        shorten_request = cls(
            prompt=prompt,
            bot_type=bot_type,
            state=state,
        )

        shorten_request.additional_properties = d
        return shorten_request

    @property
    def additional_keys(self) -> list[str]:
        return list(self.additional_properties.keys())

    def __getitem__(self, key: str) -> Any:
        return self.additional_properties[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.additional_properties[key] = value

    def __delitem__(self, key: str) -> None:
        del self.additional_properties[key]

    def __contains__(self, key: str) -> bool:
        return key in self.additional_properties
