"""Where checkpoints can be kept: folders and object stores, and what their addresses must not hold."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from lic.files import shown, user_path
from search.settings.complaints import ConfigError

_SECRET = re.compile(r"key|secret|token|password|credential", re.IGNORECASE)

#: The variables that an object store's credentials are read from, by its scheme.
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
}


def storage_address(value: str) -> str:
    """The absolute path of a folder, or the URL of a place in an object store, from what --storage is given.
    Raises ConfigError if that is neither, or has a secret in it."""
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", value) or value.startswith("file:///"):
        try:
            return str(Path(user_path(value.removeprefix("file://"))).resolve())
        except ValueError as error:
            raise ConfigError(f"storage {shown(value)} cannot be used: {error}") from None
    try:
        parts = urlsplit(value)
    except ValueError as error:
        raise ConfigError(f"storage {shown(value)} cannot be used: it is no address ({error})") from None
    secret = any(_SECRET.search(key) for key, _ in parse_qsl(parts.query, keep_blank_values=True))
    if secret or "@" in value.removeprefix("gs://anonymous@"):
        names = CREDENTIALS.get(parts.scheme, CREDENTIALS["s3"])
        raise ConfigError(
            "the address of --storage has a key or an account in it, which files and logs would show; leave "
            f"it out and set {names} in the environment of every node"
        )
    if parts.scheme not in CREDENTIALS or not parts.netloc:
        raise ConfigError(
            f"storage {shown(value)} is none that checkpoints can be kept in; --storage takes a folder, "
            "s3://bucket/prefix or gs://bucket/prefix"
        )
    return urlunsplit(parts._replace(path=parts.path.rstrip("/")))
