"""Applies OpenAPI Overlay 1.1 documents to an OpenAPI document, in order and strictly.

Stricter than the standard on one point: a target that selects nothing is an error, because a correction without its
fault has outlived it. Three extensions: an action with `x-forbid: true` changes nothing, and must select nothing;
`x-rename` gives what is selected another key; `x-if-missing` says what to do when nothing is selected.
"""

import copy
import json
import re
from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten
from typing import TypeAlias, cast

from jsonpath import JSONPathEnvironment, JSONPathError, JSONPathMatch
from ruamel.yaml import YAML

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
Object: TypeAlias = dict[str, Json]

KINDS = {"update", "remove", "copy", "x-forbid", "x-rename"}


class OverlayError(Exception):
    """What cannot be applied, where, and what to do about it."""


def load(path: Path) -> Object:
    """The YAML or JSON object in a file, with nothing in it but what JSON has."""
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        loaded = cast("object", YAML(typ="safe").load(text))  # pyright: ignore[reportUnknownMemberType]  (untyped)
        document = cast("Json", json.loads(json.dumps(loaded, default=str)))
    except OSError as error:
        raise OverlayError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OverlayError(f"{path}: is not UTF-8. Save it as UTF-8.") from error
    except Exception as error:  # the YAML library has many
        if fence := re.search("^(```|~~~)", text, re.MULTILINE):
            raise OverlayError(f"{path}: has Markdown fences ({fence[0]}). Paste only what is between them.") from error
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = shorten(str(getattr(error, "problem", None) or error), 160)
        raise OverlayError(f"{path}: cannot be read as YAML{line}: {problem}") from error
    if not isinstance(document, dict):
        found = "nothing" if document is None else f"one {type(document).__name__}"
        raise OverlayError(f"{path}: not an OpenAPI document; it holds {found}.")
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


def change(action: Object, match: JSONPathMatch, document: Object) -> None:
    """Changes one selected node, in place."""
    old = cast("Json", match.obj)
    if match.parent is None:
        if not isinstance(update := action.get("update"), dict):
            raise OverlayError("can only be an update")
        document.update(cast("Object", merge(document, update)))
        return
    parent, key = cast("dict[str | int, Json]", match.parent.obj), match.parts[-1]  # or a list
    if "x-rename" in action:
        name = str(action["x-rename"])
        if isinstance(match.parent.obj, list) or (name in parent and name != key):
            raise OverlayError(
                f"cannot be renamed to {name}, which is there. Before this action, add one that removes it"
            )
        parent[name] = parent.pop(key)
    elif "remove" in action:
        del parent[key]
    else:
        update = action["update"]
        # The standard appends to a selected array what is not one; deeper down that would be an error.
        appended = isinstance(old, list) and not isinstance(update, list)
        parent[key] = copy.deepcopy(merge(old, [update] if appended else update))


def apply(action: Object, document: Object) -> None:
    """Applies one action, in place."""
    target, kinds = action.get("target"), action.keys() & KINDS
    if len(kinds) != 1 or not isinstance(target, str):
        raise OverlayError(f"needs a target and one of {', '.join(sorted(KINDS))}")
    matches = select(target, document)
    if "x-forbid" in kinds:
        if matches:
            raise OverlayError(f"is there: {matches[0].path}")
        return
    if not matches:
        advice = action.get("x-if-missing") or (
            "If the vendor has repaired that fault, delete the action; if the fault has moved, correct its target."
        )
        raise OverlayError(f"selects nothing. {advice} Its target: {target}")
    if "copy" in kinds:
        sources = select(str(action["copy"]), document)
        if len(sources) != 1:
            raise OverlayError(f"must copy one node, not {len(sources)}: {action['copy']}")
        action = {"update": copy.deepcopy(cast("Json", sources[0].obj))}  # it can be a part of its target
    for match in reversed(matches):  # so that no removal shifts the index of the next
        try:
            change(action, match, document)
        except OverlayError as error:
            raise OverlayError(f"{error}, at {match.path}") from error


def apply_overlays(document: Object, source: Path, overlays: Iterable[Path]) -> None:
    """Applies overlays in order, in place. `source` is the document's file, for messages."""
    for overlay in overlays:
        actions = load(overlay).get("actions")
        if not isinstance(actions, list) or not all(isinstance(action, dict) for action in actions):
            raise OverlayError(f"{overlay}: no OpenAPI Overlay; it has no list of actions.")
        for number, action in enumerate(cast("list[Object]", actions), start=1):
            try:
                apply(action, document)
            except OverlayError as error:
                place = f"{source}: action {number} of {overlay} ({action.get('description')})"
                raise OverlayError(f"{place} {error}") from error
