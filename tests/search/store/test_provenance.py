"""What may be shown of an address, a command line and a log."""

from __future__ import annotations

import logging
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from search.base.secrets import PublicFormatter, public
from search.tracking.tracker import first_line

SECRET = "s3cret"

_part = st.text(st.characters(exclude_categories=("C", "Z")), max_size=6)
_scheme = st.sampled_from(["http", "HTTPS", "postgresql+psycopg", "Redis", "mysql"])
_user = st.sampled_from(["", "user", "u%40x", "ü.-_"])
_host = st.sampled_from(["db", "127.0.0.1:5432", "[::1]:80/path?x=1", "h/p#f"])
_around = st.sampled_from(["", "the database at ", "--study ", "(", "'", "http://h:80 "])


@given(_around, _scheme, _user, _part, _part, _host)
@example("", "http", "user", "", "/@", "h")
@example("", "http", "user", "12/", "@", "h")
@example("", "http", "user", "%40", "", "h")
@example("", "http", "user", "my ", "", "h")
def test_no_password_of_an_address_is_shown(
    around: str, scheme: str, user: str, before: str, after: str, host: str
) -> None:
    address = f"{scheme}://{user}:{before}{SECRET}{after}@{host}"
    shown = public(f"{around}{address} and {address}, {address}")
    assert SECRET not in shown
    assert shown.startswith(f"{around}{scheme}://{user}:***@{host} and {scheme}://{user}:***@{host}")
    assert public(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql+psycopg:///db?host=h&user=u&password={SECRET}&sslmode=require",
        f"https://bucket.example/x?AccessKey=a&secret_key={SECRET}",
        f"http://h/x?token={SECRET}",
        f"PGPASSWORD={SECRET} AWS_SECRET_ACCESS_KEY={SECRET} python -m search.run",
    ],
)
def test_what_is_called_a_secret_is_not_shown(text: str) -> None:
    assert SECRET not in public(text)
    assert "sslmode=require" in public(text) or "sslmode" not in text


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/experiments/1, then mail a@b",
        "postgresql+psycopg://lictune@db:5432/optuna",
        "s3://bucket/prefix?endpoint_override=http://minio:9000",
        "model: cheng  # command line",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert public(text) == text


def test_a_log_shows_no_password_even_in_a_traceback() -> None:
    try:
        raise ConnectionError(f"http://user:{SECRET}@h is away")
    except ConnectionError as error:
        record = logging.LogRecord(
            "mlflow", logging.ERROR, "", 1, "asking %s", (f"http://u:{SECRET}@h",), sys.exc_info()
        )
        shown = first_line(error)
    assert shown == "http://user:***@h is away"
    text = PublicFormatter("%(message)s").format(record)
    assert SECRET not in text and "asking http://u:***@h" in text and "Traceback" in text
