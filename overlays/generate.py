"""Makes generated/ from openapi.yaml: tidies the document, applies our overlays, generates, and swaps the clients.

`generate.py --check` compares instead. All or nothing, one at a time: a failure leaves generated/ as it was, and the
next start repairs an interrupted swap.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeAlias, cast

from openapi_python_client import Project
from openapi_python_client.config import Config, ConfigFile, MetaType
from openapi_python_client.parser import GeneratorData
from openapi_python_client.parser.errors import GeneratorError
from openapi_python_client.parser.openapi import generate_operation_id
from openapi_python_client.schema import OpenAPI, UntrustedString
from openapi_python_client.strings import ClassName, PythonIdentifier
from pydantic import ValidationError

from apply_overlay import Json, OverlayError, apply_overlays, load, select

DOCUMENT = Path("openapi.yaml")
CORRECTIONS, ADDITIONS = Path("overlays/corrections.overlay.yaml"), Path("overlays/additions.overlay.yaml")
CONFIG = Path("generator-config.yml")
CLIENT, NEW, OLD = Path("generated"), Path("build/new"), Path("build/old")

Document: TypeAlias = dict[str, Any]
IGNORED_HEADERS = {"accept", "authorization", "content-type"}  # OpenAPI ignores header parameters of these names
NAME_MAPS = {"encoding", "parameters", "properties", "schemas", "securitySchemes"}  # their keys are names
DATA = {"const", "enum", "example", "examples"}


def stripped(node: Json, key: str = "") -> Any:  # noqa: ANN401  (as `json.loads` says it)
    """A copy without `x-…`, which the generator takes for statuses and schemes, and titles, which name classes."""
    if isinstance(node, list):
        return [stripped(item) for item in node]
    if not isinstance(node, dict):
        return node
    if key in NAME_MAPS:
        return {name: stripped(value) for name, value in node.items()}
    return {
        name: value if name in DATA else stripped(value, name)
        for name, value in node.items()
        if name == "x-run-in-apifox" or not (name.startswith("x-") or (name == "title" and key != "info"))
    }


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Each operation, after its method and its path."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if isinstance(operation, dict):
                yield method.upper(), path, cast("Document", operation)


def read_document() -> Document:
    """The vendor's document without extensions and titles, if it is one."""
    document: Document = stripped(load(DOCUMENT))
    version = document.get("openapi")
    if not re.match(r"3\.[01](\.|$)", str(version)):
        swagger = document.get("swagger")
        found = f"Swagger {swagger}" if swagger else f"OpenAPI {version}" if version else "no OpenAPI document"
        raise OverlayError(f"{DOCUMENT}: is {found}. Export it again, as OpenAPI 3.0.")
    try:
        OpenAPI.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise OverlayError(
            f"{DOCUMENT}: no valid OpenAPI. {place}: {first['msg']}. Export it again, or leave that out."
        ) from error
    return document


def tidy(document: Document) -> None:
    """Removes what OpenAPI ignores, and writes out what it lets an operation inherit or refer to."""
    components: Document = document.get("components") or {}
    document["components"] = {**components, "schemas": components.get("schemas") or {}}
    shared: dict[str, Document] = components.get("parameters") or {}
    for holder in (*document["paths"].values(), *(operation for _, _, operation in operations(document))):
        parameters: list[Document] = holder.get("parameters") or []
        parameters = [shared.get(p.get("$ref", "").removeprefix("#/components/parameters/"), p) for p in parameters]
        holder["parameters"] = [
            p for p in parameters if not (p.get("in") == "header" and p["name"].lower() in IGNORED_HEADERS)
        ]
    for method, path, operation in operations(document):
        tag = (operation.get("tags") or [""])[0]
        operation["tags"] = [re.sub(r"\W+", " ", tag, flags=re.ASCII).strip() or "default"]
        if operation.get("security") is None:
            operation["security"] = document.get("security") or []
        if method in ("GET", "HEAD"):
            operation.pop("requestBody", None)
        if not operation.get("operationId"):
            name = generate_operation_id(path=UntrustedString(path), method=method.lower(), prefix="")
            operation["operationId"] = name


