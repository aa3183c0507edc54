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
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeAlias

from openapi_python_client import Project
from openapi_python_client.config import Config, ConfigFile, MetaType
from openapi_python_client.parser import GeneratorData
from openapi_python_client.parser.errors import GeneratorError
from openapi_python_client.schema import OpenAPI
from pydantic import ValidationError

from apply_overlay import Json, OverlayError, apply_overlays, load

DOCUMENT = Path("openapi.yaml")
CORRECTIONS, ADDITIONS = Path("overlays/corrections.overlay.yaml"), Path("overlays/additions.overlay.yaml")
CONFIG = Path("generator-config.yml")
CLIENT, NEW, OLD = Path("generated"), Path("build/new"), Path("build/old")

Document: TypeAlias = dict[str, Any]
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
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


def operations(document: Document) -> Iterator[tuple[str, Document]]:
    """Each operation, with its method and path."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if operation := item.get(method):
                yield f"{method.upper()} {path}", operation


def read_document() -> Document:
    """The vendor's document, if it is one."""
    document: Document = stripped(load(DOCUMENT))
    version = document.get("openapi")
    if not re.match(r"3\.[01](\.|$)", str(version)):
        found = f"Swagger {document['swagger']}" if "swagger" in document else f"OpenAPI {version}"
        raise OverlayError(f"{DOCUMENT}: is {found}. Export it again, as OpenAPI 3.0.")
    try:
        OpenAPI.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise OverlayError(f"{DOCUMENT}: no valid OpenAPI. {place}: {first['msg']}. Export it again.") from error
    return document


def tidy(document: Document) -> None:
    """Removes what OpenAPI ignores, and writes out what it lets an operation inherit or refer to."""
    components: Document = document.get("components") or {}
    document["components"] = {"schemas": {}, **components}
    shared: dict[str, Document] = components.get("parameters") or {}
    for holder in (*document["paths"].values(), *(operation for _, operation in operations(document))):
        parameters: list[Document] = holder.get("parameters") or []
        parameters = [shared.get(p.get("$ref", "").removeprefix("#/components/parameters/"), p) for p in parameters]
        holder["parameters"] = [
            p for p in parameters if not (p.get("in") == "header" and p["name"].lower() in IGNORED_HEADERS)
        ]
    for name, operation in operations(document):
        tag = (operation.get("tags") or [""])[0]
        operation["tags"] = [re.sub(r"\W+", " ", tag, flags=re.ASCII).strip() or "default"]
        if operation.get("security") is None:
            operation["security"] = document.get("security")
        if not operation.get("operationId"):
            operation.pop("operationId", None)
        if name.startswith(("GET ", "HEAD ")):
            operation.pop("requestBody", None)


def check_security(document: Document) -> None:
    """Raises for a security scheme that is not there, which the generator accepts."""
    schemes: Document = document["components"].get("securitySchemes") or {}
    for name, operation in (("The document", document), *operations(document)):
        requirements: list[dict[str, Json]] = operation.get("security") or []
        for scheme in {scheme for requirement in requirements for scheme in requirement if scheme not in schemes}:
            raise OverlayError(
                f"{DOCUMENT}: {name} names the security scheme {scheme}, which components.securitySchemes lacks. "
                f"Was the export cut off? If not, add an action to {CORRECTIONS} that adds it."
            )


def write_client(document: Document) -> Sequence[GeneratorError]:
    """Writes a client to build/new; what the generator would leave out is an error."""
    file = Path("build/openapi.json")
    file.write_text(json.dumps(document, indent=1), encoding="utf-8")
    config_file, output = ConfigFile.load_from_path(CONFIG), NEW / "anyapi_midjourney_generated"
    config = Config.from_sources(config_file, MetaType.NONE, file, "utf-8", overwrite=False, output_path=output)
    data = GeneratorData.from_dict(document, config=config)
    if isinstance(data, GeneratorError):
        return [data]
    for collection in data.endpoint_collections_by_tag.values():
        places: dict[str, str] = {}
        for endpoint in collection.endpoints:
            place = f"{endpoint.method.upper()} {endpoint.path.get_untrusted_value()}"
            if (other := places.setdefault(endpoint.name, place)) != place:
                header = f"{other} and {place} would both be {collection.tag}.{endpoint.name}."
                return [
                    GeneratorError(f"Add an action to {CORRECTIONS} that gives one another operationId.", header=header)
                ]
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
    check_security(document)
    try:
        errors = write_client(document)
    except Exception as error:  # the generator has many
        raise OverlayError(f"{DOCUMENT} or {CONFIG}: the generator fails with {error!r}") from error
    if errors:
        problem = shorten(f"{errors[0].header} {errors[0].detail or ''}", 400)
        raise OverlayError(f"{DOCUMENT}: no client can be generated from it. {problem}")


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
