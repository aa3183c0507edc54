"""The command line: what people see, and what scripts can rely on."""

import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pytest_httpx import HTTPXMock

from anyapi_midjourney import _operations, _waiting, sandbox
from anyapi_midjourney.__main__ import main as start
from anyapi_midjourney.cli import main
from anyapi_midjourney.cli._progress import Screen
from clients import CASES, EXAMPLE, KEY, listening, says
from terminal import COMMAND, Terminal
from terminal import environment as user_environment

ID = sandbox.EXAMPLE_ID
HOSTILE = "a\rb\x0bc\x85d\u2028e\x1b]0;title\x07\x1b[2J[red]x[/red]\r\n\x9b31m\u202emoc.live[link=file:///etc/passwd]y"
Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def soon(*_: object, **__: object) -> float:
        return 0.05

    monkeypatch.setattr(_waiting, "backoff", soon)
    monkeypatch.setattr(_operations, "backoff", soon)
    monkeypatch.setattr(_waiting, "_AFTER_REFUSAL", 0.05)


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with sandbox.serve(speed=10**6, api_key=KEY) as url:
        for task_id in ("never", "modal"):  # a task starts when it is first requested
            httpx.get(f"{url}/mj/task/{task_id}/fetch", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False)
        yield url


@pytest.fixture
def run(base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANYAPI_BASE_URL", base_url)
    monkeypatch.setenv("ANYAPI_API_KEY", KEY)

    def run(*arguments: str, text: str = "", **environment: str) -> Result:
        result = CliRunner().invoke(main, arguments, input=text, env=environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return run


@pytest.fixture
def responds(httpx_mock: HTTPXMock) -> Callable[..., None]:
    """Replaces the responses of the API, whatever is requested."""

    def responds(body: Any = None, http_status: int = 200, **fields: Any) -> None:
        httpx_mock.reset()
        content = body if isinstance(body, str) else json.dumps(body or EXAMPLE | fields)
        httpx_mock.add_response(text=content, status_code=http_status, is_reusable=True)

    return responds


def test_fetch_shows_a_task_in_lines(run: Run) -> None:
    result = run("fetch", ID)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{ID}  IMAGINE  SUCCESS",
        "  prompt   pig --v 6.1",
        "  took     2.0 s in the queue, 27.8 s to draw",
        f"  picture  {EXAMPLE['imageUrl']}",
        "  expired  2024-11-04 08:17 UTC",
        "  buttons  [U1]  [U2]  [U3]  [U4]  [🔄]",
        "           [V1]  [V2]  [V3]  [V4]",
    ]


@pytest.mark.parametrize("name", CASES)
def test_every_recorded_response_is_a_task_or_an_error(name: str, run: Run, responds: Callable[..., None]) -> None:
    case: dict[str, Any] = CASES[name]
    body: Any = case.get("body", case.get("body_text"))
    status: int = case["http_status"] or 200
    fields = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    is_task = status == 200 and bool({"id", "status"} & fields.keys())
    task_id = str(fields.get("id") or "1")
    responds(json.dumps(body) if "body" in case else body or "", status)
    result = run("wait", task_id, "--timeout", "0")
    printed = run("wait", task_id, "--timeout", "0", "--json")
    assert result.stdout or result.stderr
    assert printed.exit_code == result.exit_code
    document = json.loads(printed.stdout)
    if is_task:
        assert document == body
    else:
        assert document.keys() == {"id", "error"}
        assert result.exit_code in (2, 3, 4, 5, 6)


def test_json_has_one_line_for_each_id_and_nothing_else(run: Run) -> None:
    ids = ["nowhere", "html", ID, "not", "an", "a/b"]
    result = run("wait", "-", *ids[1:], "--timeout", "0", "--json", text="nowhere\r\nnowhere\n 猪", FORCE_COLOR="1")
    documents = {document["id"]: document for document in map(json.loads, result.stdout.splitlines())}
    assert result.stdout.count("\n") == len(documents) == 7
    assert result.stdout.isascii()
    assert "\x1b" not in result.stdout
    assert documents.pop(ID) == EXAMPLE
    assert all(document.keys() == {"id", "error"} for document in documents.values())
    assert "task_no_found" in documents["nowhere"]["error"]
    assert "nowhere: " in result.stderr


def test_json_is_valid_and_complete_whatever_the_server_sends(run: Run, responds: Callable[..., None]) -> None:
    sent = {"prompt": HOSTILE, "new": {"deep": [1, None, {"x": "\u2028"}]}}
    responds(**sent)
    result = run("fetch", ID, "--json")
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout) == EXAMPLE | sent
    responds('{"id": "1", "x": [NaN, 1e999, -Infinity]}')
    assert run("fetch", "1", "--json").stdout == '{"x": [null, null, null], "id": "1"}\n'


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE", "IN_PROGRESS", HOSTILE])
@pytest.mark.parametrize("command", ["fetch", "wait"])
def test_no_control_sequence_or_markup_of_a_server_takes_effect(
    run: Run, responds: Callable[..., None], command: str, status: str
) -> None:
    button = {"label": HOSTILE, "customId": HOSTILE, "emoji": HOSTILE}
    fields: list[str] = ["id", "action", "prompt", "failReason", "progress"]
    hostile = {**dict.fromkeys(fields, HOSTILE), "imageUrl": f"https://cdn.example.com/{HOSTILE}"}
    timeout = ["--timeout", "0"] if command == "wait" else []
    for field, value in hostile.items():
        responds(**{"imageUrl": "https://cdn.example.com/x", field: value}, status=status, buttons=[button])
        for options in (timeout, [*timeout, "--json"]):
            result = run(command, ID, *options, FORCE_COLOR="1", COLUMNS="200")
            ours = r"\x1b\[[0-9;]*m|\x1b]8;id=\d+;https?://[!-~]*\x1b\\|\x1b]8;;\x1b\\"
            shown = re.sub(ours, "", result.output)
            assert all(line.isprintable() for line in shown.split("\n"))
            if field == "prompt" and not options:
                assert "[red]x[/red]" in shown


