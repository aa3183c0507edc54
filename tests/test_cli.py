"""The command line: what people see, and what scripts can trust."""

import io
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyte
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pytest_httpx import HTTPXMock

from anyapi_midjourney import polling, sandbox
from anyapi_midjourney.__main__ import main as start
from anyapi_midjourney.cli import main
from shells import CASES, EXAMPLE, KEY

EXAMPLE_ID = sandbox.EXAMPLE_ID
HOSTILE = "a\rb\x0bc\x85d\u2028e\x1b]0;title\x07\x1b[2J[red]x[/red]\r\n\x9b31m\u202emoc.live[link=file:///etc/passwd]y"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def soon(_: int) -> float:
        return 0.05

    monkeypatch.setattr(polling, "_backoff", soon)
    monkeypatch.setattr(polling, "_BETWEEN_REFUSALS", 0.05)


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with sandbox.serve(speed=10**6, api_key=KEY) as url:
        yield url


@pytest.fixture
def run(base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command in an empty folder; `Result` has stdout, stderr and the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANYAPI_BASE_URL", base_url)
    monkeypatch.setenv("ANYAPI_API_KEY", KEY)

    def run(*arguments: str, text: str = "", **environment: str) -> Result:
        result = CliRunner().invoke(main, arguments, input=text, env=environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return run


@pytest.fixture
def answers(httpx_mock: HTTPXMock, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the API answer with a body, whatever is asked for."""
    monkeypatch.setenv("ANYAPI_API_KEY", KEY)

    def answers(body: Any = None, http_status: int = 200, **fields: Any) -> None:
        httpx_mock.add_response(json=body or EXAMPLE | fields, status_code=http_status, is_reusable=True)

    return answers


def test_fetch_shows_a_task_as_a_person_wants_it(run: Any) -> None:
    result = run("fetch", EXAMPLE_ID, TZ="UTC")
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == f"{EXAMPLE_ID}  IMAGINE  SUCCESS"
    assert lines[1:3] == ["  prompt   pig --v 6.1", "  took     2.0 s in the queue, 27.8 s to draw"]
    assert lines[3] == f"  picture  {EXAMPLE['imageUrl']}"
    assert lines[4].startswith("  expired  2024-11-04 0")
    assert lines[5:] == ["  buttons  [U1]  [U2]  [U3]  [U4]  [🔄]", "           [V1]  [V2]  [V3]  [V4]"]


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_shown_or_is_an_error(name: str, run: Any, httpx_mock: HTTPXMock) -> None:
    case = CASES[name]
    body = json.dumps(case["body"]) if "body" in case else case.get("body_text") or ""
    httpx_mock.add_response(text=body, status_code=case["http_status"] or 200, is_reusable=True)
    result = run("wait", "1", "--timeout", "0")
    assert result.stdout or result.stderr
    printed = run("wait", "1", "--timeout", "0", "--json")
    document = json.loads(printed.stdout)
    assert printed.exit_code == result.exit_code
    is_task = (
        isinstance(case.get("body"), dict) and {"id", "status"} & case["body"].keys() and case["http_status"] == 200
    )
    if is_task:
        assert document == case["body"]
    else:
        assert document.keys() == {"id", "error"}
        assert result.exit_code in (2, 3, 4, 5, 6)


def test_json_names_the_error_of_an_id_without_a_task(run: Any) -> None:
    result = run("wait", "nowhere", "html", "not an id", "--timeout", "0", "--json", FORCE_COLOR="1")
    documents = {document["id"]: document for document in map(json.loads, result.stdout.splitlines())}
    assert result.stdout.isascii()
    assert "\x1b" not in result.stdout
    assert documents.keys() == {"nowhere", "html", "not", "an", "id"}
    for document in documents.values():
        assert document.keys() == {"id", "error"}
    assert "task_no_found" in documents["nowhere"]["error"]
    assert "[task nowhere]" in result.stderr


def test_json_stays_json_whatever_the_server_sends(run: Any, answers: Any, httpx_mock: HTTPXMock) -> None:
    answers(prompt=HOSTILE, new={"deep": [1, None, {"x": "\u2028"}]})
    result = run("fetch", "1", "--json")
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout) == EXAMPLE | {"prompt": HOSTILE, "new": {"deep": [1, None, {"x": "\u2028"}]}}
    httpx_mock.reset()
    httpx_mock.add_response(text='{"id": "1", "x": [NaN, 1e999, -Infinity]}')
    assert run("fetch", "1", "--json").stdout == '{"x": [null, null, null], "id": "1"}\n'


@pytest.mark.parametrize("field", ["id", "status", "action", "prompt", "failReason", "imageUrl", "progress"])
@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE", "IN_PROGRESS"])
def test_no_control_sequence_or_markup_of_a_server_is_obeyed(run: Any, answers: Any, field: str, status: str) -> None:
    button = {"label": HOSTILE, "customId": HOSTILE, "emoji": HOSTILE}
    answers(**{"status": status, "imageUrl": "https://cdn.example.com/x", field: HOSTILE, "buttons": [button]})
    for options in ([], ["--json"]):
        for command in (["fetch", "1"], ["wait", "1", "--timeout", "0"]):
            result = run(*command, *options, FORCE_COLOR="1", COLUMNS="200")
            shown = re.sub(r"\x1b\[[0-9;]*m|\x1b]8;id=\d+;https?://[!-~]*\x1b\\|\x1b]8;;\x1b\\", "", result.output)
            for line in shown.split("\n"):
                assert line.isprintable()
            if field == "prompt" and not options:
                assert "[red]x[/red]" in shown


def test_the_picture_is_a_link_and_what_is_no_web_address_is_none(run: Any, answers: Any) -> None:
    answers()
    assert "\x1b]8;id=" in run("fetch", "1", FORCE_COLOR="1").stdout
    answers()
    assert "\x1b]8;" not in run("fetch", "1", NO_COLOR="1").stdout


def test_an_address_that_is_none_of_the_web_is_no_link(run: Any, answers: Any) -> None:
    answers(imageUrl="vscode://x/y")
    result = run("fetch", "1", FORCE_COLOR="1")
    assert "vscode://x/y" in result.stdout
    assert "\x1b]8;" not in result.stdout


def test_a_forgotten_address_is_shown_as_it_can_be_reached(run: Any, answers: Any) -> None:
    answers(imageUrl="http://localhost:3000/mj/image/1")
    result = run("fetch", "1", ANYAPI_BASE_URL="https://gateway.example")
    assert "  picture  https://gateway.example/mj/image/1\n" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["fetch", EXAMPLE_ID], 0),
        (["fetch", "success-1"], 0),  # it runs, which is no fault
        (["wait", EXAMPLE_ID], 0),
        (["wait", "never", "--timeout", "0"], 4),
        (["fetch", "nowhere"], 5),
        (["fetch", "html"], 6),
        (["fetch", "a b"], 2),
        (["wait", "a/b"], 2),
        (["wait", EXAMPLE_ID, "--timeout", "nan"], 2),
        (["wait", EXAMPLE_ID, "--timeout", "-1"], 2),
        (["wait", EXAMPLE_ID, "--timeout", "soon"], 2),
        (["wait"], 2),
        (["wait", "-"], 2),
        (["wait", EXAMPLE_ID, "--save", "/dev/null/x"], 2),
        (["wait", "nowhere", "a/b", "b/c"], 5),
        (["wait", *(f"never-{n}" for n in range(13)), EXAMPLE_ID, "a/b", "--timeout", "0"], 4),
        (["wait", *(f"no-{n}" for n in range(13)), "--timeout", "nan"], 2),
        (["fly"], 2),
        (["--help"], 0),
        (["--version"], 0),
    ],
    ids=str,
)
def test_exit_codes_are_as_documented(run: Any, arguments: list[str], code: int) -> None:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output


def test_exit_codes_of_tasks_that_fail_and_of_keys_that_are_refused(
    run: Any, answers: Any, httpx_mock: HTTPXMock
) -> None:
    answers(status="FAILURE", failReason="no")
    assert run("fetch", "1").exit_code == run("wait", "1").exit_code == 1
    httpx_mock.reset()
    answers(status="CANCEL")
    assert run("wait", "1", "--json").exit_code == 1
    for status in (401, 403):
        httpx_mock.reset()
        answers({"error": {"message": f"no {KEY}"}}, status)
        result = run("fetch", "1")
        assert result.exit_code == 3
        assert result.stderr.startswith('"no [key]"')
    httpx_mock.reset()
    httpx_mock.add_exception(httpx.ConnectError("refused"), is_reusable=True)
    assert run("fetch", "1", ANYAPI_API_KEY="sk-1").exit_code == 6


def test_without_a_key_it_says_how_to_give_one(run: Any) -> None:
    result = run("wait", EXAMPLE_ID, ANYAPI_API_KEY="")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "No API key: pass api_key=…, or set the variable ANYAPI_API_KEY.\n"


def test_ids_may_come_from_standard_input_and_count_once(run: Any) -> None:
    result = run("wait", "-", EXAMPLE_ID, "--json", text=f"{EXAMPLE_ID}\n\n  {EXAMPLE_ID}\r\n猪\n")
    assert result.stdout.count("\n") == 2


def test_pictures_are_saved_once_and_nothing_is_written_over(run: Any, tmp_path: Path) -> None:
    while "SUCCESS" not in run("fetch", "success-save").stdout:
        pass
    result = run("wait", "success-save", "--save", "new/folder")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "  saved    new/folder/success-save.png\n" in result.stdout
    file = tmp_path / "new/folder/success-save.png"
    assert file.read_bytes().startswith(b"\x89PNG")
    file.write_bytes(b"mine")
    again = run("wait", "success-save", "--save", "new/folder", "--json")
    assert (again.exit_code, again.stderr) == (0, "kept new/folder/success-save.png\n")
    assert json.loads(again.stdout)["status"] == "SUCCESS"
    assert file.read_bytes() == b"mine"


def test_what_is_saved_is_not_asked_for_again_and_what_has_no_picture_needs_none(
    run: Any, answers: Any, tmp_path: Path
) -> None:
    (tmp_path / "1730621826053455.webp").write_bytes(b"mine")
    answers(imageUrl="http://10.0.0.1/x")
    assert "  kept     1730621826053455.webp\n" in run("wait", EXAMPLE_ID, "--save", ".").stdout
    assert run("wait", "another", "--save", ".").exit_code == 1  # whatever id the server says it has
    answers(id="2", imageUrl="", action="DESCRIBE")
    assert run("wait", "2", "--save", ".").exit_code == 0


def test_a_picture_that_cannot_be_saved_is_a_failure_and_the_task_is_shown(run: Any, answers: Any) -> None:
    answers(imageUrl="http://10.0.0.1/x")
    result = run("wait", "1", "--save", ".")
    assert result.exit_code == 1
    assert "SUCCESS" in result.stdout
    assert "is a local one" in result.stderr


def test_many_tasks_have_a_line_each(run: Any) -> None:
    ids = [EXAMPLE_ID, *(f"a/{n}" for n in range(20))]
    result = run("wait", "-", text=" ".join(ids))
    assert result.exit_code == 2
    assert result.stdout == f"{EXAMPLE_ID}  IMAGINE  SUCCESS  {EXAMPLE['imageUrl']}\n"
    assert result.stderr.count("A task id is") == 20


def test_the_sandbox_serves_the_other_commands_without_a_key(run: Any) -> None:
    result = run("fetch", EXAMPLE_ID, "--sandbox", "--json", ANYAPI_API_KEY="", ANYAPI_BASE_URL="https://wrong.example")
    assert json.loads(result.stdout) == EXAMPLE


@pytest.mark.parametrize("module", ["click", "rich", "starlette", "textual_image"])
def test_an_extra_that_is_missing_is_named_in_one_sentence(module: str) -> None:
    extra = {"starlette": "sandbox", "textual_image": "show"}.get(module, "cli")
    program = f"import sys; sys.modules['{module}'] = None; from anyapi_midjourney.__main__ import main; main()"
    command = [sys.executable, "-c", program, "fetch", "1", "--show", "--sandbox"]
    if module == "starlette":
        command.remove("--show")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.fullmatch(rf"(Error: )?[^\n]+: pip install 'anyapi-midjourney\[{extra}\]'\n", result.stderr)


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "cp1252"])
def test_any_encoding_will_do(base_url: str, encoding: str) -> None:
    more = environment(base_url, PYTHONIOENCODING=encoding)
    result = subprocess.run([*COMMAND, "fetch", EXAMPLE_ID], capture_output=True, env=more, check=True)
    assert b"[U4]  [?]" in result.stdout


def test_a_fault_that_lasts_is_shown_once_and_no_connection_has_a_code(run: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        result = run("wait", "1", "2", "--timeout", "0.5", ANYAPI_BASE_URL=url)
    assert result.exit_code == 6
    assert result.stderr.count("A look failed: No answer from 127.0.0.1") == 1
    assert result.stderr.count("check the network and the base URL") == 3


def test_a_warning_is_a_line_and_a_full_disk_a_failure(run: Any, base_url: str, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(json=EXAMPLE)
    result = run("fetch", "1", ANYAPI_BASE_URL="http://gateway.example")
    assert result.stderr == "The API key goes to gateway.example unencrypted: use https.\n"
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123
        command = [*COMMAND, "wait", EXAMPLE_ID, "--json"]
        failed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment(base_url), check=False)
    assert failed.returncode == 1
    assert b"No space left on device" in failed.stderr
    assert b"Traceback" not in failed.stderr


def test_a_time_at_the_end_of_all_times_is_shown(run: Any, answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    answers(imageUrl="https://cdn.example.com/x?ex=3afff4417f&is=1&hm=2")
    assert "  expires  9999-12-31" in run("fetch", "1").stdout
    monkeypatch.undo()
    time.tzset()


UNWANTED = ("NO_COLOR", "FORCE_COLOR", "PYTHONUNBUFFERED")


def environment(base_url: str, **more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    return inherited | {"ANYAPI_BASE_URL": base_url, "ANYAPI_API_KEY": KEY, "TERM": "xterm-256color"} | more


COMMAND = [sys.executable, "-m", "anyapi_midjourney"]


class Terminal:
    """The command in a terminal of its own: what it shows, with what it is sent."""

    def __init__(
        self, base_url: str, *arguments: str, stdout: Any = None, cwd: Path | None = None, **more: str
    ) -> None:
        self._end, other = pty.openpty()
        termios.tcsetwinsize(other, (40, 80))
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=other,
            stdout=stdout or other,
            stderr=other,
            env=environment(base_url, **more),
            cwd=cwd,
            start_new_session=True,
        )
        os.close(other)
        self._bytes = b""

    @property
    def shown(self) -> str:
        return self._bytes.decode(errors="replace")

    @property
    def screen(self) -> str:
        """What stands on its screen now, each line ended."""
        screen = pyte.Screen(80, 40)
        pyte.ByteStream(screen).feed(self._bytes)
        return "\n".join(line.rstrip() for line in screen.display)

    def read(self, until: str = "\0", seconds: float = 20) -> str:
        """What was shown so far, once that is shown or it has ended."""
        end = time.monotonic() + seconds
        while until not in self.shown and time.monotonic() < end:
            if select.select([self._end], [], [], 0.1)[0]:
                try:
                    self._bytes += os.read(self._end, 65536)
                except OSError:  # the other end is closed
                    break
            elif self.process.poll() is not None:
                break
        return self.shown

    def interrupt(self) -> None:
        """Presses ^C twice, as people do: the terminal echoes it."""
        for _ in range(2):
            os.write(self._end, b"\x03")
            self.process.send_signal(signal.SIGINT)

    def close(self) -> int:
        """The exit code."""
        self.read()
        os.close(self._end)
        return self.process.wait(10)


def test_bars_leave_what_is_shown_of_others_as_it_is(base_url: str) -> None:
    terminal = Terminal(base_url, "wait", "never", "modal", EXAMPLE_ID, "a/b", "--timeout", "1")
    assert "━" in terminal.read("━")
    assert terminal.close() == 4
    screen = terminal.screen
    for text in (f"{EXAMPLE_ID}  IMAGINE  SUCCESS", "[V4]", "never  IMAGINE  IN_PROGRESS", "modal  INPAINT  MODAL"):
        assert screen.count(text) == 1
    assert "A task id is" in screen
    assert screen.count("Not done after 1 s") == 2
    assert "━" not in screen


def test_a_terminal_has_bars_and_an_interruption_says_how_to_go_on(base_url: str, tmp_path: Path) -> None:
    (tmp_path / "it's").mkdir()
    (tmp_path / "it's" / f"{EXAMPLE_ID}.mp4").write_bytes(b"saved before")
    words = ["never", EXAMPLE_ID, "modal", "--save", "it's", "--show", "--timeout", "60"]
    terminal = Terminal(base_url, "wait", *words, cwd=tmp_path)
    terminal.read("cannot be drawn")
    terminal.read("IN_PROGRESS")
    assert "━" in terminal.shown
    terminal.interrupt()
    assert terminal.close() == 130
    shown = re.sub(r"\s+", " ", terminal.shown)
    assert "Interrupted with 2 left" in shown
    assert """anyapi-midjourney wait --timeout 60 --save 'it'"'"'s' --show never modal""" in shown
    assert "━" not in terminal.screen
    assert terminal.shown.count("\x1b[?25l") == terminal.shown.count("\x1b[?25h")  # the cursor is back


def test_an_interruption_while_ids_are_read_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.TextIOWrapper):
        buffer: Any = property(lambda _: signal.raise_signal(signal.SIGINT))

    monkeypatch.setattr(sys, "stdin", Interrupted(io.BytesIO()))
    monkeypatch.setattr(sys, "argv", ["anyapi-midjourney", "wait", "-"])
    with pytest.raises(SystemExit) as ended:
        start()
    assert ended.value.code == 130


def test_bars_are_on_stderr_only_and_past_a_dozen_there_is_one(base_url: str) -> None:
    ids = [f"never-{n}" for n in range(13)]
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
        terminal = Terminal(base_url, "wait", *ids, "--timeout", "0.2", stdout=nowhere)
        assert terminal.close() == 4
    assert "13 tasks" in terminal.shown
    assert "━" in terminal.shown
    assert "13 failed" in terminal.screen


def test_there_are_no_bars_while_stdout_is_a_pipe_whose_reader_may_write_too(base_url: str) -> None:
    read, write = os.pipe()
    with open(read, "rb"), open(write, "wb") as pipe:  # noqa: PTH123
        terminal = Terminal(base_url, "wait", "never", "--timeout", "0.2", stdout=pipe)
        assert terminal.close() == 4
    assert "━" not in terminal.shown


@pytest.mark.parametrize("more", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_plain_terminals_are_respected(base_url: str, more: dict[str, Any]) -> None:
    terminal = Terminal(base_url, "wait", "never", EXAMPLE_ID, "--timeout", "0.5", **more)
    assert terminal.close() == 4
    if "TERM" in more:
        assert "\x1b" not in terminal.shown
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", terminal.shown)


def test_nothing_but_plain_text_goes_into_a_pipe_and_its_end_is_no_fault(base_url: str) -> None:
    command = [*COMMAND, "wait", "never", EXAMPLE_ID, "--json", "--timeout", "0.5"]
    result = subprocess.run(command, capture_output=True, env=environment(base_url, FORCE_COLOR="1"), check=False)
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == [EXAMPLE_ID, "never"]
    assert b"\x1b" not in result.stdout
    assert "━" not in result.stderr.decode()
    ids = [EXAMPLE_ID, *(f"a/{n}" for n in range(5))]
    for options in ([], ["--json"]):
        read, write = os.pipe()
        os.close(read)
        command, more = [*COMMAND, "wait", *ids, *options], environment(base_url)
        piped = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=more, check=False)
        os.close(write)
        assert piped.returncode == 141
        assert b"Traceback" not in piped.stderr
        assert b"Exception ignored" not in piped.stderr


def test_a_picture_is_drawn_in_a_terminal(base_url: str) -> None:
    subprocess.run([*COMMAND, "fetch", "success-show"], env=environment(base_url), check=True, capture_output=True)
    terminal = Terminal(base_url, "fetch", "success-show", "--show", COLORTERM="truecolor")
    assert terminal.close() == 0
    assert "▀" in terminal.shown


def test_a_picture_that_would_fill_many_screens_is_not_drawn(base_url: str, tmp_path: Path) -> None:
    Image.new("1", (1, 60_000)).save(tmp_path / f"{EXAMPLE_ID}.png")
    terminal = Terminal(base_url, "wait", EXAMPLE_ID, "--save", ".", "--show", cwd=tmp_path)
    assert terminal.close() == 0
    assert "too large to be drawn: 1 × 60000 pixels" in terminal.shown
