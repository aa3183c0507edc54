"""What the command shows while it runs: results on stdout; bars, messages and the client's log on stderr."""

from __future__ import annotations

import logging
import os
from collections import Counter
from contextlib import contextmanager
from stat import S_ISFIFO
from typing import TYPE_CHECKING

from rich.console import Console
from rich.constrain import Constrain
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from .._text import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from .._task import Task


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raises the error; rich would exit with 1."""
        raise  # noqa: PLE0704  (called from an except block)


class Screen(logging.Handler):
    """Both outputs, and a bar for each task, or one bar for more than a dozen."""

    has_one_bar = False

    def __init__(self) -> None:
        super().__init__()
        self.out = _Console(highlight=False, markup=False, emoji=False)
        self._err = _Console(highlight=False, markup=False, emoji=False, stderr=True)
        self.can_draw = _is_terminal(self.out) and not self.out.no_color  # half blocks need colours
        self._counts = Counter[str]()
        self._faults = Counter[type]()
        self._live: Live | None = None
        name, status = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[status]"))
        self._bars = Progress(name, BarColumn(bar_width=None), TaskProgressColumn(), status, TimeElapsedColumn())
        self._rows: dict[str, TaskID] = {}

    def follow(self, task_ids: Collection[str]) -> None:
        """Shows a bar for each of these tasks, or one for all."""
        self.has_one_bar = len(task_ids) > 12
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
        if _is_terminal(self._err) and not S_ISFIFO(os.fstat(1).st_mode):
            self._start()
        try:
            yield
        finally:
            logger.removeHandler(self)
            if self._live:
                self._live.stop()
        if self.has_one_bar:
            self.tell(", ".join(f"{count} {how}" for how, count in sorted(self._counts.items())[::-1]))

    @contextmanager
    def without_bars(self) -> Generator[None]:
        """Removes the bars while stdout is written to."""
        live, self._live = self._live, None
        if live:
            live.stop()
        yield
        if live:
            self._start()  # a new one: the old one would write over those lines

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
            self._bars.remove_task(self._rows[task_id])

    def tell(self, text: str, style: str = "") -> None:
        """Writes a message to stderr, if there is one."""
        if text:
            self._err.print(Text(printable(text), style), soft_wrap=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a warning at once, and a fault the third time."""
        kind = type(record.args[0] if isinstance(record.args, tuple) else None)  # the texts have new request ids
        self._faults[kind] += 1
        if self._faults[kind] == 3 or record.levelno > logging.INFO:
            self.tell(record.getMessage(), "yellow")

    def _start(self) -> None:
        self._live = Live(get_renderable=self._table, console=self._err, transient=True, redirect_stdout=False)
        self._live.start()

    def _table(self) -> Constrain:
        # A terminal echoes ^C before or after a bar. Without room for it, the line would wrap.
        return Constrain(self._bars.get_renderable(), max(self._err.width - 9, 1))


def _is_terminal(console: Console) -> bool:
    return console.is_interactive and console.file.isatty()  # FORCE_COLOR alone makes it interactive
