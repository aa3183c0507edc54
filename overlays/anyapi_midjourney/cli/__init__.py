"""The command line, for people at a terminal and for scripts."""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
import signal
import sys
import warnings
from collections import Counter
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from stat import S_ISFIFO
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

try:
    import click
    from rich.console import Console
    from rich.constrain import Constrain
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    from ._terminal import description, line, picture
except ImportError as error:
    raise ImportError("The command needs more packages: pip install 'anyapi-midjourney[cli]'") from error

import anyio

from .._client import AsyncMidjourney
from .._download import saved_picture
from .._task import Task
from .._text import printable
from .._waiting import DEFAULT_TIMEOUT
from ..errors import (
    AuthenticationError,
    ConfigurationError,
    MidjourneyError,
    PermissionDeniedError,
    TaskError,
    TaskNotFoundError,
    WaitTimeoutError,
    error_from_task,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable

    from .._waiting import Outcome

    _Work = Callable[[AsyncMidjourney], Awaitable[None]]

DONE, FAILED, USAGE, REFUSED, TIMED_OUT, NOT_FOUND, NO_CONNECTION = range(7)
INTERRUPTED = 130
BROKEN_PIPE = 141
"""What a shell says of a program that wrote into a pipe whose reader was gone, such as `head`."""

_CODES: dict[type[MidjourneyError], int] = {
    TaskError: FAILED,
    ConfigurationError: USAGE,
    AuthenticationError: REFUSED,
    PermissionDeniedError: REFUSED,
    WaitTimeoutError: TIMED_OUT,
    TaskNotFoundError: NOT_FOUND,
}

_EPILOG = """\b
Exit codes, of several the highest:
  0  done                     4  timed out
  1  a task failed, or was    5  no such task
     not saved                6  no connection, or no usable answer
  2  usage, key or id       130  interrupted
  3  key refused, or its    141  nobody reads the output
     account is empty

The key is taken from ANYAPI_API_KEY, the address from ANYAPI_BASE_URL."""
_MOST_BARS = 12
_MOST_IDS_SHOWN = 100
_SAVES_AT_ONCE = 4
SANDBOX_SPEED = 6.0
_DRAWN_WIDTH = 48  # columns; a square picture has half as many rows, and a long one no more than these
_MOST_PIXELS = 2**26  # the largest of Midjourney's have a quarter of them
_PATIENCE = 3  # times that a fault comes before it is shown


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leaves it to us: rich would exit in the middle of things."""
        raise  # noqa: PLE0704  (it is called from an except block)


class _Report(logging.Handler):
    """What is shown of the tasks: on stdout what they are, on stderr all else, also what the client logs."""

    def __init__(
        self, ids: Iterable[str], save: Path | None = None, *, as_json: bool, show: bool, again: Iterable[str] = ()
    ) -> None:
        super().__init__()
        self.code = DONE
        self._left = dict.fromkeys(ids)
        self._as_json, self._save, self._again = as_json, save, again
        self._brief = len(self._left) > _MOST_BARS
        self._out = _Console(highlight=False, markup=False, emoji=False)
        self._err = _Console(highlight=False, markup=False, emoji=False, stderr=True)
        # FORCE_COLOR makes no terminal, and without colours half blocks show nothing.
        self._show = (
            show and not as_json and self._out.is_interactive and sys.stdout.isatty() and not self._out.no_color
        )
        self._saves = anyio.Semaphore(_SAVES_AT_ONCE)
        self._counts = Counter[str]()
        self._faults = Counter[str]()
        self._rows: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeElapsedColumn(),
        )
        self._live: Live | None = None

    @contextmanager
    def bars(self) -> Generator[None]:
        """Shows how far they are while the block lasts: a bar for each, or past a dozen one for all."""
        if self._brief:
            self._rows[""] = self._bars.add_task(f"{len(self._left)} tasks", total=len(self._left), status="")
        else:
            self._rows = {i: self._bars.add_task(printable(i), total=100, status="") for i in self._left}
        # What reads from a pipe, such as jq, may write to the same terminal.
        if self._err.is_interactive and sys.stderr.isatty() and not S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode):
            self._start()
        try:
            yield
        finally:
            if self._live:
                self._live.stop()
        if self._brief:
            self.complain(self._summary())

    def moved(self, task: Task, task_id: str) -> None:
        """Moves the bar of a task."""
        status = printable((task.status or "accepted")[:200])
        self._bars.update(self._rows[task_id], completed=task.progress or 0, status=status)

    async def ended(self, mj: AsyncMidjourney, task_id: str, outcome: Outcome) -> None:
        """Saves and shows what came of an id."""
        task = outcome if isinstance(outcome, Task) else getattr(outcome, "task", None)
        problems: list[Exception] = [outcome] if isinstance(outcome, MidjourneyError) else []
        with ExitStack() as stack:
            path, how = None, ""
            if task and (self._save or self._show) and task.succeeded and picture(task, mj.base_url)[0]:
                folder = self._save or Path(stack.enter_context(TemporaryDirectory()))
                try:
                    path, how = await self._saved(mj, task, task_id, folder)
                except (MidjourneyError, OSError) as error:
                    problems.append(error)
            code = max(_exit_code(outcome), FAILED if problems and self._save else DONE)
            self.code = max(self.code, code)
            self._counts["failed" if code else "succeeded"] += 1
            self._left.pop(task_id, None)
            with self._without_bars():
                file = (how, str(path)) if path and self._save else None
                if self._as_json:
                    click.echo(_json_line(task.raw.to_dict() if task else {"id": task_id, "error": str(outcome)}))
                elif task:
                    text = line(task, mj.base_url, file) if self._brief else description(task, mj.base_url, file)
                    self._out.print(text, soft_wrap=True)
                if file and self._as_json:
                    self.complain(" ".join(file))
                for problem in problems:
                    self.complain(str(problem), "red")
                if path and self._show:
                    self._draw(path)
                if not self._brief and self._rows:
                    self._bars.remove_task(self._rows[task_id])
        if self._brief:
            self._bars.update(self._rows[""], advance=1, status=self._summary())

    async def _saved(self, mj: AsyncMidjourney, task: Task, task_id: str, folder: Path) -> tuple[Path, str]:
        # What is there is from before an interruption; its link may have expired.
        if task.id == task_id and (there := saved_picture(task, folder)):
            return there, "kept"
        async with self._saves:
            return await mj.download(task, folder), "saved"

    def interrupted(self) -> None:
        """Says how to go on."""
        how = ": give the same ids again to go on."
        if len(self._left) <= _MOST_IDS_SHOWN:
            dashes = ["--"] if any(i.startswith("-") for i in self._left) else []
            how = f", to go on: {shlex.join(['anyapi-midjourney', 'wait', *self._again, *dashes, *self._left])}"
        self.complain(f"Interrupted with {len(self._left)} left{how if self._left else ''}")

    def failed(self, error: BaseException, code: int) -> None:
        """Shows an error that is about no task."""
        self.code = code
        self.complain(str(error), "red")

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a fault that lasts, once."""
        kind = str(tuple(map(type, record.args or ())))  # not the text, in which an id is new each time
        self._faults[kind] += 1
        if self._faults[kind] == _PATIENCE or record.levelno > logging.INFO:
            with self._without_bars():
                self.complain(record.getMessage(), "yellow")

    def complain(self, text: str, style: str = "") -> None:
        """Shows, on stderr, what is to be known."""
        self._err.print(Text(printable(text), style), soft_wrap=True)

    def _summary(self) -> str:
        return ", ".join(f"{count} {word}" for word, count in self._counts.items())

    def _start(self) -> None:
        self._live = Live(get_renderable=self._shown, console=self._err, transient=True, redirect_stdout=False)
        self._live.start()

    def _shown(self) -> Constrain:
        # With room for some ^C that a terminal echoes, lest they begin a line.
        return Constrain(self._bars.get_renderable(), max(self._err.width - 9, 1))

    @contextmanager
    def _without_bars(self) -> Generator[None]:
        if self._live is None:
            yield
            return
        self._live.stop()
        yield
        self._start()  # a new one: the old one would go back over what was printed meanwhile

    def _draw(self, path: Path) -> None:
        try:
            # It asks the terminal what it can draw when it is imported.
            logging.getLogger("textual_image").setLevel(logging.ERROR)
            from PIL import Image  # noqa: PLC0415  (the picture is a server's: no other formats than these)
            from textual_image.renderable import Image as Drawing  # noqa: PLC0415

            with Image.open(path, formats=["PNG", "WEBP", "JPEG", "GIF"]) as picture:
                width, height = picture.size
                columns = min(_DRAWN_WIDTH, self._out.width, 2 * _DRAWN_WIDTH * width // height)
                if columns and width * height <= _MOST_PIXELS:
                    self._out.print(Drawing(picture, width=columns, height="auto"))
                else:
                    self.complain(f"The picture is too large to be drawn: {width} × {height} pixels")
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001  (it is a video, or no terminal answers)
            self.complain(f"The picture cannot be drawn here: {error}")


def run() -> None:
    """Runs the command, and exits."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # it is closed
            setattr(sys, name, open(os.devnull, "r+" if number else "r", encoding="utf-8"))  # noqa: PTH123, SIM115
    try:
        main(prog_name="anyapi-midjourney", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="anyapi-midjourney")
def main() -> None:
    """Follow Midjourney tasks at AnyAPI by their ids."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal's encoding has 🔄


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that fetch and wait share."""
    for option in (
        click.option("--sandbox", "sandboxed", is_flag=True, help="Use an embedded AnyAPI; needs no key."),
        click.option("--show", is_flag=True, help="Draw the picture, if stdout is a terminal."),
        click.option("--json", "as_json", is_flag=True, help="Print a task as the server sent it, as a line of JSON."),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("task_id", metavar="ID")
@_options
def fetch(task_id: str, *, as_json: bool, show: bool, sandboxed: bool) -> None:
    """Show how a task stands now."""
    report = _Report([task_id], as_json=as_json, show=show)

    async def work(mj: AsyncMidjourney) -> None:
        outcome: Outcome
        try:
            outcome = await mj.fetch(task_id)
        except MidjourneyError as error:
            outcome = error
        await report.ended(mj, task_id, outcome)

    _run(work, report, sandboxed=sandboxed, show=show)


@main.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=DEFAULT_TIMEOUT,
    show_default=True,
    help="Seconds for all of them; 0 is one look, inf no end.",
)
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    help="Save the pictures in this folder, which is made if it is not there. No file is written over.",
)
@_options
def wait(
    ids: tuple[str, ...], *, timeout: float, save: Path | None, as_json: bool, show: bool, sandboxed: bool
) -> None:
    """Wait until tasks are done, and show them as they end.

    `-` stands for the ids on standard input, with blanks or new lines between them.
    """
    unique = list(dict.fromkeys(" ".join(_ids_of_stdin() if i == "-" else i for i in ids).split()))
    if not unique:
        raise click.UsageError("There is no id.")
    if save:
        try:
            save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"--save: {error}") from None
    again = ["--timeout", f"{timeout:g}"] if timeout != DEFAULT_TIMEOUT else []
    again += ["--save", str(save)] if save else []
    again += [f"--{name}" for name, on in (("json", as_json), ("show", show), ("sandbox", sandboxed)) if on]
    report = _Report(unique, save, as_json=as_json, show=show, again=again)

    async def work(mj: AsyncMidjourney) -> None:
        outcomes = mj.as_completed(unique, timeout=timeout)  # here, where a time-out that is none raises by itself
        with report.bars():
            async with anyio.create_task_group() as group:
                if len(unique) <= _MOST_BARS:
                    for task_id in unique:
                        group.start_soon(_follow, mj, task_id, timeout, report)
                else:
                    async for task_id, outcome in outcomes:
                        group.start_soon(report.ended, mj, task_id, outcome)

    _run(work, report, sandboxed=sandboxed, show=show)


def _ids_of_stdin() -> str:
    return sys.stdin.buffer.read().decode("utf-8-sig", "replace")


async def _follow(mj: AsyncMidjourney, task_id: str, timeout: float, report: _Report) -> None:  # noqa: ASYNC109
    outcome: Outcome | None = None
    try:
        async for task in mj.watch(task_id, timeout=timeout):
            report.moved(task, task_id)
            outcome = task
    except MidjourneyError as error:
        outcome = error
    if isinstance(outcome, Task) and not outcome.succeeded:
        outcome = error_from_task(outcome)
    if outcome:
        await report.ended(mj, task_id, outcome)


@main.command("sandbox", context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def _sandbox(arguments: tuple[str, ...]) -> None:
    """Start the embedded AnyAPI, until interrupted."""
    from .. import sandbox  # noqa: PLC0415  (it may not be there)

    sandbox.main(arguments, "anyapi-midjourney sandbox")


def _run(work: _Work, report: _Report, *, sandboxed: bool, show: bool) -> None:
    """Does the work with a client, and exits."""
    if show and not find_spec("textual_image"):
        raise ImportError("--show needs more packages: pip install 'anyapi-midjourney[show]'")

    with ExitStack() as stack:
        options: dict[str, Any] = {}
        if sandboxed:
            from .. import sandbox  # noqa: PLC0415  (as above)

            base_url = stack.enter_context(sandbox.serve(speed=SANDBOX_SPEED))
            options = {"api_key": sandbox.API_KEY, "base_url": base_url}
        logger = logging.getLogger("anyapi_midjourney")
        logger.setLevel(logging.INFO)
        logger.addHandler(report)
        stack.callback(logger.removeHandler, report)
        try:
            # Windows has no such signals.
            anyio.run(_with_client if os.name == "nt" else _until_interrupted, work, report, options)
        except* KeyboardInterrupt:
            report.code = INTERRUPTED
        except* BrokenPipeError:
            _discard_output()
            report.code = BROKEN_PIPE
        except* OSError as group:  # a full disk
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            _discard_output()
            report.failed(error, FAILED)
        if report.code == INTERRUPTED:
            report.interrupted()
    sys.exit(report.code)


async def _until_interrupted(work: _Work, report: _Report, options: dict[str, Any]) -> None:
    # For all signals, lest a second one break into what the first one ends, as it does in asyncio's own way.
    with anyio.open_signal_receiver(signal.SIGINT) as interruptions:
        async with anyio.create_task_group() as group:

            async def stop() -> None:
                async for _ in interruptions:
                    report.code = INTERRUPTED
                    group.cancel_scope.cancel()

            group.start_soon(stop)
            await _with_client(work, report, options)
            group.cancel_scope.cancel()


async def _with_client(work: _Work, report: _Report, options: dict[str, Any]) -> None:
    try:
        with warnings.catch_warnings(record=True, action="always") as warned:  # of a key sent unencrypted
            mj = AsyncMidjourney(**options)
        for warning in warned:
            report.complain(str(warning.message), "yellow")
        async with mj:
            await work(mj)
    except ConfigurationError as error:
        report.failed(error, USAGE)


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter fails at its end, flushing it


def _exit_code(outcome: Outcome) -> int:
    if isinstance(outcome, Task):
        return FAILED if outcome.failed else DONE
    if isinstance(outcome, WaitTimeoutError) and outcome.last_error and not outcome.task:
        return max(TIMED_OUT, _exit_code(outcome.last_error))
    return next((code for kind, code in _CODES.items() if isinstance(outcome, kind)), NO_CONNECTION)


def _json_line(value: object) -> str:
    # In ASCII, so that no terminal obeys it. NaN and numbers past a float, which JSON has not, become null.
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None))
