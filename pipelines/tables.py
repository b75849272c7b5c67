"""Tables on stdout, legible on a terminal and greppable in a pipe."""

from collections.abc import Iterable, Sequence

_WIDTH_OF_A_PIPE = 200


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> None:
    """Print `rows` under `columns`; with `numbers`, all columns but the first are set to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns)
    if numbers:
        for column in table.columns[1:]:
            column.justify = "right"
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    if not console.is_terminal:  # nothing is gained by wrapping what nobody looks at
        console.width = _WIDTH_OF_A_PIPE
    console.print(table)
