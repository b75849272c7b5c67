"""Small plots as inline SVG. Colours are classes of the page's style sheet, so that they follow light and dark.

Whatever text comes in is escaped here; the results are safe to put into a page as they are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 480.0, 290.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 20.0, 12.0, 42.0
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)
_TICKS = 5

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """One axis of a plot."""

    low: float
    """Value at the left or lower end."""
    high: float
    """Value at the other end; larger than `low`."""
    label: str
    percent: bool = False
    """Write ticks as percent; values are shares."""
    log: bool = False
    """Logarithmic; `low` is positive then."""
    at: tuple[float, ...] | None = None
    """Where ticks stand; None: at round values."""

    def place(self, value: float) -> float:
        """Return where `value` lies between the ends, in [0, 1]; what lies outside is put at the nearer end."""
        if self.log:
            value = max(value, self.low)
            place = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            place = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, place))

    def ticks(self) -> list[tuple[float, str]]:
        """Return values and what is written at them."""
        values = list(self.at) if self.at is not None else round_values(self.low, self.high)
        return [(value, self._text(value)) for value in values]

    def _text(self, value: float) -> str:
        return f"{100 * value:.6g}\u00a0%" if self.percent else f"{value:.6g}"


def round_values(low: float, high: float) -> list[float]:
    """Return about five round values from `low` to `high`."""
    step = _step((high - low) / _TICKS)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def round_up(value: float) -> float:
    """Return the end of an axis with round ticks that is not smaller than the positive `value`."""
    step = _step(value / _TICKS)
    return round(step * math.ceil(value / step - 1e-9), 12)


def _step(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return next(round(nice * power, 12) for nice in _NICE if nice * power >= value * (1 - 1e-9))


class Plot:
    """A plot that is drawn piece by piece, in the order in which the pieces cover each other."""

    def __init__(self, x: Axis, y: Axis, label: str) -> None:
        """Begin with axes and grid.

        Args:
            x: the horizontal axis.
            y: the vertical axis.
            label: what the plot shows, in a sentence, for those who cannot see it.
        """
        self._x, self._y, self._label = x, y, label
        self._pieces: list[str] = []
        self._axes()

    def line(self, points: Sequence[Point], colour: str, *, dashed: bool = False) -> None:
        """Draw a line through the points."""
        path = " ".join(f"{'M' if n == 0 else 'L'}{self._at(point)}" for n, point in enumerate(points))
        self._add(f'<path class="line {colour}{" dashed" if dashed else ""}" d="{path}"/>')

    def band(self, low: Sequence[Point], high: Sequence[Point], colour: str) -> None:
        """Fill the area between two lines, pale."""
        path = " ".join(f"{'M' if n == 0 else 'L'}{self._at(p)}" for n, p in enumerate([*low, *reversed(high)]))
        self._add(f'<path class="band {colour}" d="{path}Z"/>')

    def dot(self, point: Point, colour: str, *, radius: float = 3.0, hollow: bool = False, title: str = "") -> None:
        """Draw a dot; `title` is shown when the pointer rests on it."""
        x, y = self._xy(point)
        kind = "hollow" if hollow else "dot"
        inner = f"<title>{escape(title)}</title>" if title else ""
        self._add(f'<circle class="{kind} {colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}">{inner}</circle>')

    def ring(self, point: Point, colour: str, radius: float = 8.0) -> None:
        """Draw a circle around a point."""
        x, y = self._xy(point)
        self._add(f'<circle class="ring {colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>')

    def whisker(self, start: Point, end: Point, colour: str) -> None:
        """Draw the line of an interval."""
        (x1, y1), (x2, y2) = self._xy(start), self._xy(end)
        self._add(f'<line class="whisker {colour}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def limit(self, value: float, text: str, *, vertical: bool) -> None:
        """Draw a dashed line across the plot at a limit, with its name."""
        if vertical:
            x, _ = self._xy((value, self._y.low))
            self._add(f'<line class="limit" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{HEIGHT - _BOTTOM}"/>')
            left = x > WIDTH / 2
            anchor, shift = ("end", -4) if left else ("start", 4)
            self._text(x + shift, HEIGHT - _BOTTOM - 6, text, anchor)
        else:
            _, y = self._xy((self._x.low, value))
            self._add(f'<line class="limit" x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" y2="{y:.1f}"/>')
            self._text(WIDTH - _RIGHT, y - 5 if y > _TOP + 16 else y + 14, text, "end")

    def render(self) -> Markup:
        """Return the SVG element."""
        head = f'<svg class="plot" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(self._label)}">'
        return Markup(head + "".join(self._pieces) + "</svg>")  # numbers and escaped text only

    def _axes(self) -> None:
        bottom = HEIGHT - _BOTTOM
        for value, text in self._y.ticks():
            _, y = self._xy((self._x.low, value))
            self._add(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" y2="{y:.1f}"/>')
            self._text(_LEFT - 7, y + 4, text, "end")
        for value, text in self._x.ticks():
            x, _ = self._xy((value, self._y.low))
            self._add(f'<line class="axis" x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}"/>')
            self._text(x, bottom + 18, text, "middle")
        self._add(f'<line class="axis" x1="{_LEFT}" y1="{bottom}" x2="{WIDTH - _RIGHT}" y2="{bottom}"/>')
        self._text(WIDTH - _RIGHT, HEIGHT - 5, self._x.label, "end")
        middle = (_TOP + bottom) / 2
        self._add(
            f'<text class="middle" transform="translate(11 {middle:g}) rotate(-90)">{escape(self._y.label)}</text>'
        )

    def _text(self, x: float, y: float, text: str, kind: str) -> None:
        self._add(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>')

    def _xy(self, point: Point) -> Point:
        x = _LEFT + self._x.place(point[0]) * (WIDTH - _LEFT - _RIGHT)
        y = HEIGHT - _BOTTOM - self._y.place(point[1]) * (HEIGHT - _TOP - _BOTTOM)
        return x, y

    def _at(self, point: Point) -> str:
        x, y = self._xy(point)
        return f"{x:.1f} {y:.1f}"

    def _add(self, piece: str) -> None:
        self._pieces.append(piece)
