"""A report's sections as GitHub's markdown."""

from collections.abc import Sequence

from jaxsep.report.sections import Section, Table


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The text of report.md; figures are taken from figures/NAME.png beside it."""
    parts = [f"# {_text(title)}"]
    for section in sections:
        parts += [f"## {_text(section.title)}", *map(_text, section.text)]
        for table in section.tables:
            parts += [f"### {_text(table.title)}", table_text(table), _text(table.note)]
        for figure in section.figures:
            parts += [f"![{_text(figure.title)}](figures/{figure.name}.png)", _text(figure.caption)]
    return "\n\n".join(filter(None, parts)) + "\n"


def table_text(table: Table) -> str:
    """Cells padded to columns: the first on the left, the others on the right.

    >>> print(table_text(Table("", ["", "dB"], [["speech", "7.25"]])))
    |        |   dB |
    | ------ | ---: |
    | speech | 7.25 |
    """
    lines = [
        [_text(cell).replace("|", r"\|") for cell in line] for line in (table.header, *table.rows)
    ]
    widths = [max(4, *(len(line[column]) for line in lines)) for column in range(len(table.header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def _text(text: str) -> str:
    """What markdown would read as HTML, emphasis or a link is escaped, on one line; backticks set code, as on the page."""
    line = " ".join(text.splitlines())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("*", r"\*").replace("](", r"]\(")