@pytest.mark.parametrize(
    ("url", "more", "shown", "is_link"),
    [
        ("https://cdn.example/x.png", {}, "https://cdn.example/x.png", True),
        ("https://cdn.example/x.png", {"FORCE_COLOR": ""}, "https://cdn.example/x.png", False),
        ("vscode://x/y", {}, "vscode://x/y", False),
        ("http://localhost:3000/mj/image/1", {}, "https://gateway.example/mj/image/1", True),
        ("https://cdn.example/x?ex=3afff4417f&is=1&hm=2", {}, "9999-12-31", True),
    ],
)
def test_the_picture_of_a_task_is_a_link_to_the_web(
    run: Run, responds: Callable[..., None], *, url: str, more: dict[str, str], shown: str, is_link: bool
) -> None:
    responds(imageUrl=url)
    result = run("fetch", ID, ANYAPI_BASE_URL="https://gateway.example", **{"FORCE_COLOR": "1", **more})
    assert shown in result.stdout
    assert ("\x1b]8;id=" in result.stdout) == is_link


EXIT_CODES = {
    0: f"--help, --version, sandbox --help, wait -, imagine -, fetch {ID}, fetch never, wait {ID}",
    2: f"fly, wait, fetch 'a b', wait a/b, wait {ID} --save /dev/null/x, sandbox --port x, "
    f"wait {ID} --timeout nan, wait {ID} --timeout -1, wait {ID} --timeout soon",
    4: f"wait never --timeout 0, wait {' '.join(f'never-{n}' for n in range(13))} {ID} a/b --timeout 0",
    5: "fetch nowhere, wait nowhere a/b b/c",
    6: "fetch html",
}


@pytest.mark.parametrize(
    ("code", "line"), [(code, line) for code in EXIT_CODES for line in EXIT_CODES[code].split(", ")]
)
def test_exit_codes_are_as_documented(run: Run, code: int, line: str) -> None:
    result = run(*shlex.split(line))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output


