"""From the document to the client: each change of the document works, or stops with what to do, and loses nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest
from attrs import frozen
from ruamel.yaml import YAML

from anyapi_midjourney.client import BASE_URL
from shells import EXAMPLE, ROOT

DOCUMENT = (ROOT / "openapi.yaml").read_text(encoding="utf-8")
PATH = "  /mj/task/1743326750223591/fetch:\n"
APIFOX = "https://app.apifox.com/web/project/5443236/apis/api-232421939-run"
OTHERS = """\
  /mj/submit/imagine:
    post:
      summary: 提交Imagine任务
      tags: [绘画模型/Midjourney]
      parameters:
        - name: Authorization
          in: header
          schema: {type: string}
      requestBody:
        content:
          application/json:
            schema:
              type: object
              properties: {prompt: {type: string}, base64Array: {type: array, items: {type: string}}}
              required: [prompt]
      responses:
        '200':
          description: ''
          content:
            application/json:
              schema:
                type: object
                properties: {code: {type: integer}, status: {type: string, enum: [a, b]}, result: {type: string}}
                required: [code]
      x-run-in-apifox: https://app.apifox.com/web/project/5443236/apis/api-232421940-run
  /mj/task/{task_id}/image:
    parameters: [{name: task_id, in: path, required: true, schema: {type: string}}]
    get:
      tags: [绘画模型/Midjourney]
      responses: {'200': {description: '', content: {application/json: {schema: {type: object, properties: {}}}}}}
  /mj/submit/action:
    post:
      summary: 执行动作
      tags: [绘画模型/Midjourney]
      requestBody:
        content:
          application/json:
            schema: {type: object, properties: {customId: {type: string}, taskId: {type: string}}}
      responses: {'200': {description: '', content: {application/json: {schema: {type: object, properties: {}}}}}}
  /mj/task/1743326750223591/image-seed:
    get:
      summary: 获取任务图片的seed
      tags: [绘画模型/Midjourney]
      responses:
        '200':
          description: ''
          content: {application/json: {schema: {type: object, properties: {id: {type: string}}, required: [id]}}}
