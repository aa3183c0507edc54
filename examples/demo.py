"""Waits for a task of the sandbox, showing its progress. `python examples/demo.py 10` runs ten times as fast."""

import sys
import time

from anyapi_midjourney import Midjourney, Task, sandbox


def show(task: Task) -> None:
    """Prints what a person wants to know of a finished task."""
    print(f"Task {task.id}: {task.action}, {task.status}, {task.progress} %")
    print(f"  prompt     {task.final_prompt or task.prompt}")
    if task.queued_for and task.ran_for:
        queued, ran = task.queued_for.total_seconds(), task.ran_for.total_seconds()
        print(f"  took       {queued:.1f} s in the queue, {ran:.1f} s to draw")
    print(f"  picture    {task.image_url}")
    print(f"  buttons    {'  '.join(button.name for button in task.buttons)}")


def main(speed: float) -> None:
    """Waits for one task that takes a minute of the sandbox's time."""
    with sandbox.serve(speed=speed) as base_url, Midjourney(sandbox.API_KEY, base_url=base_url) as mj:
        start = time.monotonic()
        for task in mj.watch("success", timeout=300):
            bar = "#" * ((task.progress or 0) // 4)
            print(f"{time.monotonic() - start:5.1f} s  {task.status or 'accepted':12}{task.progress or 0:4} %  {bar}")
        show(mj.wait("success"))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 6)
