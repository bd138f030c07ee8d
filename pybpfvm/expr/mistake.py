"""What is wrong with an expression, and where in it."""

from __future__ import annotations

from pybpfvm.errors import InputError


class ExpressionError(InputError):
    """`text[start:end]` can not be understood, or has no value. `picture` shows where."""

    def __init__(
        self,
        reason: str,
        *,
        text: str,
        start: int,
        end: int,
        remedy: str = "",
        where: str = "",
    ) -> None:
        self.text, self.start, self.end = text, start, end
        self._place = where
        column = f"column {start + 1}"
        super().__init__(reason, where=f"{where}, {column}" if where else column, remedy=remedy)

    def inside(self, place: str) -> ExpressionError:
        """As for every InputError."""
        return ExpressionError(
            self.reason,
            text=self.text,
            start=self.start,
            end=self.end,
            remedy=self.remedy,
            where=f"{place}: {self._place}" if self._place else place,
        )

    @property
    def picture(self) -> str:
        """The expression as one line, and carets below what is wrong."""
        line = "".join(one if one.isprintable() else " " for one in self.text)
        carets = "^" * max(min(self.end, len(line)) - self.start, 1)
        return f"{line}\n{' ' * self.start}{carets}"


class Mistake(Exception):
    """Something wrong at [start, end) of an expression whose text the raiser does not know."""

    def __init__(self, span: tuple[int, int], reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.span, self.reason, self.remedy = span, reason, remedy

    def of(self, text: str) -> ExpressionError:
        """The error, for an expression."""
        start, end = self.span
        return ExpressionError(self.reason, text=text, start=start, end=end, remedy=self.remedy)
