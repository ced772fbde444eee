"""Storage locations of checkpoints: folders and object-store URLs, which must not contain secrets."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from lic.files import shown, user_path
from search.settings.complaints import ConfigError

_SECRET = re.compile(r"key|secret|token|password|credential", re.IGNORECASE)

#: The environment variables with an object store's credentials, by URL scheme.
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
}


def storage_address(value: str) -> str:
    """Resolve --storage to the absolute path of a folder or an object-store URL. Raises ConfigError if it is
    neither, or contains a secret."""
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", value) or value.startswith("file:///"):
        try:
            return str(Path(user_path(value.removeprefix("file://"))).resolve())
        except ValueError as error:
            raise ConfigError(f"invalid storage {shown(value)}: {error}") from None
    try:
        parts = urlsplit(value)
    except ValueError as error:
        raise ConfigError(f"invalid storage {shown(value)}: not a URL ({error})") from None
    secret = any(_SECRET.search(key) for key, _ in parse_qsl(parts.query, keep_blank_values=True))
    if secret or "@" in value.removeprefix("gs://anonymous@"):
        names = CREDENTIALS.get(parts.scheme, CREDENTIALS["s3"])
        raise ConfigError(
            "the URL of --storage contains a key or an account, which files and logs would show; remove it "
            f"and set {names} in the environment of every node"
        )
    if parts.scheme not in CREDENTIALS or not parts.netloc:
        raise ConfigError(
            f"unsupported storage {shown(value)}; --storage takes a folder, "
            "s3://bucket/prefix or gs://bucket/prefix"
        )
    return urlunsplit(parts._replace(path=parts.path.rstrip("/")))
