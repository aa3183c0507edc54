"""The old names, for tests that still use them."""

from typing import Any

from clients import CASES as CASES, EXAMPLE as EXAMPLE, KEY as KEY, ROOT as ROOT, TASK_ID as TASK_ID, URL as URL
from clients import Client, Clock as Clock, Stream as Stream, example as example, listening as listening, reply as reply


class Shell(Client):
    def use(self, clock: Any, transport: Any, script: Any, **options: Any) -> Any:
        return self.run(script, transport, clock, **options)
