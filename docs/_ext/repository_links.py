"""Links of the pages to files of the repository lead somewhere on the site, too.

The pages are read in the repository, too, and link to files there: `../src/xattn/losses/ranking.py`. On the site such
a link leads to the module's place in the API reference, if it has one; to the page that includes the file, if there is
one; else to a download of the file. A folder keeps its name without a link. A path that does not exist is an error of
the build.
"""

import posixpath
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

INCLUDED = {
    "README.md": "start",
    "benchmarks/README.md": "benchmarks",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
}
"""Pages that stand elsewhere in the repository, with the page of the site that includes them."""


class RepositoryLinks(SphinxTransform):
    """While a page is read: give each link to a file of the repository its place."""

    default_priority = 400

    def apply(self, **kwargs: object) -> None:
        """Replace pending references and downloads whose target is a path."""
        links = [*self.document.findall(addnodes.pending_xref), *self.document.findall(addnodes.download_reference)]
        for link in links:
            target = link["reftarget"].partition("#")[0]
            if link.get("reftype") != "myst" or link.get("refdomain") == "doc" or not target:
                continue
            path = self._path(target)
            if path in INCLUDED and INCLUDED[path] in self.env.found_docs:
                link.replace_self(self._page(link, INCLUDED[path]))
            elif path is None or (self._root / path).is_dir():
                # What is missing stays as it is, and MyST warns of it.
                if path is not None:
                    link.replace_self(link[0].deepcopy())
            else:
                download = addnodes.download_reference("", "", reftarget=f"/../{path}", refdoc=self.env.docname)
                download["repository_path"] = path
                download += [child.deepcopy() for child in link.children]
                link.replace_self(download)

    @property
    def _root(self) -> Path:
        return Path(self.env.srcdir).parent

    def _path(self, target: str) -> str | None:
        """The path from the root of the repository; a page that the site includes counts from where it stands there."""
        places = {page: posixpath.dirname(path) for path, page in INCLUDED.items()}
        folder = places.get(self.env.docname, posixpath.join("docs", posixpath.dirname(self.env.docname)))
        path = posixpath.normpath(posixpath.join(folder, target))
        return path if not path.startswith("..") and (self._root / path).exists() else None

    def _page(self, link: nodes.Element, page: str) -> nodes.Element:
        _, _, anchor = link["reftarget"].partition("#")
        reference = addnodes.pending_xref(
            "",
            refdomain="doc",
            reftarget=page,
            reftargetid=anchor or None,
            refdoc=self.env.docname,
            reftype="myst",
            refexplicit=True,
        )
        reference += [child.deepcopy() for child in link.children]
        return reference


class ModuleLinks(SphinxPostTransform):
    """When all pages are read: a link to a module's file leads to the module in the API reference."""

    default_priority = 8

    def run(self, **kwargs: object) -> None:
        """Replace downloads of documented modules by references to them."""
        modules = self.env.domaindata["py"]["modules"]
        for link in list(self.document.findall(addnodes.download_reference)):
            path = link.get("repository_path", "")
            name = path.removeprefix("src/").removesuffix(".py").replace("/", ".")
            if name in modules:
                entry = modules[name]
                builder = self.app.builder
                link.replace_self(
                    make_refnode(builder, self.env.docname, entry.docname, entry.node_id, list(link.children))
                )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_transform(RepositoryLinks)
    app.add_post_transform(ModuleLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
