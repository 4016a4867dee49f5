"""Every executed page can be downloaded as a Jupyter notebook: a link under its title, and the file that it leads to."""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any

import jupytext
from docutils import nodes
from sphinx.application import Sphinx

FOLDER = "_notebooks"
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)\.md(#[^)\s]*)?\)")


def is_notebook(app: Sphinx, docname: str) -> bool:
    """Say whether the page has cells, and is not the landing page."""
    return "kernelspec" in app.env.metadata[docname] and docname != app.config.root_doc


def add_link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put a link to the notebook under the title of its page."""
    if app.builder.format != "html" or not is_notebook(app, docname):
        return
    title = next(doctree.findall(nodes.title))
    target = join("../" * docname.count("/"), FOLDER, f"{docname}.ipynb")
    link = nodes.reference("", "Download this page as a notebook", refuri=target, internal=False)
    paragraph = nodes.paragraph("", "", link, classes=["notebook-download"])
    title.parent.insert(title.parent.index(title) + 1, paragraph)


def write_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Convert the pages; links to other pages become links to the site."""
    if exception or app.builder.format != "html":
        return
    for docname in app.env.found_docs:
        if not is_notebook(app, docname):
            continue

        def to_site(link: re.Match[str], folder: str = dirname(docname)) -> str:
            page = normpath(join(folder, link[1]))
            return f"]({app.config.html_baseurl}{page}.html{link[2] or ''})"

        notebook = jupytext.read(Path(app.env.doc2path(docname)), fmt="md:myst")
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = LINK.sub(to_site, cell.source)
        path = Path(app.outdir, FOLDER, f"{docname}.ipynb")
        path.parent.mkdir(parents=True, exist_ok=True)
        jupytext.write(notebook, path)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect both to the build."""
    app.connect("doctree-resolved", add_link)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
