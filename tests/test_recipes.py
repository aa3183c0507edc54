"""The recipes of docs/recipes.md, each used as the page says."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from starlette.applications import Starlette
from starlette.routing import Mount

from anyapi_midjourney import AsyncMidjourney, Task, WaitTimeoutError, _operations, sandbox
from anyapi_midjourney._download import file_kind
from clients import KEY, ROOT, listening

serving: Any = sandbox._serving  # pyright: ignore[reportPrivateUsage]  # other applications are served as it is
PAGE = (ROOT / "docs/recipes.md").read_text("utf-8")
ID = sandbox.EXAMPLE_ID


def recipe(heading: str, language: str = "python") -> str:
    """The first block of code below a heading."""
    found = re.search(rf"^## {heading}\n(?:(?!^## ).)*?^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, str]]:
    """That of somebody with a key and an empty folder, whose tasks end at once."""
    monkeypatch.chdir(tmp_path)
    with sandbox.serve(finished=True) as base_url:
        monkeypatch.setenv("ANYAPI_BASE_URL", base_url)
        monkeypatch.setenv("ANYAPI_API_KEY", sandbox.API_KEY)
        yield dict(os.environ)


def run(program: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a program from a file, as worker processes need it."""
    Path("program.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-W", "error", "program.py"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=60)


def test_every_night_only_new_pictures_are_requested_and_only_errors_are_told(environment: dict[str, str]) -> None:
    key, line = recipe("Every night", "crontab").splitlines()
    assert re.fullmatch(r"ANYAPI_API_KEY=\S+", key)
    command = re.sub(r"^30 3 \* \* \* ", "", line).replace("/srv/pictures", ".")
    command = command.replace("/srv/venv/bin/", f"{Path(sys.executable).parent}/")
    cron = {name: environment[name] for name in ("ANYAPI_API_KEY", "ANYAPI_BASE_URL")}

    def night(ids: str, base_url: str = cron["ANYAPI_BASE_URL"]) -> tuple[int, str]:
        Path("ids").write_text(ids, encoding="utf-8")
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            env=cron | {"ANYAPI_BASE_URL": base_url},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    assert night("") == (0, "")
    assert night("success-1\nsuccess-2\n") == (0, "")
    assert night("success-1\nsuccess-2\n", "http://127.0.0.1:1") == (0, "")
    code, mail = night("success-1\nsuccess-3\nexpired\n")
    assert (code, mail.count("\n")) == (1, 1)
    assert mail.startswith("expired: ")
    assert {path.name for path in Path().glob("*.png")} == {f"success-{n}.png" for n in (1, 2, 3)}


@pytest.mark.usefixtures("environment")
def test_the_web_service_responds_with_json_and_with_events(monkeypatch: pytest.MonkeyPatch) -> None:
    def soon(*_: object, **__: object) -> float:
        return 0.05

    monkeypatch.setattr(_operations, "backoff", soon)

    async def times_out(*_: object) -> AsyncIterator[Task]:
        raise WaitTimeoutError("Not done")
        yield

    service: dict[str, Any] = {}
    exec(recipe("FastAPI"), service)
    with serving(service["app"]) as url, httpx.Client(base_url=url, trust_env=False) as client:
        task = client.get(f"/tasks/{ID}").json()
        assert (task["id"], task["done"], task["status"]) == (ID, True, "SUCCESS")
        assert (client.get("/tasks/unknown").status_code, client.get("/tasks/a b").status_code) == (404, 404)
        assert client.get("/tasks/unknown").json() == {"error": "TaskNotFoundError"}
        assert client.get("/tasks/bad-gateway").status_code == 502
        assert client.get("/tasks/unknown/events").status_code == 404
        events = client.get(f"/tasks/{ID}/events")
        assert events.headers["content-type"].startswith("text/event-stream")
        assert events.text == f"data: {json.dumps(task)}\n\nevent: end\ndata: null\n\n"
        monkeypatch.setattr(AsyncMidjourney, "watch", times_out)
        assert client.get(f"/tasks/{ID}/events").text == 'event: end\ndata: "WaitTimeoutError"\n\n'


@pytest.mark.usefixtures("environment")
def test_the_notebook_shows_a_card_and_updates_it() -> None:
    shell: Any = InteractiveShell.instance()
    captured: Any = capture_output()
    with captured as shown:
        shell.run_cell(recipe("A notebook")).raise_error()
    card = shown.outputs[-1].data["text/html"]
    assert "SUCCESS" in card
    assert f'src="{os.environ["ANYAPI_BASE_URL"]}/mj/image/' in card
    with capture_output():
        pressed = shell.run_cell('mj.wait(mj.press(task, "U1"))').result
    assert "UPSCALE" in pressed._repr_html_()
    with capture_output():
        shell.run_cell("from anyapi_midjourney import AsyncMidjourney").raise_error()
        fetched = shell.run_cell(f'async with AsyncMidjourney() as other: there = await other.fetch("{ID}")')
        fetched.raise_error()
        shell.run_cell("mj.close()").raise_error()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_each_worker_process_has_a_client_of_its_own(environment: dict[str, str], method: str) -> None:
    done = run(recipe("Worker processes").replace('"spawn"', f'"{method}"'), environment)
    assert done.stdout.splitlines()[:2] == [f"{ID} SUCCESS", "success SUCCESS"]
    assert done.stdout.splitlines()[2].startswith('failure "[Invalid parameter] Invalid value"')


def test_the_log_tells_failed_polls_and_no_address(environment: dict[str, str]) -> None:
    wait = """
from anyapi_midjourney import Midjourney, WaitTimeoutError
with Midjourney() as mj:
    try:
        mj.wait("bad-gateway", timeout=0.5)
    except WaitTimeoutError:
        pass
"""
    done = run(recipe("Logs") + wait, environment)
    assert re.search(r'^[\d: ,-]+ anyapi_midjourney A poll failed: "502 Bad Gateway"', done.stderr)
    assert environment["ANYAPI_BASE_URL"] not in done.stderr


def test_requests_use_the_proxy_that_the_shell_exports(environment: dict[str, str]) -> None:
    first: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        first.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with listening(proxy) as url:
        name, value = recipe("A proxy", "sh").removeprefix("export ").strip().split("=")
        assert value == "http://proxy.example:3128"
        https = environment | {name: url, "ANYAPI_BASE_URL": "https://gateway.example", "ANYAPI_API_KEY": KEY}
        command = [sys.executable, "-m", "anyapi_midjourney", "wait", ID, "--timeout", "0"]
        done = subprocess.run(command, env=https, capture_output=True, check=False, timeout=60)
    assert done.returncode == 6
    assert first[0].startswith(b"CONNECT gateway.example:443 HTTP/1.1\r\n")
    assert KEY.encode() not in first[0]


@pytest.mark.usefixtures("environment")
def test_a_gateway_may_lie_below_a_path_and_have_a_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    below = Starlette(routes=[Mount("/below/a/path", sandbox.app(finished=True))])
    with serving(below) as url:
        monkeypatch.setenv("ANYAPI_BASE_URL", f"{url}/below/a/path")
        exec(recipe("Another gateway"), {})
        assert file_kind(Path("pig.png").read_bytes()) == "png"
