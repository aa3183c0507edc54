"""Contains all the data models used in inputs/outputs"""

from .button import Button
from .task import Task
from .task_properties import TaskProperties
from .video import Video

__all__ = (
    "Button",
    "Task",
    "TaskProperties",
    "Video",
)