def test_a_failed_task_exits_with_1_and_a_refused_key_with_3(
    run: Run, responds: Callable[..., None], httpx_mock: HTTPXMock
) -> None:
    responds(status="FAILURE", failReason="no")
    assert run("fetch", ID).exit_code == run("wait", ID).exit_code == 1
    responds(status="CANCEL")
    assert run("wait", ID, "--json").exit_code == 1
    for status in (401, 403):
        responds({"error": {"message": f"no {KEY}"}}, status)
        result = run("fetch", ID)
        assert result.exit_code == 3
        assert result.stderr.startswith(f'{ID}: "no [key]"')
    httpx_mock.reset()
    httpx_mock.add_exception(httpx.ConnectError("refused"), is_reusable=True)
    assert run("fetch", ID, ANYAPI_API_KEY="sk-1").exit_code == 6


def test_without_a_key_it_says_how_to_give_one(run: Run) -> None:
    result = run("wait", ID, ANYAPI_API_KEY="")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "ANYAPI_API_KEY" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_picture_that_is_there_is_not_requested_again(run: Run) -> None:
    ids = ["success-a:1", "success-a~1"]
    for task_id in ids * 2:  # submitted and ended
        run("fetch", task_id)
    result = run("wait", *ids, "--save", "new/folder")
    assert (result.exit_code, result.stderr) == (0, "")
    files = sorted(Path("new/folder").iterdir())
    assert len(files) == 2
    for file in files:
        assert f"  saved    {file}\n" in result.stdout
        assert file.read_bytes().startswith(b"\x89PNG")
        file.write_bytes(file.name.encode())
    again = ["wait", *ids, "--save", "new/folder", "--timeout", "0"]
    nowhere = {"ANYAPI_BASE_URL": "http://127.0.0.1:1"}
    result = run(*again, **nowhere)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "".join(f"{task_id}  kept {file}\n" for task_id, file in zip(ids, files, strict=True))
    printed = run(*again, "--json", **nowhere).stdout
    assert run("wait", "x" * 128, ":" * 100, *again[3:], **nowhere).exit_code == 6  # names that no file can have
    saved = [{"id": task_id, "saved": str(file)} for task_id, file in zip(ids, files, strict=True)]
    assert [json.loads(line) for line in printed.splitlines()] == saved
    assert [file.read_bytes() for file in files] == [file.name.encode() for file in files]


def test_a_picture_that_cannot_be_saved_is_a_failure(run: Run, responds: Callable[..., None]) -> None:
    responds(imageUrl="http://10.0.0.1/x")
    result = run("wait", ID, "--save", ".")
    assert result.exit_code == 1
    assert "SUCCESS" in result.stdout
    assert "private or loopback" in result.stderr
    printed = json.loads(run("wait", ID, "--save", ".", "--json").stdout)
    assert printed.pop("saved") is None
    assert "private or loopback" in printed.pop("error")
    assert printed == EXAMPLE | {"imageUrl": "http://10.0.0.1/x"}


@pytest.mark.parametrize(
    ("action", "code"), [("IMAGINE", 1), ("UPSCALE", 1), ("NEW", 1), ("", 1), ("DESCRIBE", 0), ("SHORTEN", 0)]
)
def test_a_task_without_a_picture_is_a_failure_unless_it_makes_words(
    run: Run, responds: Callable[..., None], action: str, code: int
) -> None:
    responds(imageUrl="", action=action)
    result = run("wait", ID, "--save", ".")
    assert result.exit_code == code
    words = "The task has no picture" if code else f"{ID}: no picture to save, since {action} makes words."
    assert words in result.stderr
    quiet = run("wait", ID, "--save", ".", "--quiet")
    assert (quiet.exit_code, quiet.stdout, bool(quiet.stderr)) == (code, "", bool(code))
    assert run("wait", ID).exit_code == 0


def test_quiet_shows_errors_only(run: Run) -> None:
    for _ in range(2):  # submitted and ended
        run("fetch", "failure")
    result = run("wait", ID, "failure", *(f"{ID}x{n}" for n in range(12)), "--quiet", "--timeout", "0")
    assert result.stdout == ""
    assert result.stderr.startswith('failure: "[Invalid parameter] Invalid value"')
    assert result.stderr.count("\n") == 13
    assert json.loads(run("wait", ID, "--quiet", "--json").stdout) == EXAMPLE
    assert run("imagine", "a pig", "--quiet", "--no-wait").stdout


