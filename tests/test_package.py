"""The package as a whole: what it exports, what it imports, and that its README is true."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from pytest_httpx import HTTPXMock

import anyapi_midjourney
from anyapi_midjourney import beat, cli, sandbox
from shells import ROOT

PNG = b"\x89PNG\r\n\x1a\n and so on"
READMES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")}
EXAMPLES = {
    name: re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) for name, text in READMES.items()
}
COMMANDS = {
    name: re.findall(r"^(anyapi-midjourney .*?)(?: +#.*)?$", text, re.MULTILINE) for name, text in READMES.items()
}


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with sandbox.serve() as url:
        yield url


@pytest.fixture(autouse=True)
def _account(base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANYAPI_BASE_URL", base_url)
    monkeypatch.setenv("ANYAPI_API_KEY", sandbox.API_KEY)


def is_picture(request: httpx.Request) -> bool:
    """Whether a request is for the example's picture, which is not there any more."""
    return request.url.host == "cdnmjp.oneabc.org"


@pytest.mark.httpx_mock(should_mock=is_picture, assert_all_responses_were_requested=False)
@pytest.mark.parametrize(("name", "number"), [(name, n) for name in EXAMPLES for n in range(len(EXAMPLES[name]))])
def test_an_example_of_the_readme_runs(name: str, number: int, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(content=PNG, is_reusable=True)
    exec(compile(EXAMPLES[name][number], f"{name}, example {number + 1}", "exec"), {})


def test_the_readmes_have_the_same_examples() -> None:
    english, chinese = ([ast.dump(ast.parse(code)) for code in codes] for codes in EXAMPLES.values())
    assert english == chinese
    assert len(english) >= 8
    assert COMMANDS["README.md"] == COMMANDS["README.zh-CN.md"]
    headings = [re.findall(r"^#+(?= )", text, re.MULTILINE) for text in READMES.values()]
    assert headings[0] == headings[1]


@pytest.mark.parametrize("name", READMES)
def test_a_readme_names_every_magic_id_error_option_and_exit_code(name: str) -> None:
    for word in sandbox.KINDS:
        assert f"`{word}`" in READMES[name]
    for command in ("fetch", "wait"):
        for option in cli.main.commands[command].params:
            assert option.param_type_name == "argument" or option.opts[0] in READMES[name]
    for error in (e for e in anyapi_midjourney.__all__ if e.endswith("Error")):
        assert f"`{error}`" in READMES[name] or error in ("MidjourneyError", "TaskError")
    for code in (*range(7), cli.INTERRUPTED, cli.BROKEN_PIPE):
        assert f"| {code} | " in READMES[name]


@pytest.mark.httpx_mock(should_mock=is_picture, assert_all_responses_were_requested=False)
@pytest.mark.parametrize("command", COMMANDS["README.md"])
def test_a_command_of_the_readme_runs(command: str, httpx_mock: HTTPXMock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "SANDBOX_SPEED", 10**6)
    monkeypatch.setattr(beat, "PACE", 0.1)
    httpx_mock.add_response(content=PNG)
    words = shlex.split(re.split("[<|]", command)[0])[1:]
    result = CliRunner().invoke(cli.main, words, input=sandbox.EXAMPLE_ID)
    assert result.exit_code == (1 if "failure" in words else 0), result.output
    assert result.stdout


def make(target: str) -> subprocess.CompletedProcess[str]:
    """What `make` says, as if it were not `make check` that runs this."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "ANYAPI_"))}
    command = ["make", "--silent", "--directory", str(ROOT), target]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


@pytest.mark.slow
def test_the_demo_shows_saves_and_draws_what_came_of_three_tasks() -> None:
    result = make("demo")
    assert "upscale  UPSCALE  SUCCESS" in result.stdout
    assert "[Invalid parameter] Invalid value" in result.stdout
    for name in ("success.png", "upscale.png"):
        assert f"saved    build/demo/{name}" in result.stdout
        assert (ROOT / "build/demo" / name).read_bytes().startswith(b"\x89PNG")


def test_the_api_is_on_one_page_and_nothing_public_is_without_words() -> None:
    make("docs")
    page = (ROOT / "build/docs/anyapi_midjourney.html").read_text(encoding="utf-8")
    for name in anyapi_midjourney.__all__:
        assert f'<section id="{name}">' in page
        assert getattr(anyapi_midjourney, name).__doc__
    for name in ("Midjourney.download", "AsyncMidjourney.generated", "Task.image_url", "serve"):
        assert f'id="{name}"' in page
    for link in re.findall(r'href="([^"]*)"', page):
        assert link.startswith("https://") or f'id="{link.removeprefix("#")}"' in page


def test_what_is_exported_is_sorted_and_there() -> None:
    names = anyapi_midjourney.__all__
    assert names == sorted(names)
    for name in names:
        assert getattr(anyapi_midjourney, name).__module__.startswith("anyapi_midjourney.")


def test_importing_the_package_loads_no_event_loop_and_nothing_of_the_extras() -> None:
    # httpx loads click and rich, for its own command, where they are installed: None keeps it from that.
    heavy = ("anyio", "trio", "starlette", "uvicorn", "rich", "click", "aiohttp", "importlib.metadata", "asyncio")
    program = f"""
import sys
sys.modules.update(click=None, rich=None)
import anyapi_midjourney
print([name for name in {heavy} if sys.modules.get(name)])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_the_sandbox_without_its_extra_says_what_to_install() -> None:
    program = "import sys; sys.modules['starlette'] = None; import anyapi_midjourney.sandbox"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1].endswith("pip install 'anyapi-midjourney[sandbox]'")


def test_constraints_hold_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line)
