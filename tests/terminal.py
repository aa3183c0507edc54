"""The command in a terminal of its own, and pictures of its screen. `make docs` makes the README's picture with it."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import termios
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from anyapi_midjourney import sandbox

COMMAND = [sys.executable, "-m", "anyapi_midjourney"]


def environment(base_url: str, api_key: str = sandbox.API_KEY, **more: str) -> dict[str, str]:
    """A user's environment, with a gateway."""
    unwanted = ("NO_COLOR", "FORCE_COLOR", "PYTHONUNBUFFERED")
    inherited = {name: value for name, value in os.environ.items() if name not in unwanted}
    return inherited | {"ANYAPI_BASE_URL": base_url, "ANYAPI_API_KEY": api_key, "TERM": "xterm-256color"} | more


class Terminal:
    """A command that runs in a terminal of 40 lines, or of more if its whole output is wanted."""

    def __init__(
        self,
        env: dict[str, str],
        *arguments: str,
        stdout: Any = None,
        stderr: Any = None,
        cwd: Path | None = None,
        size: tuple[int, int] = (40, 80),
    ) -> None:
        self.end, other = pty.openpty()
        termios.tcsetwinsize(other, size)
        self._size = size
        options: dict[str, Any] = {"stdin": other, "stdout": stdout or other, "stderr": stderr or other, "cwd": cwd}
        self.process = subprocess.Popen([*COMMAND, *arguments], env=env, start_new_session=True, **options)
        os.close(other)
        self._bytes = b""

    @property
    def shown(self) -> str:
        """All that was written, with its control sequences."""
        return self._bytes.decode(errors="replace")

    @property
    def screen(self) -> str:
        """What the screen shows now."""
        return "\n".join(line.rstrip() for line in self._emulated().display)

    @property
    def hides_cursor(self) -> bool:
        """Whether the cursor is hidden now."""
        return bool(self._emulated().cursor.hidden)

    def read(self, until: str = "\0", seconds: float = 20) -> None:
        """Reads until a text is shown, or the command has ended."""
        end = time.monotonic() + seconds
        while until not in self.shown and time.monotonic() < end:
            if select.select([self.end], [], [], 0.1)[0]:
                try:
                    self._bytes += os.read(self.end, 65536)
                except OSError:  # the other end is closed
                    break
            elif self.process.poll() is not None:
                break

    def close(self) -> int:
        """The exit code, once the command has ended."""
        self.read()
        os.close(self.end)
        return self.process.wait(10)

    def _emulated(self) -> pyte.Screen:
        lines, columns = self._size
        screen = pyte.Screen(columns, lines)
        pyte.ByteStream(screen).feed(self._bytes)
        return screen


def picture(text: Text, width: int = 80) -> str:
    """An SVG of a terminal that shows a text."""
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(text, soft_wrap=True)
    # Without the fonts of another host.
    code_format = re.sub(r"@font-face {{.*?}}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(title="anyapi-midjourney", code_format=code_format, unique_id="terminal")


def run(base_url: str, *words: str, folder: Path, width: int = 80) -> Text:
    """A command that is typed, and what it writes to stdout, in colour."""
    terminal = Terminal(
        environment(base_url, COLORTERM="truecolor"), *words, stderr=subprocess.DEVNULL, cwd=folder, size=(40, width)
    )
    terminal.close()
    written = re.sub(r"\r|\x1b_.*?\x1b\\|\x1b\[c", "", terminal.shown)  # which asks what the terminal can draw
    return Text().append(f"$ anyapi-midjourney {shlex.join(words)}\n", "bold").append(Text.from_ansi(written.strip()))


def demo() -> str:
    """The README's picture: a prompt, its grid and U2, at a sandbox whose tasks end at once."""
    with sandbox.serve(finished=True) as base_url, TemporaryDirectory() as name:
        folder = Path(name)
        imagined = run(base_url, "imagine", "a pig on the moon --v 7", "--save", "pictures", "--show", folder=folder)
        (grid,) = folder.glob("pictures/*")
        pressed = run(base_url, "press", grid.stem, "U2", "--save", "pictures", folder=folder)
        drawn = picture(imagined.append("\n\n").append(pressed)).replace(base_url, "http://127.0.0.1:48080")
        for number, path in enumerate(sorted(folder.glob("pictures/*")), 1):  # the same picture each time
            drawn = drawn.replace(path.stem, f"17958240000000{number:02}")
        return drawn


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(demo(), encoding="utf-8")
