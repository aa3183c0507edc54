"""The package as a whole: what it exports, what it imports, and that its documentation is true."""

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest
from click.testing import CliRunner
from pytest_httpx import HTTPXMock

import anyapi_midjourney
from anyapi_midjourney import AsyncMidjourney, Midjourney, cli, sandbox
from anyapi_midjourney._operations import SyncOptions
from clients import ROOT
from terminal import demo

PNG = b"\x89PNG\r\n\x1a\n and so on"
SPEED = 100
PATHS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PAGES = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in PATHS}
READMES = (PAGES["README.md"], PAGES["README.zh-CN.md"])
ENGLISH = READMES[0] + "".join(text for name, text in PAGES.items() if name.startswith("docs/"))


def found(pattern: str, text: str) -> list[str]:
    """The lines, or groups in them, that match."""
    return re.findall(pattern, text, re.MULTILINE)


def examples(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    return found(r"^(anyapi-midjourney (?!sandbox).*?)(?: +#.*)?$", text)


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with sandbox.serve(speed=SPEED) as url:
        yield url


@pytest.fixture
def _user(base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, httpx_mock: HTTPXMock) -> None:
    """Somebody with a key and an empty folder, whose time and sandbox run a hundred times as fast."""
    monkeypatch.chdir(tmp_path)
    Path("mask.png").write_bytes(PNG)
    monkeypatch.setenv("ANYAPI_BASE_URL", base_url)
    monkeypatch.setenv("ANYAPI_API_KEY", sandbox.API_KEY)
    monkeypatch.setattr(cli, "SANDBOX_SPEED", SPEED)
    sleep, async_sleep = time.sleep, anyio.sleep

    def clock(_: object) -> float:
        return time.monotonic() * SPEED

    def pause(seconds: float) -> None:
        sleep(seconds / SPEED)

    async def async_pause(seconds: float) -> None:
        await async_sleep(seconds / SPEED)

    for client in (Midjourney, AsyncMidjourney):
        monkeypatch.setattr(client, "_clock", clock)
    monkeypatch.setattr(time, "sleep", pause)
    monkeypatch.setattr(anyio, "sleep", async_pause)
    httpx_mock.add_response(content=PNG, is_reusable=True)


def is_expired_picture(request: httpx.Request) -> bool:
    """Whether a request is for the example's picture, which is not there any more."""
    return request.url.host == "cdnmjp.oneabc.org"


runs_as_a_user = pytest.mark.httpx_mock(should_mock=is_expired_picture, assert_all_responses_were_requested=False)


@runs_as_a_user
@pytest.mark.usefixtures("_user")
@pytest.mark.parametrize(
    ("name", "number"),
    [(page, n) for page in PAGES if page != "docs/recipes.md" for n in range(len(examples(PAGES[page])))],
)
def test_an_example_of_the_documentation_runs(name: str, number: int) -> None:
    exec(compile(examples(PAGES[name])[number], f"{name}, example {number + 1}", "exec"), {})


@runs_as_a_user
@pytest.mark.usefixtures("_user")
@pytest.mark.parametrize("command", sorted({*commands(ENGLISH)}))
def test_a_command_of_the_documentation_runs(command: str) -> None:
    words = shlex.split(re.split("[<|]", command)[0])[1:]
    result = CliRunner().invoke(cli.main, words, input=sandbox.EXAMPLE_ID)
    assert result.exit_code == (1 if "failure" in words else 0), result.output
    assert result.stdout


def test_both_readmes_have_the_same_examples_commands_links_and_headings() -> None:
    english, chinese = ([ast.dump(ast.parse(code)) for code in examples(text)] for text in READMES)
    assert english == chinese != []
    for pattern in (r"^#+(?= )", r"^(?:anyapi-midjourney|pip|make) [^#\n]*", r"\]\((?!README)(.*?)\)"):
        english, chinese = (found(pattern, text) for text in READMES)
        assert english == chinese != []


def test_every_id_error_option_argument_and_exit_code_is_documented() -> None:
    options = [option.opts[0] for name in ("imagine", "press", "wait") for option in cli.main.commands[name].params]
    errors = [name for name in anyapi_midjourney.__all__ if name.endswith("Error")]
    arguments = [*inspect.signature(Midjourney).parameters, *SyncOptions.__annotations__]
    words = {*sandbox.KINDS, *errors, *options, *arguments} - {"task_id", "ids", "button", "prompts", "httpx_options"}
    assert {word for word in words if f"`{word}`" not in ENGLISH} == set()
    codes = (*range(8), 129, 130, 141, 143)
    assert [code for code in codes if f"| {code} | " not in ENGLISH] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_only_files_headings_and_make_targets_that_exist(name: str) -> None:
    for path, heading in re.findall(r"\]\((?!https://)([^)#]*)#?([^)]*)\)", PAGES[name]):
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists()
        assert not heading or f"# {heading.replace('-', ' ')}\n" in target.read_text("utf-8").lower()
    assert {*found("`make ([a-z]+)`", PAGES[name])} <= {*found("^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"))}


def make(target: str) -> subprocess.CompletedProcess[str]:
    """What `make` prints, as if `make check` did not run this."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "ANYAPI_"))}
    command = ["make", "--silent", "--directory", str(ROOT), target]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


@pytest.mark.slow
def test_make_demo_submits_waits_presses_and_saves_both_pictures() -> None:
    result = make("demo")
    grid, single = sorted((ROOT / "build/demo").glob("*.png"))
    assert f"$ anyapi-midjourney press {grid.stem} U2" in result.stdout
    assert re.search(rf"{grid.stem}  IMAGINE  SUCCESS\n(?s:.)*{single.stem}  UPSCALE  SUCCESS", result.stdout)
    assert grid.read_bytes() != single.read_bytes()


def test_make_docs_makes_a_site_of_all_pages_and_of_every_public_name_with_its_docstring() -> None:
    assert (ROOT / "docs/demo.svg").read_text("utf-8") == demo()  # if not, `make docs` and look at it
    make("docs")
    site = ROOT / "build/site"
    for name in PAGES:
        assert (site / re.sub(r"README(?=\.md)", "index", name)).with_suffix(".html").exists()
    page = (site / "docs/api.html").read_text(encoding="utf-8")
    api = {*re.findall(r'id="anyapi_midjourney\.(?:errors\.)?([\w.]+)"', page)}
    assert {*anyapi_midjourney.__all__} - {"__version__"} <= api
    assert {"Midjourney.download", "AsyncMidjourney.generated", "Task.image_url", "sandbox.serve"} <= api
    assert not [name for name in api if "._" in name]


def test_importing_the_package_loads_no_event_loop_and_no_extra() -> None:
    # httpx loads click and rich for its own command where they are installed: None prevents that.
    heavy = ("anyio", "trio", "starlette", "uvicorn", "rich", "click", "socksio", "importlib.metadata", "asyncio")
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


def test_constraints_have_only_names_and_versions() -> None:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line)
