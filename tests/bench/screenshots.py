"""Pictures of a search for the documentation, as a browser shows it: leaderboard.png and report.png.

    python -m tests.bench.screenshots SEARCH docs --only leaderboard

MLflow's assistant, which opens beside the table in a fresh profile, is left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dashboards.links import serve
from dashboards.servers import Servers
from search.records.folder import open_search
from tests.support.browser import MISSING, chromium, fresh_page

WITHOUT_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"

#: Per picture its size in pixels, and what has to be drawn before it is taken.
PICTURES = {
    "leaderboard": (1840, 900, ".ag-center-cols-container .ag-row [col-id^='metrics.']"),
    "report": (1200, 1000, "#rungs .points path"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("search", help="a search's folder")
    parser.add_argument("out", type=Path, help="folder of the pictures")
    parser.add_argument("--only", choices=PICTURES, help="this one (default: both)")
    args = parser.parse_args()
    if MISSING:
        print(MISSING, file=sys.stderr)
        return 2
    search = open_search(args.search, Path("results"), with_model=False)
    with Servers() as servers, chromium() as browser:
        links = serve(search, servers, 5000, 8080)
        for name in [args.only] if args.only else PICTURES:
            width, height, drawn = PICTURES[name]
            page, _ = fresh_page(browser, width, height)
            page.add_init_script(WITHOUT_ASSISTANT)
            page.goto(links[name])
            page.locator(drawn).first.wait_for()
            page.wait_for_timeout(2000)  # milliseconds; what moves comes to rest
            page.screenshot(path=args.out / f"{name}.png", full_page=name == "report")
            print(f"wrote {args.out / name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