def test_many_tasks_have_a_line_each(run: Run) -> None:
    result = run("wait", "-", text=" ".join([ID, *(f"a/{n}" for n in range(20))]))
    assert result.exit_code == 2
    assert result.stdout == f"{ID}  IMAGINE  SUCCESS  {EXAMPLE['imageUrl']}\n"
    assert result.stderr.count("A task id is") == 20
    assert "1 succeeded" in result.stderr
    assert "20 failed" in result.stderr


def test_the_sandbox_needs_no_key(run: Run) -> None:
    result = run("fetch", ID, "--sandbox", "--json", ANYAPI_API_KEY="", ANYAPI_BASE_URL="https://wrong.example")
    assert json.loads(result.stdout) == EXAMPLE


@pytest.mark.parametrize(
    ("module", "extra"), [("click", "cli"), ("rich", "cli"), ("starlette", "sandbox"), ("textual_image", "show")]
)
def test_a_missing_extra_is_named_in_one_sentence(module: str, extra: str) -> None:
    program = f"import sys; sys.modules['{module}'] = None; from anyapi_midjourney.__main__ import main; main()"
    option = "--show" if extra == "show" else "--sandbox"
    command = [sys.executable, "-c", program, "fetch", "1", option]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(rf"[^\n]+: pip install 'anyapi-midjourney\[{extra}\]'\n", result.stderr)


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "cp1252"])
def test_characters_that_the_encoding_lacks_are_replaced(base_url: str, encoding: str) -> None:
    more = environment(base_url, PYTHONIOENCODING=encoding)
    result = subprocess.run([*COMMAND, "fetch", ID], capture_output=True, env=more, check=True)
    assert b"[U4]  [?]" in result.stdout


def test_a_lasting_fault_is_shown_once_during_the_wait(run: Run) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        result = run("wait", "1", "2", "--timeout", "1", ANYAPI_BASE_URL=url)
    assert result.exit_code == 6
    assert result.stderr.count("A poll failed: No response from 127.0.0.1") == 1
    assert result.stderr.count("No response from") == 1
    first, second = result.stderr.splitlines()[1:]
    assert re.fullmatch(r"1: Not done after 1 s: .* The last poll failed with the same error\.", first)
    assert second == "2: The same error as 1."


def test_an_unencrypted_key_is_warned_of_in_one_line(run: Run, responds: Callable[..., None]) -> None:
    responds()
    result = run("fetch", ID, ANYAPI_BASE_URL="http://gateway.example")
    assert result.stderr == "The API key goes to gateway.example unencrypted: use https.\n"


def environment(base_url: str, **more: str) -> dict[str, str]:
    return user_environment(base_url, KEY, **more)


def terminal_of(base_url: str, *arguments: str, stdout: Any = None, cwd: Path | None = None, **more: str) -> Terminal:
    return Terminal(environment(base_url, **more), *arguments, stdout=stdout, cwd=cwd)


def test_bars_move_and_leave_no_trace_on_the_screen(base_url: str) -> None:
    terminal = terminal_of(base_url, "wait", "never", "modal", ID, "a/b", "--timeout", "1")
    terminal.read("MODAL")
    assert re.search(r"never .*99%", terminal.shown)
    assert terminal.close() == 4
    for text in (f"{ID}  IMAGINE  SUCCESS", "[V4]", "never  IMAGINE  IN_PROGRESS", "modal  INPAINT  MODAL"):
        assert terminal.screen.count(text) == 1
    assert "A task id is" in terminal.screen
    assert terminal.screen.count("Not done after 1 s") == 2
    assert "━" not in terminal.screen


