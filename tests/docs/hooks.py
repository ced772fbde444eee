"""What mkdocs.yml has done to the pages when the site is built."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from tests.docs import notebook, reference


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The tutorial's notebook as a page, with its pictures; the notebook itself stays beside it."""
    text, pictures = notebook.page(notebook.read())
    download = "[Download this page as a notebook](tutorial.ipynb){ download }"
    files.append(File.generated(config, "tutorial.md", content=f"{text}\n{download}\n"))
    for name, content in pictures.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """With the generated parts, and with links to the notebook that lead to its page."""
    linked = re.sub(r"(\]\((?:\.\./)*tutorial)\.ipynb\)(?!\{)", r"\1.md)", markdown)
    return reference.filled(linked)