def check(document: Document) -> None:
    """Raises for faults that the generator accepts, or does not name."""
    named = {f"{method} {path}": operation for method, path, operation in operations(document)}
    schemes: Document = document["components"].get("securitySchemes") or {}
    for place, operation in {"The document": document, **named}.items():
        requirements: list[Document] = operation.get("security") or []
        for scheme in {scheme for requirement in requirements for scheme in requirement if scheme not in schemes}:
            raise OverlayError(
                f"{DOCUMENT}: {place} names the security scheme {scheme!r}, which components.securitySchemes lacks. "
                f"Was the export cut off? If not, add an action to {CORRECTIONS} that adds it."
            )
    for place in named:
        if re.search(r"/\d{6,}(/|$)", place):
            raise OverlayError(
                f"{DOCUMENT}: {place} has an example id in its path, so it would serve that id only. Add an action to "
                f"{CORRECTIONS} that adds a path parameter, and one that renames the path with `x-rename`."
            )
    functions = [(operation.get("operationId", place), place) for place, operation in named.items()]
    refuse_clash(functions, "gives the vendor's operation another operationId")
    classes = [(ClassName(name, ""), f"components.schemas.{name}") for name in document["components"]["schemas"]]
    titles = select("$.components.schemas.*.properties..title", document)
    classes += [(ClassName(title.value, ""), title.path) for title in titles if isinstance(title.value, str)]
    refuse_clash(classes, "gives the vendor's schema another key, with `x-rename`, and corrects the references to it")


def refuse_clash(names: Iterable[tuple[str, str]], way_out: str) -> None:
    """Raises if two places would have one module. The generator loses one in silence, or does not say which two."""
    places: dict[str, str] = {}
    for name, place in names:
        module = PythonIdentifier(name, "")
        if (other := places.setdefault(module, place)) != place:
            message = f"{other} and {place} would both be {module}.py. Add an action to {CORRECTIONS} that {way_out}."
            raise OverlayError(f"{DOCUMENT}: {message}")


def write_client(document: Document) -> Sequence[GeneratorError]:
    """Writes a client to build/new; what the generator would leave out is an error."""
    file = Path("build/openapi.json")
    file.write_text(json.dumps(document, indent=1), encoding="utf-8")
    config_file, output = ConfigFile.load_from_path(CONFIG), NEW / "anyapi_midjourney_generated"
    config = Config.from_sources(config_file, MetaType.NONE, file, "utf-8", overwrite=False, output_path=output)
    data = GeneratorData.from_dict(document, config=config)
    if isinstance(data, GeneratorError):
        return [data]
    if data.errors:  # those of operations only follow from them
        return data.errors
    return Project(openapi=data, config=config).build()


def restore() -> None:
    """Puts the old client back if a swap was interrupted."""
    if OLD.exists() and not CLIENT.exists():
        OLD.rename(CLIENT)


def swap() -> None:
    """Replaces the old client by the new one."""
    shutil.rmtree(OLD, ignore_errors=True)
    try:
        if CLIENT.exists():
            CLIENT.rename(OLD)
        NEW.rename(CLIENT)
    finally:
        restore()
    shutil.rmtree(OLD, ignore_errors=True)


def generate() -> None:
    """Writes a client to build/new, or raises an error that says what to do."""
    shutil.rmtree(NEW, ignore_errors=True)
    NEW.parent.mkdir(exist_ok=True)
    document = read_document()
    tidy(document)
    apply_overlays(document, DOCUMENT, (CORRECTIONS, ADDITIONS))
    check(document)
    try:
        errors = write_client(document)
    except Exception as error:  # the generator has many
        raise OverlayError(f"{DOCUMENT} or {CONFIG}: the generator fails with {error!r}") from error
    if errors:
        problem = re.sub(r" <\S+ object at \w+>", "", f"{errors[0].header} {errors[0].detail or ''}")
        advice = f"Add an action to {CORRECTIONS} that corrects or removes it."
        problem = shorten(problem, 400).rstrip(".")
        raise OverlayError(f"{DOCUMENT}: no client can be generated from it. {problem}. {advice}")


def main(*arguments: str) -> None:
    """Generates, and swaps or compares. Says in one sentence why not, and exits with 1."""
    os.chdir(Path(__file__).parent.parent)
    with Path(__file__).open(encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released however the process ends
        try:
            restore()
            generate()
            if "--check" not in arguments:
                swap()
                return
        except (OverlayError, OSError) as error:
            sys.exit(str(error))
        command: list[str | Path] = ["diff", "--recursive", "--exclude=__pycache__", CLIENT, NEW]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"{CLIENT}/ is not what {DOCUMENT} yields. Run `make generate`.")


if __name__ == "__main__":
    main(*sys.argv[1:])
