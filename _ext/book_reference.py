"""A reference of the package, read from its source without importing it: ``{reference}``."""

import ast
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

KINDS = (ast.FunctionDef, ast.ClassDef)


def signature(definition: ast.FunctionDef | ast.ClassDef) -> str:
    """Return ``name(arguments) -> result`` as written; for a class, the arguments of its ``__init__``."""
    if isinstance(definition, ast.FunctionDef):
        result = f" -> {ast.unparse(definition.returns)}" if definition.returns else ""
        return f"{definition.name}({ast.unparse(definition.args)}){result}"
    made_by = [node for node in definition.body if isinstance(node, KINDS) and node.name == "__init__"]
    arguments = ast.unparse(made_by[0].args).removeprefix("self").removeprefix(", ") if made_by else ""
    return f"{definition.name}({arguments})"


def public(tree: ast.Module) -> list:
    """Return the documented functions and classes of a module whose names do not start with ``_``."""
    named = [node for node in tree.body if isinstance(node, KINDS) and not node.name.startswith("_")]
    return [node for node in named if ast.get_docstring(node)]


def entry(module: str, definition) -> str:
    """One folded entry: the signature, the first line of the docstring, and below it the whole of it."""
    text = ast.get_docstring(definition)
    name = f"{module}.{definition.name}"
    return (
        f'<details class="mm-entry" id="{name}"><summary><code>{escape(signature(definition))}</code>'
        f"<span>{escape(text.splitlines()[0])}</span></summary><pre>{escape(text)}</pre></details>"
    )


def modules(package: Path) -> dict[str, ast.Module]:
    """Return the syntax tree of each module of a package by its dotted name, private ones left out."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        parts = [part for part in parts if part != "__init__"]
        if not any(part.startswith("_") for part in parts):
            found[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def public_names(package: Path) -> set[str]:
    """Return the dotted name of every function and class that the reference lists."""
    listed = ((module, public(tree)) for module, tree in modules(package).items())
    return {f"{module}.{definition.name}" for module, definitions in listed for definition in definitions}


class Reference(SphinxDirective):
    """List every public function and class of the package, module by module."""

    def run(self):
        self.env.note_reread()  # a module may have come since
        sections = []
        for module, tree in modules(Path(self.env.srcdir) / "mmtutor").items():
            entries = "".join(entry(module, definition) for definition in public(tree))
            if entries:
                section = nodes.section(ids=[nodes.make_id(module)], names=[module])
                section += nodes.title("", module)
                summary = (ast.get_docstring(tree) or "").split("\n\n")[0]
                section += nodes.paragraph("", summary)
                section += nodes.raw("", entries, format="html")
                sections.append(section)
        return sections


def setup(app):
    """Called by Sphinx."""
    app.add_directive("reference", Reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
