"""The report over many runs: what was run and what can be believed, a table for each question, figures, every run.

Written as one HTML page, as Markdown and as CSV, with the figures and their numbers beside them; shown in the terminal.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from callbacks.evaluation.outcomes import RETURN
from callbacks.report.figures import figures
from callbacks.report.gather import Gathered, gather
from callbacks.report.page import page
from callbacks.report.panels import Figure
from callbacks.report.protocol import differing, overview
from callbacks.report.published import beside_ours
from callbacks.report.sheets import Sheet, as_csv
from callbacks.report.suite import return_sheets, success_sheet
from callbacks.report.tables import cost, differences, named, questions, runs, tables, totals
from callbacks.report.text import file_name, markdown, plain
from elmur.files import write_text

log = logging.getLogger(__name__)
TITLE = "What the runs reached"
MOST_SHOWN = 60  # lines of a table in the terminal


@dataclass
class Report:
    """All that is told of many runs.

    sheets: tables for each question. details: of each group of runs, where several stand in one table. about: its
    title, the folders, the command that repeats it.
    """

    overview: list[str]
    differing: list[str]
    sheets: list[Sheet]
    details: list[Sheet]
    runs: Sheet
    figures: list[Figure]
    about: dict[str, Any] = field(default_factory=lambda: {"title": TITLE, "sources": [], "command": None})

    def show(self, console: Console) -> None:
        """Print it, as wide as the console is."""
        for sentence in (*self.overview, *self.differing):
            console.print(Text(f"- {plain(sentence, most=None)}"))
        for sheet in self.sheets:
            console.print()
            sheet.show(console, MOST_SHOWN)

    def markdown(self) -> str:
        """The whole of it but the runs, with the figures beside it."""
        lines = [f"# {markdown(self.about['title'])}", ""]
        lines += [f"- {markdown(sentence, most=None)}" for sentence in (*self.overview, *self.differing)]
        lines += ["", *[sheet.markdown() for sheet in (*self.sheets, *self.details)]]
        for one in self.figures:
            lines += [f"![{markdown(one.title)}](figures/{file_name(one.name)}.svg)", ""]
        return "\n".join(lines)

    def html(self) -> str:
        """All of it as one page that needs no other file."""
        made = datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes")
        parts = {**self.about, "made": made, "overview": self.overview, "differing": self.differing}
        return page(parts, self.sheets, self.figures, self.details, self.runs)

    def write(self, folder: Path) -> None:
        """report.html, report.md, report.csv, runs.csv and a folder of figures."""
        write_text(folder / "report.html", self.html())
        write_text(folder / "report.md", self.markdown())
        write_text(folder / "report.csv", as_csv([*self.sheets, *self.details]))
        write_text(folder / "runs.csv", as_csv([self.runs]))
        for one in self.figures:
            name = file_name(one.name)
            write_text(folder / "figures" / f"{name}.svg", one.svg)
            write_text(folder / "figures" / f"{name}.csv", as_csv([Sheet(one.title, one.lines)]))


def compiled(gathered: Gathered, is_asked: bool = False) -> Report:
    """The report on what was gathered. is_asked: a sweep asked for these runs, so tasks without one are named."""
    found = gathered.groups
    sheets: list[Sheet] = []
    details: list[Sheet] = []
    drawn: list[Figure] = []
    said = overview(gathered)
    for of in questions(found).values():
        every: list[Sheet] = []  # every task and variant of each group
        for group in of:
            every += return_sheets(group, is_asked) if group.metric == RETURN else [success_sheet(group)]
        if len(of) > 1:
            apart = differences(of)
            sheets += [*tables(of), *filter(None, (totals(of), apart))]
            details += every
            if apart is None:
                said.append(f"{named(of[0])}: no differences are shown, since no two have several seeds of one task.")
        else:  # nothing stands beside it: its own tables answer
            sheets += [*every, *filter(None, [totals(of)])]
        drawn += figures(of)
    if (beside := beside_ours([group for group in found if group.stage == "train"])) is not None:
        sheets.append(beside)
    return Report(said, differing(found), [*sheets, cost(found)], details, runs(found), drawn)


def report(
    sources: Path | Sequence[Path],
    folder: Path,
    console: Console | None = None,
    defaults: Callable[[], Mapping[str, Any]] = dict,
    **about: Any,
) -> Report:
    """Show what the runs in these folders reached, and write it into `folder`.

    defaults: as in `gather`. about: `below` of `gather`, `is_asked` of `compiled`, a title, the command.
    Raises ValueError where there are no rows.
    """  # fmt: skip
    given = [sources] if isinstance(sources, Path) else list(sources)
    made = compiled(gather(given, defaults, about.pop("below", True)), about.pop("is_asked", False))
    names = [str(source) for source in given[:5]] + [f"and {len(given) - 5} more"] * (len(given) > 5)
    made.about |= {"sources": names, **about}
    made.write(folder)
    made.show(console or Console())
    log.info("written: %s", ", ".join(str(path) for path in sorted(folder.glob("[!.]*.*"))))
    log.info("open %s in a browser", folder / "report.html")
    return made
