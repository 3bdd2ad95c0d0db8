"""The arrows between layers, and what `core` must not do, read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "cairn"
SOURCE = Path(__file__).parent.parent / "src" / PACKAGE

MAY_IMPORT = {
    "core": {"core"},
    "hashing": {"hashing", "core"},
    "store": {"store", "core", "hashing"},
    "_plain": set(),
    "encoding": {"core", "_plain"},
    "report": {"core"},
    "proof": {"proof", "core"},
    "ledger": {"ledger", "core", "encoding", "report", "hashing", "store", "proof"},
    "bench": {"bench", "core", "encoding", "hashing", "store", "ledger"},
    "client": {"client", "core", "encoding", "report", "proof"},
    "logging": {"logging", "core", "encoding", "ledger", "client"},
    "lab": {"lab", "core", "report", "hashing", "store", "proof", "ledger"},
    "net": {"net", "core", "ledger"},
    "node": {"node", "core", "report", "hashing", "store", "proof", "ledger", "net"},
    "explorer": {"explorer", "core", "ledger"},
    "api": {
        "api",
        "core",
        "encoding",
        "report",
        "proof",
        "ledger",
        "lab",
        "net",
        "node",
        "explorer",
    },
    "__init__": {"core", "report", "proof", "ledger", "client"},
    "cli": {
        "cli",
        "core",
        "encoding",
        "report",
        "hashing",
        "store",
        "ledger",
        "proof",
        "bench",
        "lab",
        "net",
        "node",
        "api",
        "__init__",
    },
    "__main__": {"cli"},
}
"""Layer to layers. `__init__` is what `import cairn` gives to users; no layer but cli asks it."""

IMPURE = {
    "files and the machine": "os io sys pathlib shutil tempfile glob fileinput mmap fcntl platform",
    "a clock": "time datetime calendar zoneinfo locale",
    "chance": "random secrets uuid",
    "the network": "socket ssl select selectors http urllib ftplib smtplib socketserver",
    "concurrency": "threading _thread asyncio multiprocessing concurrent queue signal subprocess",
    "storage": "sqlite3 dbm shelve pickle marshal",
    "talk": "logging warnings traceback",
    "a way around this list": "importlib runpy ctypes gc atexit inspect",
    "floats": "math cmath statistics fractions decimal",
}
"""Standard library that `core` must do without: what it decides must follow from bytes alone."""
IMPURE_NAMES = {"open", "print", "input", "eval", "exec", "compile", "__import__", "breakpoint"}
IMPURE_NUMPY = {
    *("random", "load", "save", "savez", "memmap", "fromfile", "genfromtxt", "loadtxt", "savetxt"),
    *("float16", "float32", "float64", "longdouble", "floating", "true_divide", "divide"),
}
FLOATS_ALLOWED = {"core/canonical.py"}
"""JSON has doubles; nothing else may decide by them."""


def layer_of(path: Path, source: Path) -> str:
    return path.relative_to(source).parts[0].removesuffix(".pyi").removesuffix(".py")


def imports(tree: ast.AST, path: Path, source: Path) -> Iterator[tuple[int, str]]:
    """Yield line and absolute name of every import, wherever it stands."""
    package = [PACKAGE, *path.relative_to(source).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def target_layer(name: str, source: Path) -> str | None:
    """Return the layer that an import names, or None for what is not ours."""
    first, *rest = name.split(".")
    if first != PACKAGE:
        return None
    if rest and ((source / rest[0]).is_dir() or any(source.glob(f"{rest[0]}.py*"))):
        return rest[0]
    return "__init__"


def wrong_imports(source: Path) -> list[str]:
    """Return every import below `source` that goes against the arrows."""
    found = []
    for path in sorted(source.rglob("*.py")):
        shown = path.relative_to(source).as_posix()
        layer = layer_of(path, source)
        if layer not in MAY_IMPORT:
            found.append(f"{shown}: {layer} is no known layer")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        for line, name in imports(tree, path, source):
            target = target_layer(name, source)
            if target is not None and target not in MAY_IMPORT[layer]:
                found.append(f"{shown}:{line}: {layer} imports {name}")
            if layer == "core" and (reason := impure(name)):
                found.append(f"{shown}:{line}: core imports {name}, {reason}")
            if layer == "net" and (reason := acting(name)):
                found.append(f"{shown}:{line}: net imports {name}, {reason}")
    return found


def acting(name: str) -> str | None:
    """Return what a module does that the network must be given, or told: it only decides."""
    for what in ("files and the machine", "a clock", "the network", "concurrency", "talk"):
        if name.split(".")[0] in IMPURE[what].split():
            return f"which is {what}"
    if name.split(".")[0] in ("random", "secrets", "uuid") and name != "random.Random":
        return "which is chance that nobody has given it"
    return None


def impure(name: str) -> str | None:
    top, *rest = name.split(".")
    for what, names in IMPURE.items():
        if top in names.split():
            return f"which is {what}"
    if top == "numpy" and IMPURE_NUMPY.intersection(rest):
        return "which is not pure"
    if top not in {*sys.stdlib_module_names, "numpy", PACKAGE}:
        return "which is not in the standard library"
    return None


def wrong_acts(source: Path) -> list[str]:
    """Return where `core` does I/O by a built-in name, or calculates with floats."""
    found = []
    for path in sorted((source / "core").rglob("*.py")):
        shown = path.relative_to(source).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            line = getattr(node, "lineno", 0)
            what = acts(node, floats_allowed=shown in FLOATS_ALLOWED)
            found += [f"{shown}:{line}: {act}" for act in what]
    return found


def acts(node: ast.AST, *, floats_allowed: bool) -> Iterator[str]:
    if isinstance(node, ast.Name) and node.id in IMPURE_NAMES:
        yield f"{node.id} is not pure"
    if (
        isinstance(node, ast.Attribute)
        and node.attr in IMPURE_NUMPY
        and isinstance(node.value, ast.Name)
        and node.value.id in ("np", "numpy")
    ):
        yield f"np.{node.attr} is not pure"
    if floats_allowed:
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
        yield f"the float {node.value}"
    if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
        yield "a true division"
    if isinstance(node, ast.Name) and node.id in ("float", "complex"):
        yield f"the type {node.id}"


# The source


def test_imports_follow_the_arrows() -> None:
    assert wrong_imports(SOURCE) == []


def test_core_is_pure_and_calculates_with_integers_only() -> None:
    assert wrong_acts(SOURCE) == []


def test_every_layer_is_there_and_was_read() -> None:
    files = [*SOURCE.rglob("*.py"), *SOURCE.glob("*.pyi")]
    layers = {layer_of(path, SOURCE) for path in files}
    assert layers == set(MAY_IMPORT)
    assert len(list((SOURCE / "core").rglob("*.py"))) >= 12


def test_arrows_never_go_back() -> None:
    """Starting anywhere and following arrows, no layer leads back to itself."""

    def below(layer: str, seen: tuple[str, ...]) -> None:
        assert layer not in seen, (*seen, layer)
        for other in MAY_IMPORT[layer] - {layer}:
            below(other, (*seen, layer))

    for layer in MAY_IMPORT:
        below(layer, ())


# The checker itself


def fake_tree(root: Path, files: dict[str, str]) -> Path:
    source = root / PACKAGE
    for layer in ("core", "hashing", "store", "ledger", "lab", "cli"):
        files = {f"{layer}/__init__.py": "", **files}
    for name in ("__init__", "core/rules", "store/memory", "ledger/ledger", "encoding"):
        files = {f"{name}.py": "", **files}
    for name, text in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return source


def test_a_tree_that_keeps_the_arrows_is_not_reported(tmp_path: Path) -> None:
    source = fake_tree(
        tmp_path,
        {
            "core/block.py": "import json\nimport numpy as np\nfrom cairn.core import rules\n",
            "core/deep/er.py": "from .. import rules\nfrom ..rules import check\n",
            "core/canonical.py": "x = float('inf') / 2.0\n",
            "store/memory.py": "import sqlite3\nfrom cairn.core.rules import x\n",
            "ledger/ledger.py": "import time\nfrom cairn.store.memory import y\n",
            "cli/main.py": "from cairn import Ledger\nfrom cairn.lab import z\nimport click\n",
        },
    )
    assert wrong_imports(source) == []
    assert wrong_acts(source) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("net/sync.py", "import time"),
        ("net/sync.py", "import asyncio"),
        ("net/sync.py", "from random import random"),
        ("net/sync.py", "from cairn.store.memory import MemoryStore"),
        ("core/block.py", "import os"),
        ("core/block.py", "import os.path as p"),
        ("core/block.py", "from io import BytesIO"),
        ("core/block.py", "import json, time"),
        ("core/block.py", "from random import random"),
        ("core/block.py", "import secrets"),
        ("core/block.py", "import socket"),
        ("core/block.py", "import threading"),
        ("core/block.py", "import logging"),
        ("core/block.py", "from pathlib import Path"),
        ("core/block.py", "import asyncio"),
        ("core/block.py", "import sqlite3"),
        ("core/block.py", "from datetime import UTC"),
        ("core/block.py", "import math"),
        ("core/block.py", "import orjson"),
        ("core/block.py", "from numpy.random import default_rng"),
        ("core/block.py", "from numpy import random"),
        ("core/block.py", "from cairn.hashing import portable"),
        ("core/block.py", "import cairn.store.memory"),
        ("core/block.py", "from cairn import ledger"),
        ("core/block.py", "from cairn import Ledger"),
        ("core/block.py", "import cairn"),
        ("core/block.py", "from .. import ledger"),
        ("core/block.py", "from ..store.memory import x"),
        ("core/block.py", "def f():\n    import os"),
        ("core/block.py", "if TYPE_CHECKING:\n    from cairn.ledger import Ledger"),
        ("core/block.py", "try:\n    import time\nexcept ImportError:\n    pass"),
        ("core/deep/er.py", "import os"),
        ("hashing/lanes.py", "from cairn.store.memory import x"),
        ("hashing/lanes.py", "from cairn.encoding import x"),
        ("store/tail.py", "from cairn.ledger import Ledger"),
        ("store/tail.py", "from cairn.encoding import Encoder"),
        ("ledger/ledger.py", "from cairn.lab import x"),
        ("ledger/ledger.py", "from ..cli import main"),
        ("ledger/exchange.py", "from cairn.cli import main"),
        ("ledger/exchange.py", "from .. import lab"),
        ("lab/attacks.py", "from cairn.cli import main"),
        ("lab/attacks.py", "from cairn.node import x"),
        ("__init__.py", "from cairn.cli import main"),
        ("__init__.py", "from cairn.lab import attacks"),
        ("store/tail.py", "import cairn"),
        ("network.py", "import json"),
    ],
)
def test_a_wrong_import_is_reported(tmp_path: Path, file: str, text: str) -> None:
    source = fake_tree(tmp_path, {file: text})
    [report] = wrong_imports(source)
    assert report.startswith(file)


@pytest.mark.parametrize(
    "text",
    [
        "x = 1.5",
        "x = [1, {'a': 1e3}]",
        "x = 1 / 2",
        "x /= 2",
        "x = float(1)",
        "def f(x: float): pass",
        "x = 1j",
        "x = np.float64(1)",
        "x = np.random.default_rng()",
        "x = np.fromfile(f)",
        "print('a')",
        "x = open('a')",
        "f = __import__",
        "eval('1')",
    ],
)
def test_a_float_or_impure_act_in_core_is_reported(tmp_path: Path, text: str) -> None:
    source = fake_tree(tmp_path, {"core/block.py": text})
    [report] = wrong_acts(source)
    assert report.startswith("core/block.py:1: ")


def test_integers_and_whole_division_are_not_reported(tmp_path: Path) -> None:
    source = fake_tree(tmp_path, {"core/block.py": "x = 7 // 2 * 3 % 4 - (1 << 5)\nx //= 2\n"})
    assert wrong_acts(source) == []
