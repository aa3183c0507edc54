"""Applies an OpenAPI Overlay 1.1 document to an OpenAPI document, strictly: `apply_overlay.py DOCUMENT OVERLAY OUTPUT`.

Stricter than the standard on one point: a target that selects nothing is an error, because a correction without its
fault has outlived it. One extension: an action with `x-forbid: true` changes nothing, and must select nothing.
"""

import copy
import json
import sys
from pathlib import Path
from typing import TypeAlias, cast

from jsonpath import JSONPathEnvironment, JSONPathError, JSONPathMatch
from ruamel.yaml import YAML

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
Object: TypeAlias = dict[str, Json]


class OverlayError(Exception):
    """What cannot be applied, where, and what to do about it."""


def load(path: Path) -> Object:
    """The YAML or JSON object in a file, with nothing in it but what JSON has."""
    try:
        text = path.read_text(encoding="utf-8")
        loaded = cast("object", YAML(typ="safe").load(text))  # pyright: ignore[reportUnknownMemberType]  (untyped)
        document = cast("Json", json.loads(json.dumps(loaded, default=str)))
    except OSError as error:
        raise OverlayError(f"{path}: {error.strerror}") from error
    except Exception as error:  # the YAML library has many
        raise OverlayError(f"{path}: cannot be read as YAML. {error}") from error
    if not isinstance(document, dict):
        found = "nothing" if document is None else f"one {type(document).__name__}"
        raise OverlayError(f"{path}: not an OpenAPI document; it holds {found}. Export it again.")
    return document


def select(query: str, document: Object) -> list[JSONPathMatch]:
    """The nodes that an RFC 9535 query selects."""
    try:
        return list(JSONPathEnvironment(strict=True).finditer(query, document))
    except JSONPathError as error:
        raise OverlayError(f"no valid RFC 9535 query: {query}") from error


def merge(target: Json, update: Json) -> Json:
    """The update laid over the target, by the rules of the standard."""
    if isinstance(target, dict) and isinstance(update, dict):
        return {**target, **{k: merge(target[k], v) if k in target else v for k, v in update.items()}}
    if isinstance(target, list) and isinstance(update, list):
        return target + update
    if isinstance(target, dict | list) or isinstance(update, dict | list):
        raise OverlayError(f"{type(update).__name__} cannot be merged into {type(target).__name__}")
    return update


def apply(action: Object, document: Object) -> None:
    """Applies one action, in place."""
    target, kinds = action.get("target"), action.keys() & {"update", "remove", "copy", "x-forbid"}
    if len(kinds) != 1 or not isinstance(target, str):
        raise OverlayError("needs a target and one of update, copy, remove or x-forbid")
    matches = select(target, document)
    if "x-forbid" in kinds:
        if matches:
            raise OverlayError(f"is there: {matches[0].path}")
        return
    if not matches:
        raise OverlayError(
            "selects nothing. If the vendor has repaired that fault, delete the action; "
            f"if the fault has moved, mend its target: {target}"
        )
    update = action.get("update")
    if "copy" in kinds:
        sources = select(str(action["copy"]), document)
        if len(sources) != 1:
            raise OverlayError(f"must copy one node, not {len(sources)}: {action['copy']}")
        update = cast("Json", sources[0].obj)
    for match in reversed(matches):  # so that no removal shifts the index of the next
        if match.parent is None:
            raise OverlayError("has the whole document for its target, which is not supported here")
        parent = cast("dict[str | int, Json]", match.parent.obj)  # or a list
        if "remove" in kinds:
            del parent[match.parts[-1]]
        else:
            old = cast("Json", match.obj)
            # The standard appends to a selected array what is not one; deeper down that would be an error.
            appended = isinstance(old, list) and not isinstance(update, list)
            parent[match.parts[-1]] = copy.deepcopy(merge(old, [update] if appended else update))


def apply_overlay(source: Path, overlay: Path) -> Object:
    """The document in `source`, corrected."""
    document, actions = load(source), load(overlay).get("actions")
    if not isinstance(actions, list) or not all(isinstance(action, dict) for action in actions):
        raise OverlayError(f"{overlay}: no OpenAPI Overlay; it has no list of actions.")
    for number, action in enumerate(cast("list[Object]", actions), start=1):
        try:
            apply(action, document)
        except OverlayError as error:
            raise OverlayError(
                f"{source}: action {number} of {overlay} ({action.get('description')}) {error}"
            ) from error
    return document


def main(source: str, overlay: str, output: str) -> None:
    """Writes the corrected document, or says why not and exits with 1."""
    try:
        document = apply_overlay(Path(source), Path(overlay))
        Path(output).write_text(json.dumps(document, indent=1), encoding="utf-8")
    except (OverlayError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
