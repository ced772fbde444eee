"""An S3 server for tests: moto's, on a port of its own, with one bucket, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarrow.fs import S3FileSystem

#: That of this environment, not another that happens to be on the path.
_SERVER = Path(sys.executable).with_name("moto_server")

#: Why no server can be started; empty if one can.
MISSING = "" if _SERVER.is_file() else "moto is not here; make .venv installs it"

BUCKET = "lictune"
KEY, SECRET = "AKIATESTTESTTESTTEST", "a-secret-that-nobody-may-see"

#: What a client finds its account by. Amazon's own machines are not asked for one.
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
}  # fmt: skip


@dataclass(frozen=True)
class ObjectStore:
    endpoint: str

    def url(self, path: str) -> str:
        """The address of a place in the bucket, its endpoint in it."""
        return f"s3://{BUCKET}/{path}?endpoint_override={self.endpoint}"

    def client(self) -> S3FileSystem:
        return S3FileSystem(
            access_key=KEY, secret_key=SECRET, region="us-east-1", endpoint_override=self.endpoint,
            allow_bucket_creation=True,
        )  # fmt: skip


@contextlib.contextmanager
def object_store(with_accounts: bool = False) -> Iterator[ObjectStore]:
    """A server; `with_accounts` it refuses whoever has none, after the bucket is made."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rule = {"INITIAL_NO_AUTH_ACTION_COUNT": "1"} if with_accounts else {}
    server = subprocess.Popen(
        [str(_SERVER), "-H", "127.0.0.1", "-p", str(port)], env={**os.environ, **rule},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        store = ObjectStore(f"http://127.0.0.1:{port}")
        until = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{store.endpoint}/moto-api/", timeout=5).close()
                break
            assert server.poll() is None and time.monotonic() < until, "moto's server does not start"
            time.sleep(0.2)
        made = urllib.request.Request(f"{store.endpoint}/{BUCKET}", method="PUT")
        urllib.request.urlopen(made, timeout=10).close()
        yield store
    finally:
        server.terminate()
        server.wait()
