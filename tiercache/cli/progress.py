"""What is seen while a herd runs: bars on a terminal, lines elsewhere."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

LINE_SECONDS = 1.0


class Progress(Protocol):
    """Shows one arm after the other."""

    def start(self, title: str) -> None: ...
    def show(self, answered: int, queries: int, seconds: float) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def progress(console: "Console", callers: int) -> Progress:
    """The live display that suits the console, for arms of so many callers in all."""
    return Bars(console, callers) if console.is_terminal else Lines(console, callers)


class Bars:
    """One bar per arm: callers answered, queries started, seconds."""

    def __init__(self, console: "Console", callers: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._callers = callers
        self._bars = Progress(
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:>5.0f}/{task.total:.0f} answered"),
            TextColumn("{task.fields[queries]:>5} queries"),
            TextColumn("{task.fields[seconds]:>5.1f} s"),
            console=console,
        )
        self._task: TaskID | None = None

    def start(self, title: str) -> None:
        self._task = self._bars.add_task(title, total=self._callers, queries=0, seconds=0.0)

    def show(self, answered: int, queries: int, seconds: float) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=answered, queries=queries, seconds=seconds)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


class Lines:
    """A line at the start of an arm, every second, and when its last caller is answered."""

    def __init__(self, console: "Console", callers: int) -> None:
        self._console = console
        self._callers = callers
        self._title = ""
        self._said_at = 0.0
        self._said_all = False

    def start(self, title: str) -> None:
        self._title, self._said_at, self._said_all = title, 0.0, False

    def show(self, answered: int, queries: int, seconds: float) -> None:
        is_all = answered == self._callers
        if self._said_all or (time.monotonic() - self._said_at < LINE_SECONDS and not is_all):
            return
        self._said_at, self._said_all = time.monotonic(), is_all
        line = f"{self._title}: {answered}/{self._callers} answered, {queries} queries, {seconds:.1f} s"
        self._console.print(line, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