def test_lines_break_between_words_and_between_buttons(base_url: str, run: Run) -> None:
    words = "a pig in a spacesuit that looks back at the earth from a crater of the moon " * 3
    task_id = run("imagine", f"{words} {'x' * 90}", "--no-wait").stdout.strip()
    terminal = terminal_of(base_url, "wait", task_id, "upscale", "a/b", "--timeout", "1")
    assert terminal.close() == 2
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b]8;[^\x1b]*\x1b\\", "", terminal.shown)
    assert [line.strip() for line in re.split("[\r\n]+", shown) if len(line) > 80] == ["x" * 90]
    assert re.search(r"  prompt   a pig in .*[a-z]\r\n {11}[a-z]", shown)
    assert "[⬇️]\r\n" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_restores_the_terminal_and_says_how_to_go_on(
    base_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "it's").mkdir()
    (tmp_path / "it's" / f"{ID}.mp4").write_bytes(b"saved before")
    words = ["never", ID, "modal", "--save", "it's", "--show", "--timeout", "60"]
    terminal = terminal_of(base_url, "wait", *words, cwd=tmp_path)
    terminal.read("cannot show the picture")
    terminal.read("IN_PROGRESS")
    for _ in range(2 if number == signal.SIGINT else 1):  # people press ^C twice, and the terminal echoes it
        os.write(terminal.end, b"\x03" if number == signal.SIGINT else b"")
        terminal.process.send_signal(number)
    assert terminal.close() == 128 + number
    assert "Interrupted with 2 left. To go on:" in terminal.shown
    command = """anyapi-midjourney wait --timeout=60.0 '--save=it'"'"'s' --show never modal"""
    assert command in terminal.shown.splitlines()
    assert "━" not in terminal.screen
    assert not terminal.hides_cursor
    assert "Traceback" not in terminal.shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_download_leaves_no_part_of_a_file(tmp_path: Path, number: signal.Signals) -> None:
    def serve(listener: socket.socket) -> None:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        with listener.accept()[0] as poll:
            says(json.dumps(EXAMPLE | {"imageUrl": address}).encode())(poll)
            with listener.accept()[0] as download:
                says(b"\x89PNG\r\n\x1a\n", length=99)(download)
                download.recv(1)  # until the command is gone

    with listening(serve, accept=False) as url:
        command = [*COMMAND, "wait", ID, "--save", str(tmp_path)]
        with subprocess.Popen(command, env=environment(url), stderr=subprocess.PIPE) as process:
            end = time.monotonic() + 20
            while not list(tmp_path.iterdir()) and time.monotonic() < end:
                time.sleep(0.01)
            process.send_signal(number)
            assert process.wait(10) == 128 + number
            assert process.stderr
            assert b"To go on:" in process.stderr.read()
    assert not list(tmp_path.iterdir())


