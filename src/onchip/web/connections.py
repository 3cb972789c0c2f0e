"""How many connections there may be, and for how long each may keep us waiting for its question.

Who opens connections and asks nothing needs no password for it. Without an end to these nobody else
came in, and the whole program ran out of files that it may open, those of its events among them.
"""

import asyncio
from collections.abc import Sequence

from uvicorn.protocols.http.h11_impl import H11Protocol

from onchip.web.door import address_of, is_loopback

MOST = 256  # connections at a time
EACH = 32  # of one visitor; through a proxy or a tunnel all look like this machine
PATIENCE = 10.0  # seconds in which a question has to be there


class Connection(H11Protocol):
    """One of not too many connections. It is given up where its question does not come."""

    visitor = ""
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first question."""
        super().connection_made(transport)
        self.visitor = address_of(self.client[0]) if self.client is not None else ""
        others = [one.visitor for one in self.connections if isinstance(one, Connection)]
        if crowded(self.visitor, others):
            transport.abort()
        else:
            self._late = self.loop.call_later(PATIENCE, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take a piece of a question; the rest of it must not be long in coming."""
        super().data_received(data)
        asked = self.cycle is not None and not self.cycle.response_complete
        if asked and self._late is not None:
            self._late.cancel()
            self._late = None
        elif not asked and self._late is None:
            self._late = self.loop.call_later(PATIENCE, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        super().connection_lost(exc)
        if self._late is not None:
            self._late.cancel()


def crowded(visitor: str, visitors: Sequence[str]) -> bool:
    """Whether there are too many connections, or too many of one visitor, who is among them."""
    if len(visitors) > MOST:
        return True
    return not is_loopback(visitor) and visitors.count(visitor) > EACH
