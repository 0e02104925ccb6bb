"""A work chain that goes on as soon as any of its children ends."""

from __future__ import annotations

from functools import partial
from typing import Any

from aiida.engine import ProcessState, WorkChain
from aiida.orm import load_node


class RefillingWorkChain(WorkChain):
    """Resumes when any of the awaited children has ended, where a plain work chain waits for all of them.

    A step finds the children that ended by ``is_terminated`` and must await the others again with ``to_context``; each
    is watched once only. All that is kept lies in the context, so that a chain goes on after a restart of the daemon.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watched: set[int] = set()

    def load_instance_state(self, saved_state: Any, load_context: Any) -> None:
        """Forget who was watched: nobody is after a restart."""
        self._watched = set()
        super().load_instance_state(saved_state, load_context)

    def _action_awaitables(self) -> None:
        """Watch the children that are not watched yet; go on at once if one has ended meanwhile."""
        for awaitable in self._awaitables:
            if awaitable.pk not in self._watched:
                self._watched.add(awaitable.pk)
                self.runner.call_on_process_finish(awaitable.pk, partial(self.call_soon, self._wake))
            elif load_node(awaitable.pk).is_terminated:
                self.call_soon(self._wake)

    def _wake(self) -> None:
        if self.state == ProcessState.WAITING:
            self.resume()
