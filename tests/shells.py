"""The old names, for tests that still use them."""

from typing import Any

from clients import *  # noqa: F403
from clients import Client


class Shell(Client):
    def use(self, clock: Any, transport: Any, script: Any, **options: Any) -> Any:
        return self.run(script, transport, clock, **options)
