"""The life of a picture, at the sandbox: a prompt, its grid, U2 pressed, the picture saved. No key, no network.

It runs the commands that it prints, and shows the Python that does the same.
"""

import os
import shlex
import subprocess
import sys

from anyapi_midjourney import sandbox

PYTHON = """
from anyapi_midjourney import Midjourney

with Midjourney() as mj:  # ANYAPI_API_KEY
    task = mj.wait(mj.imagine("a pig on the moon --v 7"))
    picture = mj.wait(mj.press(task, "U2"))
    mj.download(picture, "pig.png")
"""


def run(*words: str, read: bool = False) -> str:
    """Prints a command and runs it. Returns what it writes, if that is to be read."""
    print(f"\n$ anyapi-midjourney {shlex.join(words)}", flush=True)
    command = [sys.executable, "-m", "anyapi_midjourney", *words]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE if read else None)
    if read:
        print(done.stdout, end="")
    return (done.stdout or "").strip()


if __name__ == "__main__":
    with sandbox.serve(speed=6) as base_url:
        os.environ |= {"ANYAPI_BASE_URL": base_url, "ANYAPI_API_KEY": sandbox.API_KEY}
        task_id = run("imagine", "a pig on the moon --v 7", "--no-wait", read=True)
        run("wait", task_id, "--save", "build/demo", "--show")
        run("press", task_id, "U2", "--save", "build/demo", "--show")
    print(f"\nThe same in Python:\n{PYTHON}")
