"""The command line, for people at a terminal and for scripts."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shlex
import signal
import sys
import warnings
from contextlib import ExitStack
from importlib.util import find_spec
from itertools import chain
from operator import methodcaller
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import click
from rich.text import Text

from .. import __version__, errors
from .._client import AsyncMidjourney
from .._download import saved_picture
from .._task import Task
from .._text import printable
from .._waiting import DEFAULT_TIMEOUT
from ._progress import Screen
from ._terminal import description, draw

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from .._waiting import Outcome

    _Work = Callable[[AsyncMidjourney], Awaitable[None]]
    _Jobs = Iterable[tuple[str, Callable[[AsyncMidjourney], Awaitable[Task]]]]

DONE, FAILED, USAGE, REFUSED, TIMED_OUT, NOT_FOUND, NO_CONNECTION, UNCONFIRMED = range(8)
BROKEN_PIPE, SIGNALLED = 141, 128  # as shells report a program that SIGPIPE, or the signal of a number, ended
_CODES: dict[type[errors.MidjourneyError], int] = {
    errors.TaskError: FAILED,
    errors.ConfigurationError: USAGE,
    errors.ButtonNotFoundError: USAGE,
    errors.AuthenticationError: REFUSED,
    errors.PermissionDeniedError: REFUSED,
    errors.WaitTimeoutError: TIMED_OUT,
    errors.TaskNotFoundError: NOT_FOUND,
    errors.InsufficientQuotaError: REFUSED,
    errors.SubmissionRefusedError: FAILED,
    errors.SubmissionUnconfirmedError: UNCONFIRMED,
}
SANDBOX_SPEED = 6.0
_EPILOG = """Exit codes; of several, the highest: 0 done; 1 a task failed or was refused, or its picture was not saved;
2 usage, key or id; 3 key refused, or its account is empty; 4 timed out; 5 no such task; 6 no connection, or no usable
response; 7 a job may have been submitted and billed; 129, 130 and 143 interrupted by SIGHUP, ^C and SIGTERM; 141 nobody
reads the output.

