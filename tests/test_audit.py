"""The audit of the pinned packages, against a service that knows one vulnerability."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import audit

VULNERABILITY = {
    "id": "PYSEC-1", "aliases": ["CVE-1"], "summary": "it is bad",
    "affected": [
        {
            "package": {"name": "second", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.1"}]}],
        }
    ],
}  # fmt: skip


class _Advisories(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {"vulns": [VULNERABILITY]} if asked["package"]["name"] == "second" else {}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def service() -> Iterator[tuple[str, ...]]:
    """The options of pip-audit that name it."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Advisories) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield _at(server.server_port)
        server.shutdown()


def _at(port: int) -> tuple[str, ...]:
    return ("--vulnerability-service", "osv", "--osv-url", f"http://127.0.0.1:{port}/v1/query")


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    pins = [
        f"{name}==2.0 \\\n    --hash=sha256:{64 * '0'}\n    # via lictune\n" for name in ("first", "second")
    ]
    (tmp_path / "requirements.lock").write_text("# made by make lock\n" + "".join(pins))
    return tmp_path / "requirements.lock"


def test_a_known_vulnerability_fails_unless_it_is_accepted(
    lock: Path, service: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.audit(lock, [_at(9), service], {}) == 1  # nothing answers at the first
    printed = capsys.readouterr().out
    assert "second 2.0: CVE-1 PYSEC-1, fixed in 2.1" in printed
    assert "audit: 1 known vulnerabilities in 2 packages" in printed
    assert audit.audit(lock, [service], {"CVE-1": "it is never called"}) == 0
    assert "audit: 0 known vulnerabilities in 2 packages\n" in capsys.readouterr().out


def test_it_says_that_it_was_not_done(
    lock: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert audit.audit(lock, [_at(9)], {}) == 0
    assert capsys.readouterr().out.startswith("audit: NOT DONE")
    # What pip-audit says, and calls free of vulnerabilities, where an index has no advisories.
    monkeypatch.setattr(audit, "_ask", lambda *_: [{"name": "first", "skip_reason": "not found"}])
    assert audit.audit(lock, [_at(9)], {}) == 0
    assert capsys.readouterr().out.startswith("audit: NOT DONE")


def test_every_accepted_vulnerability_has_a_reason() -> None:
    assert all(len(reason) > 20 for reason in audit.ACCEPTED.values())
