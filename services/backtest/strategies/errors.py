"""What can be wrong with the choice of a strategy."""

from __future__ import annotations

from collections.abc import Sequence


class UnknownStrategy(LookupError):  # noqa: N818 - named after what happened
    """No strategy has this name; `suggestions` are the nearest that exist."""

    def __init__(self, name: str, suggestions: Sequence[str], known: Sequence[str]) -> None:
        hint = f"did you mean {suggestions[0]}?" if suggestions else f"there are {', '.join(known)}"
        super().__init__(f"{name!r} is no strategy; {hint}")
        self.name = name
        self.suggestions = tuple(suggestions)


class RefusedStrategy(UnknownStrategy):
    """A strategy of this name is installed, and may not be used."""

    def __init__(self, name: str, why: str) -> None:
        LookupError.__init__(self, why)
        self.name = name
        self.suggestions = ()


class InvalidParams(ValueError):  # noqa: N818
    """Params of a strategy are wrong; `violations` lists (field, message) for each."""

    def __init__(self, violations: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {message}" if field else message for field, message in violations))
        self.violations = tuple(violations)
