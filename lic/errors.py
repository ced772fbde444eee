"""The base of the errors that a command answers with one sentence; it imports nothing."""

from __future__ import annotations


class LictuneError(ValueError):
    """Something that the user can mend; the message is one sentence: what, which value, and what to do."""


class StorageError(LictuneError):
    """A storage that cannot be used; one sentence with its address and what to do."""
