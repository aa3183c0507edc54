"""What the command shows while it runs: results on stdout; bars, messages and the client's log on stderr."""

from __future__ import annotations

import logging
import math
import os
import re
from collections import Counter
from contextlib import contextmanager, suppress
from stat import S_ISFIFO
from typing import TYPE_CHECKING

from rich.console import Console
from rich.constrain import Constrain
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from .._text import printable
from ._terminal import filled

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from .._task import Task


_IDS = re.compile(r" (?:\(request id: \w+\)|\[task [^]]*\])")
"""Where two texts of one fault differ."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raises the error; rich would exit with 1."""
        raise  # noqa: PLE0704  (called from an except block)


class Screen(logging.Handler):
    """Both outputs, and a bar for each task, or one bar for more than a dozen."""

    has_one_bar = False

    def __init__(self, *, quiet: bool) -> None:
        super().__init__()
        self.quiet = quiet
        """Whether only errors are shown."""
        self.out = _Console(highlight=False, markup=False, emoji=False)
        self._err = _Console(highlight=False, markup=False, emoji=False, stderr=True)
        self.width = self.out.width if _is_terminal(self.out) else math.inf
        self.can_draw = _is_terminal(self.out) and not self.out.no_color  # half blocks need colours
        self._counts = Counter[str]()
        self._faults = Counter[type]()
        self._told: dict[str, str] = {}  # the first that had an error
        self._live: Live | None = None
        name, status = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[status]"))
        if self._err.width < 60:  # the name and the status of a task need 40 columns with the percentage
            self._bars = Progress(name, TaskProgressColumn(), status)
        else:
            self._bars = Progress(name, BarColumn(bar_width=None), TaskProgressColumn(), status, TimeElapsedColumn())
        self._rows: dict[str, TaskID] = {}

    def follow(self, task_ids: Collection[str]) -> None:
        """Shows a bar for each of these tasks, or one for all."""
        self.has_one_bar = self.has_one_bar or len(task_ids) > 12
        names = {"": f"{len(task_ids)} tasks"} if self.has_one_bar else {i: printable(i) for i in task_ids}
        total = len(task_ids) if self.has_one_bar else 100
        for row in self._rows.values():
            self._bars.remove_task(row)
        self._rows = {key: self._bars.add_task(name, total=total, status="") for key, name in names.items()}

    @contextmanager
    def shown(self) -> Generator[None]:
        """Shows the bars, what the client logs, and at the end the counts of many tasks."""
        logger = logging.getLogger("anyapi_midjourney")
        logger.setLevel(logging.INFO)
        logger.addHandler(self)
        # A program that reads our output from a pipe may write to the same terminal.
        if _is_terminal(self._err) and not self.quiet and not S_ISFIFO(os.fstat(1).st_mode):
            self._start()
        try:
            yield
        finally:
            logger.removeHandler(self)
            self._stop()
        if self.has_one_bar:
            counts = [f"{count} {how}" for how in ("succeeded", "kept", "failed") if (count := self._counts[how])]
            self.note(", ".join(counts))

    @contextmanager
    def without_bars(self) -> Generator[None]:
        """Removes the bars while stdout is written to."""
        had_bars = self._stop()
        yield
        if had_bars:
            self._start()  # new ones: the old ones would write over those lines

    def on_change(self, task: Task) -> None:
        """Moves the bar of a task."""
        if (row := self._rows.get(task.id)) is not None:
            status = printable(task.status_name[:200])
            self._bars.update(row, completed=task.progress or 0, status=status)

    def on_end(self, task_id: str, how: str) -> None:
        """Removes the bar of a task, or moves the one of all."""
        self._counts[how] += 1
        if self.has_one_bar:
            self._bars.update(self._rows[""], advance=1)
        else:
            self._bars.remove_task(self._rows.pop(task_id))

    def tell(self, text: str, style: str = "", *, wrap: bool = True) -> None:
        """Writes a message to stderr, if somebody can read it."""
        lines = filled(text.split(" "), " ", self._err.width) if wrap and _is_terminal(self._err) else [printable(text)]
        with suppress(OSError):
            self._err.print(Text("\n".join(lines), style), soft_wrap=True)

    def note(self, text: str, style: str = "") -> None:
        """Writes a message that is about no error."""
        if text and not self.quiet:
            self.tell(text, style)

    def tell_error(self, name: str, error: object) -> None:
        """Writes the error of a task or a prompt. A repeated error is shortened."""
        text, last = str(error), getattr(error, "last_error", None)
        text = re.sub(r" \[task (.*)]$", lambda end: "" if end[1] in name else end[0], text)
        if last and self._first_with(last, name) != name:
            text = text.replace(f": {last}", " with the same error.")
        first = self._first_with(text, name)
        self.tell(f"{name}: {text if first == name else f'The same error as {first}.'}", "red")

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a warning at once, and a fault the third time."""
        error = record.args[0] if isinstance(record.args, tuple) else None
        self._faults[type(error)] += 1  # the texts have new request ids
        if not self.quiet and (self._faults[type(error)] == 3 or record.levelno > logging.INFO):
            self._first_with(error, "above")
            self.tell(record.getMessage(), "yellow")

    def _first_with(self, error: object, name: str) -> str:
        return self._told.setdefault(_IDS.sub("", str(error)), name)

    def _start(self) -> None:
        self._live = Live(get_renderable=self._table, console=self._err, transient=True, redirect_stdout=False)
        with suppress(OSError):  # the terminal is gone
            self._live.start()

    def _stop(self) -> bool:
        """Removes the bars. Returns whether there were any."""
        live, self._live = self._live, None
        if live:
            with suppress(OSError):
                live.stop()
        return live is not None

    def _table(self) -> Constrain:
        # A terminal echoes ^C before or after a bar. Without room for it, the line would wrap.
        return Constrain(self._bars.get_renderable(), max(self._err.width - 9, 1))


def _is_terminal(console: Console) -> bool:
    return console.is_interactive and console.file.isatty()  # FORCE_COLOR alone makes it interactive
