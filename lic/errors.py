"""The base class of errors that a command reports in one sentence; imports nothing."""

from __future__ import annotations


class LictuneError(ValueError):
    """An error that the user can fix; the message is one sentence: what is wrong, with which value, and what
    to do."""


class StorageError(LictuneError):
    """A storage cannot be used; the message has its address and what to do."""
