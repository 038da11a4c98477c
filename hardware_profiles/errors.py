"""What is wrong with a profile, in parts that a caller can put into its own message."""

from __future__ import annotations


class ProfileError(ValueError):
    """A quantity, a name or a profile file is not acceptable.

    Parameters
    ----------
    message
        What is wrong, as one sentence.
    file, line
        Where it stands; None where there is no file.
    key
        Dotted path of the offending key, "" if none.
    value
        The offending value; Ellipsis where there is none to show.
    allowed
        What would have been accepted, "" if that cannot be said shortly.
    hint
        What to do about it.
    """

    def __init__(  # noqa: PLR0913 - each part of a message is optional and named
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        key: str = "",
        value: object = ...,
        allowed: str = "",
        hint: str = "",
    ) -> None:
        self.message = message
        self.file = file
        self.line = line
        self.key = key
        self.value = value
        self.allowed = allowed
        self.hint = hint
        super().__init__(self._rendered())

    def without_place(self) -> str:
        """Return the message without file, line and key."""
        text = self.message
        if self.value is not ...:
            text += f"; got {repr(self.value)[:120]}"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        return f"{text}. {self.hint}" if self.hint else text

    def _rendered(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return ": ".join(part for part in (place, self.key, self.without_place()) if part)
