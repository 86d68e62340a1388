"""Writing while training goes on, one thing at a time."""

from collections.abc import Callable
from threading import Thread
from types import TracebackType

from calotype.mistakes import note


class Writer:
    """Writes in a thread beside the one that trains; a context that ends when all is written. What
    goes wrong is raised in the thread that trains.
    """

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._failed: BaseException | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Begin to write; waits for what is still under way, so that there is never more than one
        copy of what is written.

        Raises:
            Exception: what was under way failed.
        """
        self.wait()
        # A daemon: whoever quits at once does not wait, and what is half-written is not taken up.
        self._thread = Thread(target=self._write, args=(write,), daemon=True, name="writer")
        self._thread.start()

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self._failed = error

    @property
    def failed(self) -> bool:
        """Whether what is or was under way has failed; `wait` raises why."""
        return self._failed is not None

    def wait(self) -> None:
        """Wait until nothing is under way.

        Raises:
            Exception: what was under way failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if isinstance(error, KeyboardInterrupt):
            return
        try:
            self.wait()
        except Exception as own:
            if error is None:
                raise
            note(error, f"besides, what was being written failed: {own}")
