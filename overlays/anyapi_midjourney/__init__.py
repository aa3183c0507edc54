"""Midjourney at AnyAPI: follow tasks, and save pictures."""

from ._button import Button
from ._client import AsyncMidjourney, Midjourney
from ._task import Task, TaskAction, TaskStatus
from .errors import (
    APIConnectionError,
    APIResponseError,
    APITimeoutError,
    AuthenticationError,
    ButtonNotFoundError,
    ConfigurationError,
    DownloadError,
    InvalidResponseError,
    MidjourneyError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    TaskBlockedError,
    TaskCancelledError,
    TaskError,
    TaskFailedError,
    TaskNotFoundError,
    WaitTimeoutError,
)

__all__ = [
    "APIConnectionError",
    "APIResponseError",
    "APITimeoutError",
    "AsyncMidjourney",
    "AuthenticationError",
    "Button",
    "ButtonNotFoundError",
    "ConfigurationError",
    "DownloadError",
    "InvalidResponseError",
    "Midjourney",
    "MidjourneyError",
    "PermissionDeniedError",
    "RateLimitError",
    "ServerError",
    "Task",
    "TaskAction",
    "TaskBlockedError",
    "TaskCancelledError",
    "TaskError",
    "TaskFailedError",
    "TaskNotFoundError",
    "TaskStatus",
    "WaitTimeoutError",
]
