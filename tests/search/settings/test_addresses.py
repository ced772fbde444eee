"""Where checkpoints can be kept, and what an address must not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.settings.addresses import storage_address
from search.settings.complaints import ConfigError
from search.settings.config import resolve
from search.store import checkpoints as module

SECRETS = [
    "s3://AKIAhunter:hunter2@bucket/x", "s3://AKIAhunter@bucket/x",
    "s3://AKIAhunter:hun/ter2@bucket/x", "s3:/AKIAhunter:hunter2@bucket",
    "s3://bucket/x?secret_key=hunter2", "s3://bucket/x?access_key=hunter2", "gs://me:hunter2@bucket",
    "s3://bucket/x?session_token=hunter2", "ftp://me:hunter2@host/x",
    "s3://bucket/x?endpoint_override=http://me:hunter2@host",
]  # fmt: skip


@pytest.mark.parametrize("address", SECRETS)
def test_a_secret_in_the_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve({"storage": address}, {}, lambda _: 0)
    told = str(raised.value)
    variables = "GOOGLE_APPLICATION_CREDENTIALS" if address.startswith("gs") else "AWS_SECRET_ACCESS_KEY"
    assert variables in told and "\n" not in told
    assert "hun" not in told and "ter2" not in told


@pytest.mark.parametrize(
    "address", ["ftp://host/x", "s3:/bucket/x", "s3://", "https://bucket.s3.amazonaws.com"]
)
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"--storage takes a folder, s3://bucket/prefix or gs://bucket"):
        storage_address(address)


def test_an_address_has_one_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage_address("here/there/") == storage_address(f"file://{tmp_path}/here/there")
    assert storage_address("s3://bucket/x/?region=eu-west-1") == "s3://bucket/x?region=eu-west-1"
    assert storage_address("gs://anonymous@bucket/x") == "gs://anonymous@bucket/x"
    assert module._open("gs://bucket/x")[1] == "bucket/x"
