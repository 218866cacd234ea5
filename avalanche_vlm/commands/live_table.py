"""Bars with a table above them, which grows while a comparison runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.progress import Progress
from rich.table import Table

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.declaration import ResultEntry
from avalanche_vlm.evaluation.variants import row_names

_AROUND = 8
"""Lines of a terminal that title, heads and rules of a table take, and what is printed around it."""
_LEAST = 3
"""Rows that are shown on the lowest terminal."""


class TableAndBars(Progress):
    """rich's bars, with what is finished in a table above those that are not."""

    table: Table | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """The table, and the bars below it."""
        if self.table is not None:
            yield self.table
        yield from super().get_renderables()

    def show_scores(self, entries: Sequence[ResultEntry]) -> None:
        """Have the table show these runs, as many rows as there is room for, and take away the bars of what is over.

        :param entries: result and timing of each finished run, in the order of the table.
        """
        from avalanche_vlm.report.table import as_table

        going = [task for task in self.tasks if not task.fields.get("over")]
        names = row_names([entry["result"] for entry in entries])
        rows = list(dict.fromkeys(names))
        room = max(_LEAST, self.console.height - len(going) - _AROUND)
        shown = [entry for name, entry in zip(names, entries, strict=True) if name in rows[:room]]
        try:
            table = as_table(shown)
        except InputError:  # said where the whole table is made
            return
        if len(rows) > room:
            table.caption = f"and {len(rows) - room} more"
        self.table = table
        for task in self.tasks:
            if task.fields.get("over"):  # be it that nothing was trained, and its bar has not moved
                self.update(task.id, visible=False)
        self.refresh()
