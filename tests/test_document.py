"""From the document to the client: each change of the document works, or stops with what to do, and loses nothing.

The document and the overlays are copies in tests/document/, so that a change of those in use breaks no test.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from textwrap import dedent, indent
from typing import Any, cast

import openapi_spec_validator
import pytest
from jinja2 import Environment
from ruamel.yaml import YAML

import apply_overlay
import generate
from anyapi_midjourney import Midjourney
from apply_overlay import Object

ROOT = Path(__file__).parent.parent
FROZEN = ROOT / "tests" / "document"
DOCUMENT = (FROZEN / "openapi.yaml").read_text(encoding="utf-8")
CHANGES: dict[str, Any] = apply_overlay.load(FROZEN / "changes.yaml")
PACKAGE = "anyapi_midjourney_generated"
MODELS = f"{PACKAGE}/models/__init__.py"

pytestmark = pytest.mark.no_cover  # nothing here runs the package, and measuring takes its time


@pytest.fixture(autouse=True, scope="module")
def _remember() -> Iterator[None]:
    """Parses each YAML text and compiles each template once: most are the same in every test."""
    load, build = cast("Any", YAML).load, Environment.compile
    parse: Any = cache(partial(load, YAML(typ="safe")))

    def load_once(_: YAML, text: str) -> Any:
        return parse(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(YAML, "load", load_once)
        templates: dict[tuple[object, ...], Any] = {}

        def compile_once(self: Environment, *source: Any) -> Any:
            if source not in templates:
                templates[source] = build(self, *source)
            return templates[source]

        patch.setattr(Environment, "compile", compile_once)
        yield


def files(folder: Path) -> dict[str, bytes]:
    """The contents of a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def changed(*actions: Object) -> str:
    """The document with changes of the vendor's."""
    document = apply_overlay.load(FROZEN / "openapi.yaml")
    for action in actions:
        apply_overlay.apply(action, document)
    return json.dumps(document, ensure_ascii=False)


