"""Hides passwords and other secrets in files, logs and messages."""

from __future__ import annotations

import logging
import re

#: The password in a URL. It may contain '/' and '@' (SQLAlchemy accepts both) and even blanks, unless it
#: could be a port followed by text.
_PASSWORD = re.compile(r"(//[^:/@\s]*):(?:\S*|(?!\d+\b)(?:(?!//)[^@\n])*)@")

#: A secret given by name, in the query of a URL or as an environment variable.
_NAMED = re.compile(
    r"((?:password|passwd|secret|token|credential|access_?key|api_?key)[\w.-]*=)[^&\s'\"]+", re.IGNORECASE
)


def public(text: str) -> str:
    """The text with passwords in URLs and named secrets hidden; when in doubt, more is hidden."""
    return _NAMED.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


class PublicFormatter(logging.Formatter):
    """A log formatter that hides secrets, in tracebacks too."""

    def format(self, record: logging.LogRecord) -> str:
        return public(super().format(record))
