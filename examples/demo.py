"""Fetches the example task of AnyAPI's documentation from the sandbox, and prints it."""

from anyapi_midjourney import Midjourney, Task, sandbox


def show(task: Task) -> None:
    """Prints what a person wants to know of a task."""
    print(f"Task {task.id}: {task.action}, {task.status}, {task.progress} %")
    print(f"  prompt     {task.final_prompt or task.prompt}")
    print(f"  submitted  {task.submitted_at:%Y-%m-%d %H:%M:%S %Z}")
    if task.queued_for and task.ran_for:
        queued, ran = task.queued_for.total_seconds(), task.ran_for.total_seconds()
        print(f"  took       {queued:.1f} s in the queue, {ran:.1f} s to draw")
    print(f"  picture    {task.image_url}")
    print(f"  until      {task.image_expires_at:%Y-%m-%d %H:%M:%S %Z}")
    print(f"  buttons    {'  '.join(button.name for button in task.buttons)}")


if __name__ == "__main__":
    with sandbox.serve() as base_url, Midjourney(sandbox.API_KEY, base_url=base_url) as mj:
        show(mj.fetch(sandbox.EXAMPLE_ID))