Set ANYAPI_API_KEY to your key, and ANYAPI_BASE_URL to use another gateway."""
_FLAGS = {
    "json": "Print each task as the server sent it, on one line of JSON.",
    "quiet": "Show errors only; --json and --no-wait still print.",
    "show": "Draw the picture, if stdout is a terminal.",
    "sandbox": "Use the embedded AnyAPI, which needs no key.",
}


class _Report:
    """Prints tasks, saves and draws their pictures, and collects the exit code."""

    def __init__(
        self, flags: dict[str, bool], save: Path | None = None, timeout: float = 0, ids: Iterable[str] = ()
    ) -> None:
        if not timeout >= 0:  # nor nan: jobs are submitted before the wait could refuse it
            raise click.UsageError("--timeout is a number of seconds from 0.")
        self.code = self.signal = 0
        self._stop: Callable[[], object] = _nothing
        self.left: dict[str, str] = dict.fromkeys(ids, "")
        """The tasks that are not done, and the prompts that were submitted for them."""
        self.submitting: str | None = None
        self.screen = Screen(quiet=flags["quiet"])
        self.screen.follow(self.left)
        self._shows = not flags["json"] and not flags["quiet"]
        self.draws = self._shows and flags["show"] and self.screen.can_draw
        self.folder = self._save = save
        self._saves = anyio.Semaphore(4)  # at once
        self.flags = flags
        self.timeout = timeout
        self._options = {"timeout": timeout if timeout != DEFAULT_TIMEOUT else None, "save": save, **flags}
        if save:
            try:
                save.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise click.UsageError(f"--save: {error}") from None

    async def submit(self, mj: AsyncMidjourney, jobs: _Jobs, *, no_wait: bool) -> None:
        """Submits jobs one after the other; none after the key was refused."""
        problem, is_refused = "", False
        for name, job in jobs:
            if is_refused:
                problem = "Not submitted, since the key was refused."
            else:
                self.submitting = name
                try:
                    task_id = (await job(mj)).id
                except errors.MidjourneyError as error:
                    problem, code = str(error), _exit_code(error)
                    self.code, is_refused = max(self.code, code), code == REFUSED
                else:
                    self.left[task_id] = name
                    if no_wait:
                        click.echo(json.dumps({"id": task_id, "prompt": name}) if self.flags["json"] else task_id)
                    continue
            if self.flags["json"]:
                click.echo(json.dumps({"prompt": name, "error": problem}))
            self.screen.tell_error(name, problem)
        self.submitting = None

    async def follow(self, mj: AsyncMidjourney) -> None:
        """Waits for tasks, and reports each when it is done."""
        self.screen.follow(self.left)
        outcomes = mj.as_completed(list(self.left), timeout=self.timeout, on_change=self.screen.on_change)
        async with anyio.create_task_group() as group:
            async for task_id, outcome in outcomes:
                group.start_soon(self.on_outcome, mj, task_id, outcome)

    def keep_saved(self) -> None:
        """Reports the tasks whose pictures are in the folder already, without a request."""
        if folder := self._save:
            for task_id in list(self.left):
                if path := saved_picture(task_id, folder):
                    text = Text(printable(f"{task_id}  kept {path}"))
                    self._on_end(task_id, "kept", {"id": task_id, "saved": str(path)}, text, path)

    async def on_outcome(self, mj: AsyncMidjourney, task_id: str, outcome: Outcome) -> None:
        """Saves and shows a task, or shows the error of its id."""
        task = outcome if isinstance(outcome, Task) else getattr(outcome, "task", None)
        error: Exception | None = outcome if isinstance(outcome, errors.MidjourneyError) else None
        path, code = None, _exit_code(outcome)
        is_words = bool(task and task.action and task.action.makes_words and not task.picture_url)
        if self.folder and task and task.succeeded and not is_words and (self._save or task.picture_url):
            try:
                async with self._saves:
                    path = await mj.download(task, self.folder)
            except (errors.MidjourneyError, OSError) as failure:
                error, code = failure, FAILED if self._save else DONE
        self.code = max(self.code, code)
        saved = str(path) if path and self._save else None
        screen, text = self.screen, None
        fields: dict[str, Any] = task.raw.to_dict() if task else {"id": task_id}
        if task and self._save:
            fields["saved"] = saved
        if task and self._shows:
            text = description(task, saved, screen.width, brief=screen.has_one_bar)
        if error and (not task or task.succeeded):
            fields["error"] = str(error)
        self._on_end(task_id, "failed" if code else "succeeded", fields, text, path)
        if error and not (text and task and task.failed):  # which shows that it failed, and why
            screen.tell_error(task_id, error)
        if self._save and task and task.succeeded and is_words:
            screen.note(f"{task_id}: no picture to save, since {task.action} makes words.")

    def _on_end(self, task_id: str, how: str, fields: dict[str, Any], text: Text | None, path: Path | None) -> None:
        self.left.pop(task_id)
        self.screen.on_end(task_id, how)
        with self.screen.without_bars():
            if self.flags["json"]:
                # In ASCII, so that no terminal interprets it; null for NaN and Infinity, which JSON lacks.
                click.echo(json.dumps(json.loads(json.dumps(fields), parse_constant=lambda _: None)))
            elif self._shows and text:
                self.screen.out.print(text, soft_wrap=True)
            if path and self.draws:
                self.screen.note(draw(path, self.screen.out))

    def on_error(self, group: BaseExceptionGroup[BaseException]) -> None:
        """Ends with an error that is about no task."""
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, BrokenPipeError):
            self.code = BROKEN_PIPE
            return
        self.code = USAGE if isinstance(error, errors.ConfigurationError) else FAILED
        self.screen.tell(str(error), "red")

    def on_signal(self, number: int, _: object) -> None:
        """Stops the work. Further signals do not break into the cleanup."""
        self.signal = self.signal or number
        self._stop()

    async def until_interrupted(self, work: _Work, mj: AsyncMidjourney) -> None:
        """Works until it is done, or until a signal comes."""
        loop = asyncio.get_running_loop()
        with anyio.CancelScope() as scope:
            self._stop = lambda: loop.call_soon_threadsafe(scope.cancel)
            if self.signal:  # it came before
                scope.cancel()
            try:
                await work(mj)
            finally:
                self._stop = _nothing

    def on_interrupt(self) -> None:
        """Says how to go on."""
        given = self._options.items()
        options = [f"--{name}" if value is True else f"--{name}={value}" for name, value in given if value]
        can_go_on = self.left and not self.flags["sandbox"]  # which is gone
        self.screen.tell(f"Interrupted with {len(self.left)} left.{' To go on:' if can_go_on else ''}")
        if can_go_on:
            self.screen.tell(shlex.join(["anyapi-midjourney", "wait", *options, *self.left]), wrap=False)
        if self.submitting:
            self.screen.tell(f"This may have been submitted and billed: {self.submitting}", "red")


def run() -> None:
    """Runs the command, and exits."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # it is closed, and a socket would get its number
            setattr(sys, name, open(os.devnull, "r+" if number else "r", encoding="utf-8"))  # noqa: PTH123, SIM115
    for number in _interruptions():
        if number != signal.SIGINT:  # which is a KeyboardInterrupt
            signal.signal(number, lambda number, _: sys.exit(SIGNALLED + number))
    try:
        main(prog_name="anyapi-midjourney", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(SIGNALLED + signal.SIGINT)


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__)
def main() -> None:
    """Midjourney at AnyAPI: submit prompts, follow tasks, press buttons, save pictures."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal's encoding has 🔄


def _with_flags(command: Callable[..., None]) -> Callable[..., None]:
    for name, text in reversed(_FLAGS.items()):
        command = click.option(f"--{name}", is_flag=True, help=text)(command)
    return command


def _with_waiting(command: Callable[..., None]) -> Callable[..., None]:
    text = "Save the pictures in this folder. Those that were saved before are kept."
    command = click.option("--save", type=click.Path(file_okay=False, path_type=Path), help=text)(command)
    text = "Seconds for all tasks; 0 polls once, inf has no end."
    return click.option("--timeout", default=DEFAULT_TIMEOUT, help=text)(_with_flags(command))


@main.command()
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@click.option("--no-wait", is_flag=True, help="Print the ids of the tasks, and end.")
@_with_waiting
def imagine(prompts: tuple[str, ...], timeout: float, save: Path | None, *, no_wait: bool, **flags: bool) -> None:
    """Submit prompts, wait for their tasks, and show them.

    Each PROMPT is one job, so put it in quotes. `-` reads prompts from standard input, one a line.
    """
    lines = (_stdin().splitlines() if word == "-" else [word] for word in prompts)
    given = [prompt for prompt in chain.from_iterable(lines) if prompt.strip()]
    if not given:
        _end_without("prompt", prompts)
    jobs = [(prompt, methodcaller("imagine", prompt)) for prompt in given]
    _run(_submitting(jobs, report := _Report(flags, save, timeout), no_wait=no_wait), report)


@main.command()
@click.argument("task_id", metavar="ID")
@click.argument("button")
@click.option("--no-wait", is_flag=True, help="Print the id of the new task, and end.")
@_with_waiting
def press(task_id: str, button: str, timeout: float, save: Path | None, *, no_wait: bool, **flags: bool) -> None:
    """Press a button of a task, wait for the new task, and show it.

    BUTTON is a label or an emoji, such as U1 or "Vary (Subtle)", or a custom id.
    """
    jobs = [(f"{button} of {task_id}", methodcaller("press", task_id, button))]
    _run(_submitting(jobs, report := _Report(flags, save, timeout), no_wait=no_wait), report)


@main.command()
@click.argument("task_id", metavar="ID")
@_with_flags
def fetch(task_id: str, **flags: bool) -> None:
    """Show a task as it is now."""
    report = _Report(flags, ids=[task_id])

    async def work(mj: AsyncMidjourney) -> None:
        async with mj:
            try:
                await report.on_outcome(mj, task_id, await mj.fetch(task_id))
            except errors.MidjourneyError as error:
                await report.on_outcome(mj, task_id, error)

    _run(work, report)


@main.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_with_waiting
def wait(ids: tuple[str, ...], timeout: float, save: Path | None, **flags: bool) -> None:
    """Wait for tasks, and show each when it is done.

    `-` reads ids from standard input, separated by blanks or new lines.
    """
    report = _Report(flags, save, timeout, " ".join(_stdin() if word == "-" else word for word in ids).split())
    if not report.left:
        _end_without("id", ids)

    async def work(mj: AsyncMidjourney) -> None:
        async with mj:
            report.keep_saved()
            await report.follow(mj)

    _run(work, report)


def _end_without(what: str, words: tuple[str, ...]) -> NoReturn:
    if "-" in words:  # nothing to do is no mistake of a script
        sys.exit(DONE)
    raise click.UsageError(f"There is no {what}.")


def _stdin() -> str:
    return sys.stdin.buffer.read().decode("utf-8-sig", "replace")


def _submitting(jobs: _Jobs, report: _Report, *, no_wait: bool) -> _Work:
    async def work(mj: AsyncMidjourney) -> None:
        async with mj:
            await report.submit(mj, jobs, no_wait=no_wait)
            if not no_wait:
                await report.follow(mj)

    return work


@main.command("sandbox", context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def _sandbox(arguments: tuple[str, ...]) -> None:
    """Start the embedded AnyAPI, until interrupted."""
    from .. import sandbox  # noqa: PLC0415  (an optional extra)

    sandbox.main(arguments, "anyapi-midjourney sandbox")


def _run(work: _Work, report: _Report) -> None:
    """Does the work with a client, and exits."""
    if report.flags["show"] and not find_spec("textual_image"):
        raise ImportError("--show needs more packages: pip install 'anyapi-midjourney[show]'")
    with ExitStack() as stack:
        for number in _interruptions():
            stack.callback(signal.signal, number, signal.signal(number, report.on_signal))
        options: dict[str, Any] = {}
        if report.flags["sandbox"]:
            from .. import sandbox  # noqa: PLC0415  (an optional extra)

            base_url = stack.enter_context(sandbox.serve(speed=SANDBOX_SPEED))
            options = {"api_key": sandbox.API_KEY, "base_url": base_url}
        if report.draws and not report.folder:
            report.folder = Path(stack.enter_context(TemporaryDirectory()))
        try:
            with warnings.catch_warnings(record=True, action="always") as warned:  # of a key that is sent unencrypted
                mj = AsyncMidjourney(**options)
            for warning in warned:
                report.screen.note(str(warning.message), "yellow")
            with report.screen.shown():
                anyio.run(report.until_interrupted, work, mj)
        except* (errors.ConfigurationError, OSError) as group:
            report.on_error(group)
        if report.signal:
            report.on_interrupt()
    _flush()
    sys.exit(SIGNALLED + report.signal if report.signal else report.code)


def _nothing() -> None:
    pass


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # a full disk, or nobody reads it: Python would try again at its exit, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _interruptions() -> list[signal.Signals]:
    """The signals that interrupt, but for those that the parent process turned off, as nohup does."""
    found = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [number for number in found if signal.getsignal(number) != signal.SIG_IGN]


def _exit_code(outcome: Outcome) -> int:
    if isinstance(outcome, Task):
        return FAILED if outcome.failed else DONE
    if isinstance(outcome, errors.WaitTimeoutError) and outcome.last_error and not outcome.task:
        return max(TIMED_OUT, _exit_code(outcome.last_error))
    return next((code for kind, code in _CODES.items() if isinstance(outcome, kind)), NO_CONNECTION)
