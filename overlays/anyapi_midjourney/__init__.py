"""Follow Midjourney tasks at AnyAPI by their ids."""

from .button import Button
from .client import AsyncMidjourney, Midjourney
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
from .task import Task, TaskAction, TaskStatus

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
