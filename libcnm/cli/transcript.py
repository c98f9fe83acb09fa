"""How the demo is told: numbered headings, each command as a person would type it, its real output, a progress bar.

A command that fails, or whose output lacks what it should show, ends the story. It never knows what the story is.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.text import Text

WIDTH = 120
PATIENCE_SECONDS = 10.0


class StoryFailed(Exception):
    """A step did not show what it should; ``output`` is what it said instead."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class Transcript:
    """One telling of ``steps`` steps; a context manager around the progress bar, which only a terminal sees."""

    def __init__(self, steps: int) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        if not self._console.is_terminal:
            self._console.width = WIDTH
        self._steps = steps
        self._number = 0
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=steps)
        self.title = "the beginning"

    def __enter__(self) -> Transcript:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, title: str, why: str) -> None:
        """Begin a step: its heading, and in a sentence what to look at."""
        if self._number:
            self._progress.advance(self._task)
        self._number += 1
        self.title = f"step {self._number}, {title}"
        self._progress.update(self._task, description=title)
        self._console.print()
        self._console.print(
            Rule(Text(f"{self._number}/{self._steps}  {title}", "bold"), align="left", style="dim"), width=WIDTH
        )
        self.note(why)

    def note(self, words: str) -> None:
        """A remark of the narrator's."""
        self._console.print(Text(words, "italic"))

    def typed(self, prompt: str, words: Iterable[str]) -> None:
        """A command, as it would stand on a screen."""
        self._console.print(Text.assemble((f"{prompt}$ ", "bold green"), (" ".join(words), "bold")))

    def output(self, text: str) -> None:
        """What a command printed."""
        if text.strip():
            self._console.print(Text(text.rstrip("\n")))

    def run(
        self,
        prompt: str,
        words: list[str],
        action: Callable[[], subprocess.CompletedProcess[Any]],
        *,
        shows: Iterable[str] = (),
    ) -> str:
        """Show the command, do it, show its output. Raises StoryFailed on a status, or when it lacks something."""
        self.typed(prompt, words)
        command = " ".join(words)
        try:
            done = action()
        except subprocess.TimeoutExpired as late:
            raise StoryFailed(f"`{command}` on {prompt} did not end within {late.timeout:g} s") from None
        printed = str(done.stdout)
        if done.returncode != 0:
            raise StoryFailed(
                f"`{command}` on {prompt} ended with status {done.returncode}", printed + str(done.stderr)
            )
        self.output(printed)
        missing = [wanted for wanted in shows if wanted not in printed]
        if missing:
            raise StoryFailed(f"`{command}` on {prompt} does not show {', '.join(map(repr, missing))}", printed)
        return printed

    def end(self, words: str) -> None:
        """The last words of a story that went well."""
        self._progress.advance(self._task)
        self._console.print()
        self._console.print(Text(words, "bold green"))

    def failed(self, message: str, output: str) -> None:
        """The last words of one that did not."""
        self._console.print()
        self._console.print(Text(f"FAILED in {self.title}: {message}", "bold red"))
        self.output(output)
