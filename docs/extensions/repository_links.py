# SPDX-License-Identifier: GPL-3.0-or-later
"""Links of a page to files of the repository that are not pages: shown as the file's path.

Pages are read in a checkout as well, where ``[deploy/](../deploy/)`` leads to the folder. The site has no such file. A link to
something that does not exist stays as it is, and Sphinx warns about it.
"""

from pathlib import Path

from docutils import nodes
from sphinx import addnodes


def show_paths(app, document):
    """Replaces the links of a page that lead to a file or folder of the repository outside the site."""
    site = Path(app.srcdir).resolve()
    folder = Path(app.env.doc2path(app.env.docname)).resolve().parent
    for link in list(document.findall(addnodes.pending_xref)):
        target = link.get("reftarget", "").partition("#")[0]
        path = (folder / target).resolve()
        if link.get("reftype") == "myst" and target and site.parent in path.parents and site not in path.parents and path.exists():
            link.replace_self(_shown(link, path, site.parent))


def _shown(link, path, root):
    """The text of the link, and the path in brackets where the text does not say it."""
    where, text = str(path.relative_to(root)) + ("/" if path.is_dir() else ""), link.astext()
    if where.rstrip("/") in text:
        return [nodes.literal(text, text)]
    return [*(child.deepcopy() for child in link.children), nodes.Text(" ("), nodes.literal(where, where), nodes.Text(")")]


def setup(app):
    app.connect("doctree-read", show_paths)
    return {"parallel_read_safe": True}
