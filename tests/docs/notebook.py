"""The tutorial's notebook: `python -m tests.docs.notebook` runs it and keeps what it shows.

`docs/tutorial.ipynb` holds its outputs, so that it can be read without being run. The site shows it as a page
of Markdown (`page`), made when the site is built.
"""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "tutorial.ipynb"

#: Seconds that a cell may take: the search is one of them.
_PATIENCE = 600


def read() -> NotebookNode:
    """The notebook as it is kept."""
    return nbformat.read(NOTEBOOK, as_version=4)


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run every cell in this folder, in a kernel of this Python; the notebook with its outputs. Raises
    nbclient's CellExecutionError."""
    root = str(NOTEBOOK.parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    client = NotebookClient(
        notebook, timeout=_PATIENCE, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute(env={**os.environ, "PYTHONPATH": path})


def page(notebook: NotebookNode) -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown, and its pictures by name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            parts.append(_shown(output, pictures))
    return "\n\n".join(filter(None, parts)) + "\n", pictures


def _shown(output: NotebookNode, pictures: dict[str, bytes]) -> str:
    if output.output_type == "stream":
        return f"```text\n{output.text.rstrip()}\n```"
    data: Any = output.get("data", {})
    if "image/png" in data:
        name = f"tutorial-{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(data["image/png"])
        return f"![]({name})"
    if "text/html" in data:  # a table of pandas, whose own style the site has no use for
        table = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
        return re.sub(r"\n\s*", "\n", table).strip()
    return f"```text\n{data['text/plain']}\n```" if "text/plain" in data else ""


def main() -> None:
    """Run the notebook in an empty folder and write it with its outputs."""
    with TemporaryDirectory() as folder:
        done = execute(read(), Path(folder))
    for cell in done.cells:
        cell.metadata.clear()  # when each cell ran
        if cell.cell_type == "code":  # warnings name this machine's folders
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    done.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    nbformat.write(done, NOTEBOOK)


if __name__ == "__main__":
    main()
