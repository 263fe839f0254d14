"""Who may use the weights: many answers side by side, or one change of them alone."""

from __future__ import annotations

import asyncio


class Gate:
    """Answers enter and leave; it closes for a change once the last of them is out, and meanwhile none enters."""

    def __init__(self) -> None:
        self.inside = 0
        self._closing = False
        self._waiting: list[asyncio.Future[None]] = []

    async def enter(self) -> None:
        """Go in, as soon as no change waits or is made."""
        while self._closing:
            await self._turn()
        self.inside += 1

    def leave(self) -> None:
        """Go out."""
        self.inside -= 1
        self._wake()

    async def close(self) -> None:
        """Let nobody in, and wait until everybody is out."""
        while self._closing:
            await self._turn()
        self._closing = True
        try:
            while self.inside:
                await self._turn()
        except BaseException:
            self.open()
            raise

    def open(self) -> None:
        """Let everybody in again."""
        self._closing = False
        self._wake()

    async def _turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)