def test_the_first_of_several_signals_counts_and_none_breaks_into_the_cleanup(
    base_url: str, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    told: list[str] = []

    def interrupted_again(_: object, text: str, *_style: str, **_options: bool) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.raise_signal(number)
        told.append(text)

    monkeypatch.setattr(Screen, "tell", interrupted_again)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert run("wait", "never", ANYAPI_BASE_URL=base_url).exit_code == 143
    assert told == ["Interrupted with 1 left. To go on:", "anyapi-midjourney wait never"]


def test_a_command_whose_terminal_is_closed_exits_with_129(base_url: str) -> None:
    terminal = terminal_of(base_url, "wait", "never")
    terminal.read("IN_PROGRESS")
    os.close(terminal.end)
    terminal.process.send_signal(signal.SIGHUP)
    assert terminal.process.wait(10) == 129


def test_a_signal_that_the_parent_turned_off_is_ignored(base_url: str) -> None:
    pipe, env = subprocess.PIPE, environment(base_url)
    command = ["nohup", *COMMAND, "wait", "never", "--timeout", "2"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=env) as process:
        time.sleep(1)
        process.send_signal(signal.SIGHUP)
        assert process.wait(10) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_ids_are_read_ends_the_command(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    class Interrupted(io.TextIOWrapper):
        buffer: Any = property(lambda _: signal.raise_signal(number))

    monkeypatch.setattr(sys, "stdin", Interrupted(io.BytesIO()))
    monkeypatch.setattr(sys, "argv", ["anyapi-midjourney", "wait", "-"])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(SystemExit) as ended:
        start()
    assert ended.value.code == 128 + number
    for other, handler in handlers.items():
        signal.signal(other, handler)


def test_more_than_a_dozen_tasks_share_one_bar_on_stderr(base_url: str, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as file:
        terminal = terminal_of(base_url, "wait", *(f"never-{n}" for n in range(13)), "--timeout", "0.2", stdout=file)
        assert terminal.close() == 4
    assert "13 tasks" in terminal.shown
    assert "━" in terminal.shown
    assert "13 failed" in terminal.screen
    assert (tmp_path / "out").read_text().count("\n") == 13


def test_there_are_no_bars_while_stdout_is_a_pipe(base_url: str) -> None:
    read, write = os.pipe()
    with open(read, "rb"), open(write, "wb") as pipe:  # noqa: PTH123
        terminal = terminal_of(base_url, "wait", "never", "--timeout", "0.2", stdout=pipe)
        assert terminal.close() == 4
    assert "━" not in terminal.shown


@pytest.mark.parametrize(("more", "unwanted"), [({"TERM": "dumb"}, r"\x1b"), ({"NO_COLOR": "1"}, r"\x1b\[[\d;]*3\d")])
def test_plain_terminals_are_respected(base_url: str, more: dict[str, Any], unwanted: str) -> None:
    terminal = terminal_of(base_url, "wait", "never", ID, "--timeout", "0.5", **more)
    assert terminal.close() == 4
    assert not re.search(unwanted, terminal.shown)


def test_a_closed_pipe_exits_with_141_and_a_full_disk_with_1(base_url: str) -> None:
    read, closed = os.pipe()
    os.close(read)
    with open(closed, "wb") as pipe, open("/dev/full", "wb") as full:  # noqa: PTH123
        for options in ([], ["--json"]):
            for output, code in ((pipe, 141), (full, 1)):
                command = [*COMMAND, "wait", ID, *(f"a/{n}" for n in range(5)), *options]
                env = environment(base_url)
                result = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, env=env, check=False)
                assert result.returncode == code
                assert (b"No space left on device" in result.stderr) == (output is full)
                assert b"Traceback" not in result.stderr
                assert b"Exception ignored" not in result.stderr


def test_a_picture_is_drawn_unless_it_fills_many_screens(base_url: str, run: Run, tmp_path: Path) -> None:
    run("fetch", "success-show")
    terminal = terminal_of(base_url, "wait", "success-show", "--show", COLORTERM="truecolor")
    assert terminal.close() == 0
    assert "▀" in terminal.shown
    Image.new("1", (1, 60_000)).save(tmp_path / f"{ID}.png")
    terminal = terminal_of(base_url, "wait", ID, "--save", ".", "--show", cwd=tmp_path)
    assert terminal.close() == 0
    assert "1 × 60000 pixels are too many" in terminal.shown


@pytest.mark.parametrize("timeout", ["-1", "nan"])
def test_nothing_is_submitted_with_an_unusable_timeout(run: Run, httpx_mock: HTTPXMock, timeout: str) -> None:
    assert run("imagine", "a pig", "--timeout", timeout).exit_code == 2
    assert httpx_mock.get_requests() == []


def test_prompts_after_a_refused_key_are_reported_and_not_submitted(run: Run) -> None:
    result = run("imagine", "a pig", "a cow", "--json", ANYAPI_API_KEY="sk-wrong")
    first, second = map(json.loads, result.stdout.splitlines())
    assert (result.exit_code, first["prompt"], second["prompt"]) == (3, "a pig", "a cow")
    assert "Not submitted" in second["error"]
    result = run("imagine", "a lost pig", "a no-quota pig", "a cow", "--json")  # the higher code is that of the first
    assert result.exit_code == 7
    assert "Not submitted" in json.loads(result.stdout.splitlines()[2])["error"]


def test_imagine_and_press_submit_wait_and_save(run: Run) -> None:
    result = run("imagine", "a pig", "a lost pig", "--save", "pictures")
    assert result.exit_code == 7
    assert "a lost pig: This may have been submitted and billed" in result.stderr
    (grid,) = Path("pictures").iterdir()
    pressed = run("press", grid.stem, "U2", "--no-wait", "--json")
    assert json.loads(pressed.stdout)["prompt"] == f"U2 of {grid.stem}"
    assert run("press", grid.stem, "U9").exit_code == 2
    assert run("wait", json.loads(pressed.stdout)["id"], "--save", "pictures").exit_code == 0
    assert len({picture.read_bytes() for picture in Path("pictures").iterdir()}) == 2
