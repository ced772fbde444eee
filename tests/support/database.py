"""PostgreSQL for tests: a server of its own, started as the user postgres, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dashboards.servers import HOST, usable_port

_FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))

#: Why no server can be started; empty if one can.
MISSING = (
    "" if _FOUND and os.geteuid() == 0 and shutil.which("runuser")
    else "PostgreSQL's server is not here; apt-get install postgresql, and run as root"
)  # fmt: skip


@dataclass
class Database:
    """A server at an address, its files in `folder`, which the user postgres must be able to reach. `within`
    makes a command one that runs where the server is to be (a network namespace)."""

    folder: Path
    address: str
    port: int
    password: str
    within: Callable[[list[str]], list[str]] = list

    def url(self, name: str, with_password: bool = False) -> str:
        secret = f":{self.password}" if with_password else ""
        return f"postgresql+psycopg://postgres{secret}@{self.address}:{self.port}/{name}"

    def create(self, *names: str) -> None:
        """Make the server's files, start it, and create databases."""
        data = self.folder / "postgres"
        data.mkdir()
        shutil.chown(data, "postgres")
        secret = self.folder / "secret"
        secret.write_text(self.password)
        secret.chmod(0o644)
        self._run("initdb", "-D", str(data), "-A", "scram-sha-256", f"--pwfile={secret}", "-N")
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet scram-sha-256\n")
        self.start()
        for name in names:
            self._run("createdb", "-h", self.address, "-p", str(self.port), "-U", "postgres", name)

    def start(self) -> None:
        data = self.folder / "postgres"
        options = f"-h {self.address} -p {self.port} -k {data}"
        self._run("pg_ctl", "-D", str(data), "-l", f"{data}/log", "-w", "-o", options, "start")

    def stop(self) -> None:
        """Without waiting for clients, whose connections break."""
        self._run("pg_ctl", "-D", str(self.folder / "postgres"), "-w", "-m", "fast", "stop")

    def _run(self, program: str, *words: str) -> None:
        command = ["runuser", "-u", "postgres", "--", str(_FOUND[-1].parent / program), *words]
        done = subprocess.run(
            self.within(command), capture_output=True, text=True, timeout=60, check=False, cwd="/",
            stdin=subprocess.DEVNULL, env={**os.environ, "PGPASSWORD": self.password},
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr}{done.stdout}")


@contextlib.contextmanager
def temporary_database(*names: str) -> Iterator[Database]:
    """A server on this machine with databases of these names, gone afterwards."""
    # Not a port that the system gives to clients: such a client can meet itself while the server is away.
    port = next(port for port in random.sample(range(15000, 30000), 100) if usable_port(port) == port)
    folder = Path(tempfile.mkdtemp(prefix="lictune-database-"))
    folder.chmod(0o755)
    made = Database(folder, HOST, port, secrets.token_hex(16))
    try:
        made.create(*names)
        yield made
        made.stop()
    finally:
        shutil.rmtree(folder)
