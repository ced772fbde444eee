"""Known vulnerabilities of the pinned packages, by pip-audit: python -m tests.audit

Fails on one that is not accepted below. Where no service that knows them answers, it says so and passes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"

#: Vulnerabilities that do no harm here, by identifier or alias, each with the reason.
ACCEPTED: dict[str, str] = {}

#: The services that are asked, the first that knows the packages; as options of pip-audit.
SERVICES = (("--vulnerability-service", "pypi"), ("--vulnerability-service", "osv"))

#: Seconds that a service has to answer for one package, and for all.
_PATIENCE, _LONG = 10, 300


def main() -> int:
    """Run the command; returns its exit status."""
    return audit(LOCK, SERVICES, ACCEPTED)


def audit(lock: Path, services: Sequence[Sequence[str]], accepted: dict[str, str]) -> int:
    """Audit the packages of a lock, and print what was found; 1 if that is a vulnerability."""
    for service in services:
        # pip-audit calls packages that the service does not know free of vulnerabilities.
        if _audited(_ask(_first(lock), service, _PATIENCE)) and (
            found := _ask(lock.read_text(), service, _LONG)
        ):
            return _report(found, accepted)
    print("audit: NOT DONE, no service that knows vulnerabilities answers; try again with a network")
    return 0


def _first(lock: Path) -> str:
    """The first package of the lock, with its hashes."""
    lines = [line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")]
    ends = next(number for number, line in enumerate(lines) if not line.endswith("\\"))
    return "\n".join(lines[: ends + 1]) + "\n"


def _ask(requirements: str, service: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """What pip-audit says of each package; nothing if the service does not answer."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        command = [
            sys.executable, "-m", "pip_audit", "--requirement", file.name, "--require-hashes",
            "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", str(_PATIENCE),
            *service,
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
            return list(json.loads(done.stdout)["dependencies"])
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            return []


def _audited(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [package for package in found if "skip_reason" not in package]


def _report(found: list[dict[str, Any]], accepted: dict[str, str]) -> int:
    bad, known = [], _audited(found)
    for package in known:
        for entry in package["vulns"]:
            names = {entry["id"], *entry["aliases"]}
            if not names & accepted.keys():
                fixed = ", ".join(entry["fix_versions"]) or "no version"
                bad.append(
                    f"{package['name']} {package['version']}: {' '.join(sorted(names))}, fixed in {fixed}"
                )
    print(*bad, sep="\n", end="\n" if bad else "")
    skipped = [package["name"] for package in found if package not in known]
    rest = f"; not audited: {', '.join(skipped)}" if skipped else ""
    print(f"audit: {len(bad)} known vulnerabilities in {len(known)} packages{rest}")
    if bad:
        print("audit: raise the pins (make lock), or add what does no harm to ACCEPTED in tests/audit.py")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
