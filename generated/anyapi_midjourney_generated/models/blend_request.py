from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

T = TypeVar("T", bound="BlendRequest")


@_attrs_define
class BlendRequest:
    """
    Attributes:
        base_64_array (list[str]): Two to five images as data URLs.
        dimensions (str | Unset): PORTRAIT, SQUARE or LANDSCAPE.
        bot_type (str | Unset): MID_JOURNEY, the default, or NIJI_JOURNEY.
        state (str | Unset): Any text. It becomes the task's `state`.
    """

    base_64_array: list[str]
    dimensions: str | Unset = UNSET
    bot_type: str | Unset = UNSET
    state: str | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        base_64_array = self.base_64_array

        dimensions = self.dimensions

        bot_type = self.bot_type

        state = self.state

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "base64Array": base_64_array,
            }
        )
        if dimensions is not UNSET:
            field_dict["dimensions"] = dimensions
        if bot_type is not UNSET:
            field_dict["botType"] = bot_type
        if state is not UNSET:
            field_dict["state"] = state

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        base_64_array = cast(list[str], d.pop("base64Array"))

        dimensions = d.pop("dimensions", UNSET)

        bot_type = d.pop("botType", UNSET)

        state = d.pop("state", UNSET)

        blend_request = cls(
            base_64_array=base_64_array,
            dimensions=dimensions,
            bot_type=bot_type,
            state=state,
        )

        blend_request.additional_properties = d
        return blend_request

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
