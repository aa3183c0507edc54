from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.submission_properties import SubmissionProperties


T = TypeVar("T", bound="Submission")


@_attrs_define
class Submission:
    """What became of a submission. Codes 1, 21 and 22 with a `result` are successes, all others are refusals, with HTTP
    200 too. The gateway labels it text/plain.

        Attributes:
            code (int | None | Unset): 1 accepted, 21 exists or waits for a window, 22 queued, 23 queue full, 24 banned
                word.
            description (None | str | Unset):
            result (int | None | str | Unset): The task's id. Some gateways send a number.
            properties (None | SubmissionProperties | Unset): Whatever upstream adds, such as numberOfQueues,
                discordInstanceId, promptEn or bannedWord.
    """

    code: int | None | Unset = UNSET
    description: None | str | Unset = UNSET
    result: int | None | str | Unset = UNSET
    properties: None | SubmissionProperties | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        from ..models.submission_properties import SubmissionProperties  # noqa: PLC0415

        code: int | None | Unset
        if isinstance(self.code, Unset):
            code = UNSET
        else:
            code = self.code

        description: None | str | Unset
        if isinstance(self.description, Unset):
            description = UNSET
        else:
            description = self.description

        result: int | None | str | Unset
        if isinstance(self.result, Unset):
            result = UNSET
        else:
            result = self.result

        properties: dict[str, Any] | None | Unset
        if isinstance(self.properties, Unset):
            properties = UNSET
        elif isinstance(self.properties, SubmissionProperties):
            properties = self.properties.to_dict()
        else:
            properties = self.properties

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update({})
        if code is not UNSET:
            field_dict["code"] = code
        if description is not UNSET:
            field_dict["description"] = description
        if result is not UNSET:
            field_dict["result"] = result
        if properties is not UNSET:
            field_dict["properties"] = properties

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.submission_properties import SubmissionProperties  # noqa: PLC0415

        d = dict(src_dict)

        def _parse_code(data: object) -> int | None | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            return cast(int | None | Unset, data)

        code = _parse_code(d.pop("code", UNSET))

        def _parse_description(data: object) -> None | str | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            return cast(None | str | Unset, data)

        description = _parse_description(d.pop("description", UNSET))

        def _parse_result(data: object) -> int | None | str | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            return cast(int | None | str | Unset, data)

        result = _parse_result(d.pop("result", UNSET))

        def _parse_properties(data: object) -> None | SubmissionProperties | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                properties_type_0 = SubmissionProperties.from_dict(data)

                return properties_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(None | SubmissionProperties | Unset, data)

        properties = _parse_properties(d.pop("properties", UNSET))

        submission = cls(
            code=code,
            description=description,
            result=result,
            properties=properties,
        )

        submission.additional_properties = d
        return submission

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
