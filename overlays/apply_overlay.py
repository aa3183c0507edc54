"""Lays an OpenAPI Overlay 1.1 document over an OpenAPI document, strictly: `apply_overlay.py DOCUMENT OVERLAY OUTPUT`.

Stricter than the standard on one point: a target that selects nothing is an error, because a correction without its
fault has outlived it. One extension: what a query under `x-forbid` selects in the original document is an error too.
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

from jsonpath import JSONPathEnvironment, JSONPathError, JSONPathMatch
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


class OverlayError(Exception):
    """What cannot be laid on, where, and what to do about it."""


def load(path: Path) -> dict[str, Any]:
    """The YAML or JSON object in a file, with nothing in it but what JSON has."""
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(json.dumps(YAML(typ="safe").load(text), default=str))
    except (OSError, YAMLError, ValueError, TypeError, RecursionError) as error:
        raise OverlayError(f"{path}: cannot be read as YAML. {error}") from error
    if not isinstance(document, dict):
        found = "nothing" if document is None else f"one {type(document).__name__}"
        raise OverlayError(f"{path}: not an OpenAPI document; it holds {found}. Export it again.")
    return document


def select(query: str, document: dict[str, Any]) -> list[JSONPathMatch]:
    """The nodes that an RFC 9535 query selects."""
    try:
        return list(JSONPathEnvironment(strict=True).finditer(query, document))
    except JSONPathError as error:
        raise OverlayError(f"no valid RFC 9535 query: {query}") from error


def merge(target: Any, update: Any) -> Any:
    """The update laid over the target, by the rules of the standard."""
    match target, update:
        case dict(), dict():
            return {**target, **{k: merge(target[k], v) if k in target else v for k, v in update.items()}}
        case list(), list():
            return target + update
        case (dict() | list(), _) | (_, dict() | list()):
            raise OverlayError(f"{type(update).__name__} cannot be merged into {type(target).__name__}")
        case _:
            return update


def apply(action: dict[str, Any], document: dict[str, Any]) -> None:
    """One action, laid on in place."""
    kinds = action.keys() & {"update", "remove", "copy"}
    if len(kinds) != 1 or not isinstance(action.get("target"), str):
        raise OverlayError("an action has a target and one of update, copy or remove")
    matches = select(action["target"], document)
    if not matches:
        raise OverlayError(
            "it selects nothing. If the vendor has repaired this fault, delete the action; "
            f"if the fault has moved, mend its target: {action['target']}"
        )
    update = action.get("update")
    if "copy" in kinds:
        sources = select(action["copy"], document)
        if len(sources) != 1:
            raise OverlayError(f"copy must select one node, not {len(sources)}: {action['copy']}")
        update = sources[0].obj
    for match in reversed(matches):  # so that no removal shifts the index of the next
        if match.parent is None:
            raise OverlayError("the root of the document cannot be a target here")
        parent: Any = match.parent.obj
        if "remove" in kinds:
            del parent[match.parts[-1]]
        else:
            # The standard appends to a selected array what is not one; deeper down that would be an error.
            appends = isinstance(match.obj, list) and not isinstance(update, list)
            laid = merge(match.obj, [update] if appends else update)
            parent[match.parts[-1]] = copy.deepcopy(laid)


def apply_overlay(source: Path, overlay: Path) -> dict[str, Any]:
    """The document in `source`, corrected."""
    document, corrections = load(source), load(overlay)
    for action in corrections.get("x-forbid", []):
        for match in select(action["target"], document):
            raise OverlayError(f"{source}: {match.path}: {action['description']} ({overlay}, x-forbid)")
    for number, action in enumerate(corrections["actions"], start=1):
        try:
            apply(action, document)
        except OverlayError as error:
            raise OverlayError(f"{source}: action {number} of {overlay} ({action['description']}) {error}") from error
    return document


def main(source: str, overlay: str, output: str) -> None:
    """Writes the corrected document, or says why not and exits with 1."""
    try:
        document = apply_overlay(Path(source), Path(overlay))
    except OverlayError as error:
        sys.exit(str(error))
    Path(output).write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