"""


@frozen
class Checkout:
    """What `make generate` needs, in a folder of its own."""

    folder: Path

    def make(self, target: str, document: str | bytes = DOCUMENT) -> subprocess.CompletedProcess[str]:
        """Runs a target on a document."""
        content = document.encode() if isinstance(document, str) else document
        (self.folder / "openapi.yaml").write_bytes(content)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = ["make", "--old-file=.venv/.ready", target]
        environment = os.environ | {"PATH": path, "MAKEFLAGS": ""}
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    @property
    def generated(self) -> Path:
        return self.folder / "generated" / "anyapi_midjourney_generated"

    def unchanged(self) -> bool:
        """Whether generated/ is, byte for byte, what it is in the real checkout."""
        return files(self.generated) == files(ROOT / "generated" / "anyapi_midjourney_generated")


def files(folder: Path) -> dict[str, bytes]:
    """The contents of a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    for name in ("Makefile", "openapi.yaml", "generator-config.yml", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, tmp_path)
    for name in ("overlays", "generated"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return Checkout(tmp_path)


def edited(edit: Callable[[dict[str, Any], dict[str, Any]], object]) -> str:
    """The document with its operation, or all of it, changed."""
    document: dict[str, Any] = YAML(typ="safe").load(DOCUMENT)  # pyright: ignore[reportUnknownMemberType]  (untyped)
    (item,) = document["paths"].values()
    edit(item["get"], document)
    return json.dumps(document, ensure_ascii=False)


def schema(operation: dict[str, Any]) -> dict[str, Any]:
    """The schema of our response."""
    found: dict[str, Any] = operation["responses"]["200"]["content"]["application/json"]["schema"]
    return found


def fields(operation: dict[str, Any]) -> dict[str, Any]:
    """The fields of our response."""
    found: dict[str, Any] = schema(operation)["properties"]
    return found


# What works


@pytest.mark.parametrize(
    "path",
    [
        "/mj/task/1730621826053455/fetch",
        "'/mj/task/1730621826053455/fetch'",
        "/mj/task/task-mj_7/fetch",
        '"/mj/task/{id}/fetch"',
    ],
)
def test_another_example_id_changes_no_byte(path: str, checkout: Checkout) -> None:
    again = DOCUMENT.replace(PATH, f"  {path}:\n").replace("id: '1730621826053455'", "id: 1730621826053456")
    result = checkout.make("generate", again)
    assert result.returncode == 0, result.stderr
    assert checkout.unchanged()


def test_the_vendors_other_operations_get_modules_of_their_own(checkout: Checkout) -> None:
    for document in (
        DOCUMENT.replace("paths:\n", f"paths:\n{OTHERS}"),
        DOCUMENT.replace("components:\n", f"{OTHERS}components:\n"),
    ):
        result = checkout.make("generate", document)
        assert result.returncode == 0, result.stderr
        ours, theirs = files(ROOT / "generated" / "anyapi_midjourney_generated"), files(checkout.generated)
        assert [name for name in ours if theirs.get(name) != ours[name]] == ["models/__init__.py"]
        modules = {Path(name).name for name in theirs.keys() - ours.keys() if name.startswith("api/")}
        assert modules >= {"post_mj_submit_imagine.py", "post_mj_submit_action.py"}
        assert len(modules) == 5  # and the other GETs, and the package


def test_a_new_field_becomes_an_attribute_that_may_be_null(checkout: Checkout) -> None:
    new = ("seed", "enum", "const")
    document = edited(lambda operation, _: fields(operation).update({name: {"type": "string"} for name in new}))
    assert checkout.make("generate", document).returncode == 0
    for name in new:
        assert f"{name}: None | str | Unset = UNSET" in (checkout.generated / "models/task.py").read_text()


def test_a_repaired_path_works_without_the_four_actions_that_mend_it(checkout: Checkout) -> None:
    def repair(operation: dict[str, Any], document: dict[str, Any]) -> None:
        path_parameter(operation, document)
        document["paths"] = {"/mj/task/{id}/fetch": {"get": operation}}

    overlay = checkout.folder / "overlays" / "openapi.overlay.yaml"
    actions = overlay.read_text(encoding="utf-8").split("\n  - target: ")
    overlay.write_text("\n  - target: ".join([*actions[:2], *actions[6:]]), encoding="utf-8")
    result = checkout.make("generate", edited(repair))
    assert result.returncode == 0, result.stderr
    assert "def sync(\n    id: str,\n" in (checkout.generated / "api/tasks/fetch_task.py").read_text(encoding="utf-8")


def test_an_interrupted_swap_puts_the_old_client_back(checkout: Checkout) -> None:
    tools = checkout.folder / "tools"
    tools.mkdir()
    (tools / "mv").write_text('#!/bin/sh\n[ "$1" = build/new ] && kill -TERM $PPID && sleep 1\nexec /bin/mv "$@"\n')
    (tools / "mv").chmod(0o755)
    makefile = checkout.folder / "Makefile"
    makefile.write_text(makefile.read_text().replace("$(CURDIR)/.venv/bin:", "$(CURDIR)/tools:"))
    assert checkout.make("generate").returncode != 0
    assert checkout.unchanged()
    assert not (checkout.folder / "build" / "lock").exists()


def test_an_enum_can_be_taken_out_by_an_action_before_the_check(checkout: Checkout) -> None:
    overlay = checkout.folder / "overlays" / "openapi.overlay.yaml"
    start = "\n  - target: >-\n      $.paths[?@['x-ours']].get.responses"
    before, check, after = overlay.read_text(encoding="utf-8").partition(start)
    fields_of_ours = "$.paths[?@['x-ours']].get.responses['200'].content['application/json'].schema.properties"
    removal = f"""
  - target: {fields_of_ours}.status.enum
    description: The server sends words of its own.
    remove: true
"""
    overlay.write_text(before + removal + check + after, encoding="utf-8")
    result = checkout.make("generate", edited(status_enum))
    assert result.returncode == 0, result.stderr
    assert checkout.unchanged()


@pytest.mark.slow
def test_a_field_that_is_read_and_gone_is_found_by_the_type_check(checkout: Checkout) -> None:
    document = edited(lambda operation, _: fields(operation).pop("progress"))
    assert checkout.make("generate", document).returncode == 0
    command = [sys.executable, "-m", "mypy", "overlays/anyapi_midjourney/task.py"]
    result = subprocess.run(command, cwd=checkout.folder, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert '"Task" has no attribute "progress"' in result.stdout


def test_generated_is_what_the_document_yields_whatever_the_hash_seed(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, locale in (("1", "C"), ("2", "C.UTF-8")):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        monkeypatch.setenv("LC_ALL", locale)
        result = checkout.make("drift")
        assert result.returncode == 0, result.stderr
    (checkout.generated / "extra.py").touch()
    assert checkout.make("drift").returncode != 0
    (checkout.generated / "extra.py").unlink()
    (checkout.generated / "types.py").write_text("# edited\n")
    assert checkout.make("drift").returncode != 0


# What stops


def path_parameter(operation: dict[str, Any], _: object) -> None:
    operation["parameters"].append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})


def status_enum(operation: dict[str, Any], _: object) -> None:
    fields(operation)["status"]["enum"] = ["SUCCESS", "FAILURE"]


def deep_enum(operation: dict[str, Any], _: object) -> None:
    fields(operation)["buttons"]["items"]["properties"]["style"]["enum"] = [1, 2]


def moved_schema(operation: dict[str, Any], document: dict[str, Any]) -> None:
    document["components"]["schemas"]["Task"] = schema(operation)
    operation["responses"]["200"]["content"]["application/json"]["schema"] = {"$ref": "#/components/schemas/Task"}


def converted(operation: dict[str, Any], _: object) -> None:
    fields(operation)["submitTime"] = {"type": "string", "format": "date-time"}


def other_content(operation: dict[str, Any], _: object) -> None:
    content = operation["responses"]["200"]["content"]
    operation["responses"]["200"]["content"] = {"text/html": {"schema": {"type": "string"}}, **content}


def both_names(operation: dict[str, Any], _: object) -> None:
    operation.update({"summary": "查询", "x-run-in-apifox": f"{APIFOX}-2"})


def twice(_: object, document: dict[str, Any]) -> None:
    (item,) = document["paths"].values()
    document["paths"]["/mj/task/2/fetch"] = item


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (
            edited(path_parameter),
            r"action \d+ of overlays/openapi\.overlay\.yaml \(The task id is no parameter.*delete the action",
        ),
        (edited(lambda o, _: schema(o).pop("required")), r"action \d+ .*Every field is required.*delete the action"),
        (edited(lambda o, _: o.pop("requestBody")), r"action \d+ .*A GET has no body.*delete the action"),
        (edited(lambda o, _: o["parameters"].clear()), r"action \d+ .*The bearer token is declared twice"),
        (edited(lambda o, _: o.update(operationId="x")), r"action \d+ .*There is no operationId"),
        (edited(lambda o, _: o.update(description="x")), r"action \d+ .*has no description"),
        (edited(lambda o, _: fields(o).update(videoUrl={"type": "string"})), r"action \d+ .*videoUrl is missing"),
        (edited(lambda o, _: fields(o).pop("buttons")), r"action \d+ .*The button's schema has no name"),
        (
            edited(status_enum),
            r"action \d+ .*A field of our response became an enum.*is there: \$\['paths'\].*\['status'\]$",
        ),
        (
            edited(deep_enum),
            r"became an enum.*is there: .*\['buttons'\]\['items'\]\['properties'\]\['style'\]$",
        ),
        (
            edited(moved_schema),
            r"action \d+ .*Our response refers to a schema that stands elsewhere.*is there: .*\['schema'\]$",
        ),
        (edited(lambda o, _: fields(o)["status"].update(const="SUCCESS")), r"an enum, a const.*is there: .*'status'"),
        (edited(converted), r"of a format that generated code converts.*is there: .*'submitTime'"),
        (edited(other_content), r"Our response has another content type, too.*is there: .*\['text/html'\]$"),
        (edited(both_names), r"action 1 .*Finds the operation.*if the vendor has changed both, put the new ones into"),
        (edited(twice), r"action \d+ .*must copy one node, not 2"),
        (DOCUMENT[:3000] + "\n  - : : {", "cannot be read as YAML"),
        (DOCUMENT.replace("info:", "info:\n\tx: 1"), "cannot be read as YAML"),
        (DOCUMENT + "paths: {}\n", "cannot be read as YAML"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        ("a: &a [*a]", "cannot be read as YAML"),
        ("a: !!bool abc", "cannot be read as YAML"),
        ("", "not an OpenAPI document; it holds nothing"),
        ("<!doctype html>\n<html>\n<title>x</title>\n</html>\n", "not an OpenAPI document"),
        ("just words", "not an OpenAPI document; it holds one str"),
        ("openapi: 3.0.1\ninfo: {title: Pets, version: 1.0.0}\npaths: {/pets: {get: {responses: {}}}}", "action 1 "),
        ("openapi: 3.0.1\npaths: []", "action 1 "),
    ],
)
def test_a_document_that_no_longer_fits_stops_with_what_to_do(
    document: str | bytes, says: str, checkout: Checkout
) -> None:
    result = checkout.make("generate", document)
    assert result.returncode != 0
    assert result.stderr.startswith("openapi.yaml: ")
    assert re.search(says, result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr
    assert checkout.unchanged()


def test_a_missing_document_is_said_to_be_missing(checkout: Checkout) -> None:
    (checkout.folder / "openapi.yaml").unlink()
    command = [sys.executable, "overlays/apply_overlay.py", "openapi.yaml", "overlays/openapi.overlay.yaml", "out.json"]
    result = subprocess.run(command, cwd=checkout.folder, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "openapi.yaml: No such file or directory\n")


def test_what_only_the_generator_refuses_names_the_document(checkout: Checkout) -> None:
    result = checkout.make("generate", DOCUMENT.replace("version: 1.0.0", "version: 1.0"))
    assert result.returncode != 0
    assert "openapi.yaml: no client can be generated from it" in result.stderr
    assert checkout.unchanged()


def test_a_client_that_is_gone_is_made_again(checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / "generated")
    assert checkout.make("generate").returncode == 0
    assert checkout.unchanged()


def test_the_client_is_made_by_one_at_a_time(checkout: Checkout) -> None:
    (checkout.folder / "build" / "lock").mkdir(parents=True)
    result = checkout.make("generate")
    assert result.returncode != 0
    assert "build/lock is there" in result.stderr
    assert checkout.unchanged()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("generator-config.yml", "a: ["),
        ("overlays/openapi.overlay.yaml", "a: ["),
        ("overlays/openapi.overlay.yaml", "actions: [x]"),
        ("overlays/openapi.overlay.yaml", "actions: [{target: $.info}]"),
        ("overlays/openapi.overlay.yaml", "actions: [{target: '$.info[', remove: true}]"),
        ("overlays/openapi.overlay.yaml", "actions: [{target: $.info, update: [x]}]"),
    ],
)
def test_a_broken_file_of_ours_loses_nothing_either(name: str, content: str, checkout: Checkout) -> None:
    (checkout.folder / name).write_text(content)
    result = checkout.make("generate")
    assert result.returncode != 0
    assert name == "generator-config.yml" or "Traceback" not in result.stderr
    assert checkout.unchanged()


def test_what_the_generator_warns_of_stops_too(checkout: Checkout) -> None:
    unknown = "  /x:\n    get:\n      responses: {'200': {description: '', content: {application/cbor: {}}}}\n"
    result = checkout.make("generate", DOCUMENT.replace("paths:\n", f"paths:\n{unknown}"))
    assert result.returncode != 0
    assert checkout.unchanged()


# What it is


def test_the_corrected_document_is_valid(checkout: Checkout) -> None:
    assert checkout.make("generate").returncode == 0
    document = json.loads((checkout.folder / "build/openapi.json").read_text(encoding="utf-8"))
    openapi_spec_validator.validate(document)
    assert list(document["paths"]) == ["/mj/task/{task_id}/fetch"]
    assert document["servers"][0]["url"] == BASE_URL
    media_type = document["paths"]["/mj/task/{task_id}/fetch"]["get"]["responses"]["200"]["content"]["application/json"]
    assert media_type["examples"]["1"]["value"] == EXAMPLE
