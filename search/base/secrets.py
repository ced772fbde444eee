"""Passwords and other secrets, which no file, log or message is to show."""

from __future__ import annotations

import logging
import re

#: The password of an address, which may hold '/' and '@' (SQLAlchemy takes both), and even blanks, unless it
#: could be a port that text follows.
_PASSWORD = re.compile(r"(//[^:/@\s]*):(?:\S*|(?!\d+\b)(?:(?!//)[^@\n])*)@")

#: What is given as a secret by name: in the query of an address, or as a variable.
_NAMED = re.compile(
    r"((?:password|passwd|secret|token|credential|access_?key|api_?key)[\w.-]*=)[^&\s'\"]+", re.IGNORECASE
)


def public(text: str) -> str:
    """The text with the passwords of its addresses, and secrets given by name, hidden; rather too much of it
    than too little."""
    return _NAMED.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


class PublicFormatter(logging.Formatter):
    """Log records as they may be shown, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return public(super().format(record))
