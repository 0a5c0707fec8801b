"""Collects what is wrong with a request, so that a caller learns all of it at once."""

from __future__ import annotations

from klinecast.errors import FieldViolation, InvalidArgument

MAX_REPORTED = 50


class Violations:
    """The bad fields of one request, in the order they were found."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def found(self) -> tuple[FieldViolation, ...]:
        """What was found so far."""
        return tuple(self._found)

    def add(self, field: str, description: str) -> None:
        """Note one bad field."""
        self._found.append(FieldViolation(field, description))

    def check(self, ok: bool, field: str, description: str) -> bool:
        """Note the field unless ok; return ok."""
        if not ok:
            self.add(field, description)
        return ok

    def check_text(self, text: str, field: str, *, most: int) -> bool:
        """Note the field unless its text is short and printable: no NUL, no marks that turn a line around."""
        return self.check(len(text) <= most and text.isprintable(), field, f"must be up to {most} printable characters")

    def raise_if_any(self, *, reason: str | None = None) -> None:
        """Raise InvalidArgument with the first 50 violations, or return when there are none."""
        if self._found:
            raise InvalidArgument.of(*self._found[:MAX_REPORTED], reason=reason)
