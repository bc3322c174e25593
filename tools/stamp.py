"""Is an output still that of the code? A stamp over every definition that the code reaches.

From a starting name (a recipe's ``run``) or a chapter's cells, references are followed by name through the
syntax trees of the package: functions, classes, constants, and the data files that they name. What was
reached is hashed without docstrings, comments and layout, so only a change that can alter a result changes
the stamp. Objects made at run time from strings (``getattr``, ``import_module``) are not followed.
"""

import ast
import hashlib
import json
import re
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LISTINGS = {"manifest.json"}  # lists the data files, each of which counts by itself
FILE_NAME = re.compile(r"[\w-][\w./-]*\.\w+")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Module:
    """The syntax tree of one module: its definitions, its imports, and its other statements."""

    def __init__(self, source: str, name: str, path: Path):
        self.name, self.path = name, path
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.tree = _without_docstrings(ast.parse(source, str(path)))

    @cached_property
    def definitions(self) -> dict[str, list[ast.stmt]]:
        """Statements that define each top-level name; those that define none are under the name ``*``."""
        found: dict[str, list[ast.stmt]] = {}
        for statement in self.tree.body:
            if not isinstance(statement, ast.Import | ast.ImportFrom):
                for name in bound_names(statement) or ["*"]:
                    found.setdefault(name, []).append(statement)
        return found

    @cached_property
    def imports(self) -> dict[str, str]:
        """What each imported name stands for, as a dotted name."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    local = alias.asname or alias.name.partition(".")[0]
                    found[local] = alias.name if alias.asname else local
            elif isinstance(node, ast.ImportFrom):
                parents = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
                base = ".".join([*(parents if node.level else []), *filter(None, [node.module])])
                found.update({alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names})
        return found

    def references(self, node: ast.AST) -> set[str]:
        """Dotted names that a piece of this module refers to."""
        found = set()
        for name in _names(node):
            first, _, rest = name.partition(".")
            if first in self.imports:
                found.add(f"{self.imports[first]}.{rest}".rstrip("."))
            elif first in self.definitions:
                found.add(f"{self.name}.{first}")
        return found

    def files(self, node: ast.AST) -> list[Path]:
        """Files beside this module that a piece of it names."""
        texts = {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)}
        names = sorted(text for text in texts if isinstance(text, str) and FILE_NAME.fullmatch(text))
        paths = [self.path.parent / name for name in names if name not in LISTINGS]
        return [path for path in paths if path.is_file()]


def reached(starts: set[str], root: Path = ROOT, skip: str = "") -> dict[str, str]:
    """Return what is reached from dotted names: each definition's canonical text, each file's SHA-256.

    Args:
        starts: dotted names, for example ``{"mmtutor.experiments.contrastive.run"}``.
        root: the folder that holds the package.
        skip: a dotted name whose own text does not count, though what it refers to does.
    """
    load = cache(lambda name: _load(name, root))
    found: dict[str, str] = {}
    waiting, seen = set(starts), set()
    while waiting:
        dotted = waiting.pop()
        seen.add(dotted)
        module, name = _locate(dotted, load)
        if module is None:
            continue
        if name in module.imports and name not in module.definitions:
            rest = dotted.removeprefix(f"{module.name}.{name}")
            waiting |= {module.imports[name] + rest} - seen
            continue
        # a module as a whole (or a name that it makes at run time) stands for all that it defines
        for key in [name, "*"] if name in module.definitions else module.definitions:
            statements = module.definitions.get(key, [])
            for statement in statements:
                waiting |= module.references(statement) - seen
                for path in module.files(statement):
                    found[path.relative_to(root).as_posix()] = _sha(path.read_bytes())
            if statements and f"{module.name}.{key}" != skip:
                found[f"{module.name}.{key}"] = " ".join(map(canonical, statements))
    return found


def run_stamps(recipe: str, rows: dict[str, dict], root: Path = ROOT) -> dict[str, str]:
    """Return the stamp of each row of a recipe: the code its ``run`` reaches, and the row's own settings."""
    name = f"mmtutor.experiments.{recipe}"
    code = reached({f"{name}.run"}, root, skip=f"{name}.ROWS")
    stamps = {}
    for row, settings in rows.items():
        text = json.dumps(
            settings, sort_keys=True, default=lambda item: getattr(item, "__qualname__", str(item))
        )
        stamps[row] = _sha(json.dumps({**code, "settings": text}, sort_keys=True).encode())[:16]
    return stamps


def chapter_stamp(cells: list[str], scale: str, root: Path = ROOT) -> str:
    """Return the stamp of a chapter: its code cells, the code they reach, the ledgers they read.

    Args:
        cells: source of each code cell, in order.
        scale: "cpu" or "gpu", which decides the ledger that ``recorded`` opens: that of "cpu" where there is
            none at "gpu".
        root: the folder that holds ``mmtutor`` and ``results``.
    """
    source = "\n".join(re.sub(r"(?m)^\s*[%!].*$", "", cell) for cell in cells)
    chapter = Module(source, "chapter", root / "chapter.py")
    parts = reached(chapter.references(chapter.tree), root)
    parts["cells"] = canonical(chapter.tree)
    for name in recorded_ledgers(chapter.tree):
        paths = [root / "results" / f"{name}-{size}.json" for size in (scale, "cpu")]
        there = [_sha(path.read_bytes()) for path in paths if path.exists()]
        parts[f"ledger {name}"] = there[0] if there else "not run"
    return _sha(json.dumps(parts, sort_keys=True).encode())[:16]


def recorded_ledgers(tree: ast.AST) -> set[str]:
    """Return the names that a piece of code gives to ``recorded(...)``."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    calls = [call for call in calls if _dotted(call.func).rpartition(".")[2] == "recorded"]
    return {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}


def bound_names(statement: ast.stmt) -> list[str]:
    """Return the names that a top-level statement defines, also inside ``if``, ``try`` and ``with``."""
    if isinstance(statement, DEFINITIONS):
        return [statement.name]
    inner = [node for node in ast.walk(statement) if isinstance(node, DEFINITIONS)]
    stores = [
        node for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    return sorted({node.name for node in inner} | {node.id for node in stores})


def canonical(node) -> str:
    """Return a syntax tree as text that does not depend on layout, nor on the version of Python."""
    if isinstance(node, ast.AST):
        fields = [
            (key, value) for key, value in ast.iter_fields(node) if value not in (None, []) and key != "kind"
        ]
        return f"{type(node).__name__}({','.join(f'{key}={canonical(value)}' for key, value in fields)})"
    return f"[{','.join(map(canonical, node))}]" if isinstance(node, list) else ascii(node)


def _locate(dotted: str, load) -> tuple[Module | None, str]:
    """The module in which a dotted name is found, and its name there ("" for the module as a whole)."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        module = load(".".join(parts[:n]))
        if module:
            return module, parts[n] if n < len(parts) else ""
    return None, ""


def _load(name: str, root: Path) -> Module | None:
    path = root.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return Module(file.read_text(encoding="utf-8"), name, file)
    return None


def _names(node: ast.AST) -> set[str]:
    """Names and longest dotted names in a piece of code."""
    dotted = _dotted(node)
    if dotted:
        return {dotted}
    return {name for child in ast.iter_child_nodes(node) for name in _names(child)}


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (start := _dotted(node.value)):
        return f"{start}.{node.attr}"
    return ""


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in [tree, *(n for n in ast.walk(tree) if isinstance(n, DEFINITIONS))]:
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
