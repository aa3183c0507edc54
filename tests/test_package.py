"""The package as a whole: what it exports, what it imports, and that its README is true."""

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

import anyapi_midjourney
from anyapi_midjourney import sandbox
from shells import ROOT

EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with sandbox.serve() as url:
        yield url


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_of_the_readme_runs(number: int, base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYAPI_BASE_URL", base_url)
    monkeypatch.setenv("ANYAPI_API_KEY", sandbox.API_KEY)
    exec(compile(EXAMPLES[number], f"README.md, example {number + 1}", "exec"), {})


def test_the_readme_has_examples_of_both_clients_and_names_every_magic_id() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(EXAMPLES) >= 7
    for name in ("success", "failure", "cancelled", "modal", "describe", "upscale", "video", "never"):
        assert f"`{name}`" in text


@pytest.mark.slow
def test_the_demo_shows_the_progress_and_then_the_task() -> None:
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "20"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.match(r"  0\.0 s  accepted       0 %  \n(?s:.*) s  SUCCESS      100 %  #{25}\n", result.stdout)
    assert "SUCCESS, 100 %" in result.stdout
    assert "U1  U2  U3  U4  🔄  V1  V2  V3  V4" in result.stdout


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