def make(target: str) -> subprocess.CompletedProcess[str]:
    """Runs a target of the Makefile in the checkout, with the tools that run this test."""
    command = ["make", "--old-file=.venv/.ready", target]
    return subprocess.run(command, env=os.environ | {"MAKEFLAGS": ""}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pipeline needs, and the client that it makes from the unchanged document."""
    folder = tmp_path_factory.mktemp("original")
    for name in ("Makefile", "generator-config.yml", "pyproject.toml", "constraints.txt", "overlays/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    config = re.sub(r"(?m)^ +- ruff .*\n", "", (ROOT / "generator-config.yml").read_text(encoding="utf-8"))
    (folder / "generator-config.yml").write_text(config, encoding="utf-8")  # to format 200 clients takes a minute
    shutil.copy2(ROOT / "overlays/apply_overlay.py", folder / "overlays")
    shutil.copy2(FROZEN / "openapi.yaml", folder)
    for overlay in FROZEN.glob("*.overlay.yaml"):
        shutil.copy2(overlay, folder / "overlays")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        generate.generate()
        generate.swap()
    return folder


@pytest.fixture
def checkout(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that, the working directory of a test."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def new_client(document: str | bytes) -> dict[str, bytes]:
    """The client that a document yields."""
    generate.DOCUMENT.write_bytes(document.encode() if isinstance(document, str) else document)
    generate.generate()
    return files(generate.NEW)


def complaint(document: str | bytes) -> str:
    """Why a document yields no client."""
    with pytest.raises(apply_overlay.OverlayError) as error:
        new_client(document)
    message = str(error.value)
    assert message.startswith("openapi.yaml: ")
    assert len(message.splitlines()) == 1
    assert " object at 0x" not in message
    return message


def follow(message: str, advice: str | list[Object]) -> None:
    """Does what a message says: deletes the action that it names, or adds others before that one."""
    named = re.search(r"action (\d+) of (\S+)", message)
    overlay = Path(named[2]) if named else generate.CORRECTIONS
    head, *actions = re.split(r"(?m)^(?=  - target: )", overlay.read_text(encoding="utf-8"))
    number = int(named[1]) - 1 if named else len(actions)
    if isinstance(advice, str):
        assert f"{advice} the action" in message
        del actions[number]
    else:
        assert re.search("[Bb]efore this action|one before it|before this one|[Aa]dd an action", message)
        actions.insert(number, "".join(f"  - {json.dumps(action)}\n" for action in advice))
    overlay.write_text(head + "".join(actions), encoding="utf-8")


@pytest.mark.parametrize("actions", CHANGES["harmless"])
def test_what_the_vendor_may_write_otherwise_changes_no_byte(actions: list[Object], checkout: Path) -> None:
    assert new_client(changed(*actions)) == files(checkout / "generated")


@pytest.mark.parametrize(
    "document",
    [json.dumps(json.loads(changed())), "\ufeff" + DOCUMENT.replace("\n", "\r\n"), DOCUMENT.replace("'", '"')],
)
def test_another_form_of_the_file_changes_no_byte(document: str, checkout: Path) -> None:
    assert new_client(document) == files(checkout / "generated")


@pytest.mark.parametrize("case", CHANGES["stops"], ids=lambda case: case["says"])
def test_a_fault_stops_and_its_advice_works(case: Any, checkout: Path) -> None:
    document = changed(*case["change"])
    message = complaint(document)
    assert re.search(case["says"], message)
    follow(message, case["advice"])
    made = new_client(document)
    for name, content in files(checkout / "generated").items():
        # A field that the vendor documents has another place.
        assert name == MODELS or Counter(made[name].splitlines()) == Counter(content.splitlines())


@pytest.mark.parametrize("name", CHANGES["names"])
def test_a_schema_with_a_name_of_ours_stops_until_it_has_another(name: str, checkout: Path) -> None:
    schema: Object = {"type": "object", "properties": {"a": {"type": "string"}}}
    document = changed({"target": "$.components.schemas", "update": {name: schema}})
    message = complaint(document)
    assert name in message
    follow(message, [{"target": f"$.components.schemas.{name}", "x-rename": "Other"}])
    made = new_client(document)
    assert f"{PACKAGE}/models/other.py" in made
    assert {name for name, content in files(checkout / "generated").items() if made[name] != content} == {MODELS}


# What stops, and nothing but another export helps


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("", "not an OpenAPI document; it holds nothing"),
        ("<!doctype html>\n<html>\n<title>x</title>\n</html>\n", "not an OpenAPI document"),
        ("# 标题\n\n```yaml\n" + DOCUMENT + "```\n", "Markdown fences.*Paste only what is between"),
        (DOCUMENT + "```\n", "Markdown fences"),
        (DOCUMENT.replace("info:", "info:\n\tx: 1"), "cannot be read as YAML in line 3"),
        (DOCUMENT + "paths: {}\n", 'cannot be read as YAML in line .*duplicate key "paths"'),
        (b"\xff\xfe\x00", "is not UTF-8"),
        ("a: &a [*a]", "cannot be read as YAML"),
        ("a: !!bool abc", "cannot be read as YAML"),
        (changed()[:2000], "cannot be read as YAML"),
        (DOCUMENT.replace("openapi: 3.0.1", "swagger: '2.0'"), "is Swagger 2.0. Export it again, as OpenAPI 3.0"),
        (DOCUMENT.replace("3.0.1", "3.2.0"), "is OpenAPI 3.2.0. Export it again, as OpenAPI 3.0"),
        (DOCUMENT.replace("version: 1.0.0", "version: 1.0"), "no valid OpenAPI. info.version: .*valid string"),
        ("openapi: 3.0.1\npaths: []", "no valid OpenAPI"),
        ("openapi: 3.0.1\ninfo: {title: Pets, version: 1.0.0}\npaths: {}", "action 1 .*this is another document"),
    ],
)
def test_what_is_no_export_is_called_by_its_name(document: str | bytes, says: str, checkout: Path) -> None:
    assert re.search(says, complaint(document))
    assert not (checkout / "build/new").exists()


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize("line", range(4, DOCUMENT.count("\n") - 4, 9))
def test_an_export_that_was_cut_off_says_to_export_again(line: int) -> None:
    message = complaint("".join(DOCUMENT.splitlines(keepends=True)[:line]))
    assert re.search("[Ee]xport(ed)? (it )?again|export was cut off|cannot be read as YAML", message)


@pytest.mark.parametrize(("tag", "package"), CHANGES["packages"].items())
def test_the_vendors_other_operations_get_modules_of_their_own(tag: str, package: str, checkout: Path) -> None:
    form = {"multipart/form-data": {"schema": {"type": "object", "properties": {"file": {"type": "string"}}}}}
    operation: dict[str, Any] = CHANGES["pasted"] | {"tags": [tag] if tag else []}
    upload = operation | {"requestBody": {"content": form}}
    paths: dict[str, Any] = {
        "/edits": {"post": operation},
        "/upload": {"post": upload},
        "/task/1/seed": {"get": operation},
    }
    made = new_client(changed(CHANGES["shared"], {"target": "$.paths", "update": paths}))
    ours = files(checkout / "generated")
    assert {name for name in ours if made[name] != ours[name]} == {MODELS}
    modules = {"post_edits": ["body"], "post_upload": ["body"], "get_task_1_seed": []}
    for name, arguments in modules.items():
        signature = made[f"{PACKAGE}/api/{package}/{name}.py"].decode().partition("_get_kwargs(")[2].partition("->")[0]
        assert re.findall(r"(\w+):", signature) == arguments
    folders = {name.split("/")[2] for name in made if "/api/" in name}
    assert folders == {"__init__.py", "tasks", package}


@pytest.mark.usefixtures("checkout")
def test_a_new_field_becomes_an_attribute_that_may_be_null() -> None:
    names = ("seed", "enum", "const", "type", "required", "title", "x-foo")
    fields: Object = {name: {"type": "string"} for name in names}
    made = new_client(changed({"target": "$..schema.properties", "update": fields}))
    for name in ("seed", "enum", "const", "type_", "required", "title", "x_foo"):
        assert f"    {name}: None | str | Unset = UNSET" in made[f"{PACKAGE}/models/task.py"].decode()


@pytest.mark.usefixtures("checkout")
def test_the_actions_of_the_page_for_maintainers_work() -> None:
    page = (ROOT / "docs/changed-document.md").read_text(encoding="utf-8")
    remove, add = (dedent(block) for block in re.findall(r"^ +```yaml\n(.*?)^ +```$", page, re.MULTILINE | re.DOTALL))
    renamed = generate.DOCUMENT.read_text(encoding="utf-8").replace("imageUrl", "pictureUrl")
    assert b"image_url" not in new_client(renamed)[f"{PACKAGE}/models/task.py"]
    corrections = generate.CORRECTIONS.read_text(encoding="utf-8")
    generate.CORRECTIONS.write_text(corrections + indent(add, "  "), encoding="utf-8")
    task = new_client(renamed)[f"{PACKAGE}/models/task.py"]
    assert b"image_url" in task
    assert b"picture_url" in task
    with_list = changed({"target": "$..properties.status", "update": {"enum": ["SUCCESS"]}})
    assert "status" in complaint(with_list)
    before = corrections.rindex("  - target", 0, corrections.index("[?@.enum[0]"))
    generate.CORRECTIONS.write_text(
        corrections[:before] + indent(remove, "  ") + corrections[before:], encoding="utf-8"
    )
    assert new_client(with_list)


@pytest.mark.slow
@pytest.mark.usefixtures("checkout")
def test_the_type_check_finds_what_is_gone_and_forgets_it_when_it_is_back() -> None:
    def errors(code: str) -> str:
        Path("reader.py").write_text(code, encoding="utf-8")
        command = [sys.executable, "-m", "mypy", "reader.py"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    module = Path("package/module.py")
    module.parent.mkdir()
    (module.parent / "__init__.py").touch()
    assert 'has no attribute "module"' in errors("from package import module\n")
    module.touch()
    assert errors("from package import module\n").startswith("Success")
    Path("openapi.yaml").write_text(changed({"target": "$..properties.progress", "remove": True}), encoding="utf-8")
    assert make("generate").returncode == 0
    code = f"from {PACKAGE}.models import Task\nprint(Task().progress)\n"
    assert '"Task" has no attribute "progress"' in errors(code)


# All or nothing


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("openapi.yaml", DOCUMENT.replace("tags:", "tags")),
        ("openapi.yaml", DOCUMENT.replace("      security:\n        - bearer: []\n", "      security: []\n")),
        ("openapi.yaml", None),
        ("generator-config.yml", "a: ["),
        ("overlays/additions.overlay.yaml", "a: ["),
    ],
)
def test_a_failure_loses_nothing_and_names_the_file(name: str, text: str | None, checkout: Path) -> None:
    before = files(checkout / "generated")
    (checkout / name).unlink()
    if text is not None:
        (checkout / name).write_text(text, encoding="utf-8")
    result = make("generate")
    assert result.returncode != 0
    assert name in result.stderr.splitlines()[0]
    assert "Traceback" not in result.stderr
    assert files(checkout / "generated") == before


@pytest.mark.parametrize("overlay", [generate.CORRECTIONS, generate.ADDITIONS], ids=str)
@pytest.mark.parametrize(
    "text",
    [
        "actions: [x]",
        "actions: [{target: $.info}]",
        "actions: [{target: '$.info[', remove: true}]",
        "actions: [{target: $.info, update: [x]}]",
        "actions: [{target: $, remove: true}]",
        "actions: [{target: $.info, x-rename: paths}]",
        "actions: [{target: '$.servers[0]', x-rename: a}]",
    ],
)
@pytest.mark.usefixtures("checkout")
def test_an_overlay_that_cannot_be_applied_is_named(overlay: Path, text: str) -> None:
    overlay.write_text(text, encoding="utf-8")
    with pytest.raises(apply_overlay.OverlayError, match=re.escape(str(overlay))):
        generate.generate()


@pytest.mark.usefixtures("checkout")
def test_drift_is_any_difference_whatever_the_hash_seed_and_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, locale in (("1", "C"), ("2", "C.UTF-8")):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        monkeypatch.setenv("LC_ALL", locale)
        assert make("drift").returncode == 0
    extra = generate.CLIENT / "extra.py"
    extra.touch()
    assert "Run `make generate`" in make("drift").stderr
    extra.unlink()
    (generate.CLIENT / PACKAGE / "types.py").unlink()
    assert make("drift").returncode != 0


def test_a_client_that_is_gone_is_made_again(checkout: Path) -> None:
    before = files(checkout / "generated")
    shutil.rmtree(checkout / "generated")
    assert make("generate").returncode == 0
    assert files(checkout / "generated") == before


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "raise OSError('no space')"])
def test_an_interrupted_swap_is_repaired(how: str, checkout: Path) -> None:
    before = files(checkout / "generated")
    program = f"""
import os, generate
rename = generate.Path.rename
def interrupted(path, target):
    if path == generate.NEW:
        {how}
    return rename(path, target)
generate.Path.rename = interrupted
generate.main()
"""
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": "overlays"}
    assert subprocess.run(command, env=environment, check=False).returncode != 0
    assert (checkout / "generated").exists() == ("OSError" in how)
    assert make("drift").returncode == 0
    assert files(checkout / "generated") == before


def test_the_client_is_made_by_one_at_a_time(checkout: Path) -> None:
    with (checkout / "overlays/generate.py").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "overlays/generate.py"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert process.wait(60) == 0


# What it is


@pytest.mark.usefixtures("checkout")
def test_the_corrected_document_is_valid() -> None:
    new_client(DOCUMENT)
    openapi_spec_validator.validate(json.loads(Path("build/openapi.json").read_text(encoding="utf-8")))


def test_the_package_talks_to_the_documents_server() -> None:
    servers = apply_overlay.load(ROOT / "openapi.yaml")["servers"]
    assert Midjourney(api_key="x").base_url in str(servers), "Set BASE_URL to the server in openapi.yaml"
