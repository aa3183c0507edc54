"""Contains all the data models used in inputs/outputs"""

from .action_request import ActionRequest
from .blend_request import BlendRequest
from .button import Button
from .describe_request import DescribeRequest
from .imagine_request import ImagineRequest
from .modal_request import ModalRequest
from .shorten_request import ShortenRequest
from .submission import Submission
from .submission_properties import SubmissionProperties
from .task import Task
from .task_condition import TaskCondition
from .task_properties import TaskProperties
from .video import Video

__all__ = (
    "ActionRequest",
    "BlendRequest",
    "Button",
    "DescribeRequest",
    "ImagineRequest",
    "ModalRequest",
    "ShortenRequest",
    "Submission",
    "SubmissionProperties",
    "Task",
    "TaskCondition",
    "TaskProperties",
    "Video",
)
