"""The structure that the rest of the tests take for granted.

Layers, cycles, sizes, names and docstrings. Every test collects what breaks its
rule as `path:line what` and claims that there is none.
"""

import ast
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Which of our packages each package may import.
LAYERS = {
    "clusters": {"clusters"},
    "models": {"clusters", "models"},
    "profiler": {"clusters", "models", "profiler"},
    "planner": {"clusters", "models", "planner"},
}
# The one place that puts planner and profiler together (decision 0014).
COMPOSING = ("planner", "cli")
FOLDERS = (*LAYERS, "tests", "benchmarks", "examples", "scripts")

MAX_LINES = 400
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc"}

# Numbers that are conversion factors wherever they stand, and numbers that are when
# something is multiplied or divided by them.
CONVERSIONS = {1e9, 2**20, 2**30, 2**40, 3600, 86400}
CONVERSIONS_IN_PRODUCTS = {1000, 1024, 1e6, 1e12}

# Modules in planner/search/ that serve the methods and are not one. A method in a
# folder of its own is in the folder's method.py; the rest of the folder serves it.
SEARCH_SUPPORT = {
    "batching",
    "contract",
    "local_moves",
    "milp",
    "phases",
    "ratios",
    "refine",
    "registry",
    "shapes",
    "units",
}
SEARCH_HEADINGS = (
    "Reference",
    "Idea",
    "Steps",
    "Differences",
    "Cost",
    "Guarantee",
)

# "tests/..." -> why a test file has no module of its own.
TESTS_WITHOUT_MODULE: dict[str, str] = {}


def python_files(*folders: str) -> list[Path]:
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if "__pycache__" not in path.parts
    )


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def at(path: Path, node: ast.AST, what: str) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {what}"


def nodes(*folders: str) -> Iterator[tuple[Path, ast.AST]]:
    for path in python_files(*folders):
        for node in ast.walk(parsed(path)):
            yield path, node


def imported_modules(node: ast.AST) -> list[str]:
    """Full dotted names that an import statement names, `from a import b` as a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


# --- Layers ---------------------------------------------------------------------------


def test_packages_import_only_the_layers_below_them() -> None:
    wrong = [
        at(path, node, f"imports {name}")
        for path, node in nodes(*LAYERS)
        for name in imported_modules(node)
        if (top := name.split(".")[0]) in FOLDERS and top not in allowed_imports(path)
    ]
    assert wrong == []


def allowed_imports(path: Path) -> set[str]:
    parts = path.relative_to(ROOT).parts
    return LAYERS[parts[0]] | ({"profiler"} if parts[:2] == COMPOSING else set())


def test_the_command_line_imports_the_profiler_in_functions_only() -> None:
    wrong = [
        at(path, node, f"imports {name} at once")
        for path in python_files("/".join(COMPOSING))
        for node in run_on_import(parsed(path).body)
        for name in imported_modules(node)
        if name.split(".")[0] == "profiler"
    ]
    assert wrong == []


def test_only_the_profiler_imports_torch() -> None:
    wrong = [
        at(path, node, name)
        for path, node in nodes(*(set(LAYERS) - {"profiler"}))
        for name in imported_modules(node)
        if name.split(".")[0] == "torch"
    ]
    assert wrong == []


def test_imports_are_absolute() -> None:
    wrong = [
        at(path, node, "relative import")
        for path, node in nodes(*FOLDERS)
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert wrong == []


def test_modules_import_each_other_in_no_cycle() -> None:
    names = {module_name(path) for path in python_files(*LAYERS)}
    graph = nx.DiGraph()
    for path in python_files(*LAYERS):
        for node in run_on_import(parsed(path).body):
            for name in imported_modules(node):
                # `from a.b import c`: c is a module of its own or a name in a.b.
                target = name if name in names else name.rpartition(".")[0]
                if target in names:
                    graph.add_edge(module_name(path), target)
    assert list(nx.simple_cycles(graph)) == []


def run_on_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that importing a module runs, except in functions and classes."""
    for statement in body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(
            statement.test
        ):
            continue
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With):
            inner = [getattr(statement, key, []) for key in ("body", "orelse")]
            yield from run_on_import([each for block in inner for each in block])


@pytest.mark.parametrize("package", ["clusters", "models", "planner"])
def test_importing_a_package_imports_neither_torch_nor_plotting(package: str) -> None:
    heavy = {"torch", "matplotlib", "plotly", "pandas"}
    code = f"import sys, {package}; print(sorted({heavy!r} & set(sys.modules)))"
    assert output_of(sys.executable, "-c", code).strip() == "[]"


def test_help_of_the_command_line_answers() -> None:
    command = shutil.which("phaseplan", path=str(Path(sys.executable).parent))
    assert command is not None, "the console script is installed beside Python"
    assert "plan" in output_of(command, "--help")


def output_of(*command: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- Files ----------------------------------------------------------------------------


def test_files_are_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for path in python_files(*FOLDERS)
    }
    too_long = {path: num for path, num in lengths.items() if num >= MAX_LINES}
    assert too_long == {}


def test_no_file_is_named_after_nothing() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in python_files(*FOLDERS)
        if path.stem in FORBIDDEN_NAMES or not re.fullmatch(r"[a-z0-9_]+", path.stem)
    ]
    assert wrong == []


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in python_files(*LAYERS)}
    assert [str(f) for f in sorted(folders) if not (f / "__init__.py").exists()] == []


def test_tests_mirror_the_packages() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in python_files(*(f"tests/{package}" for package in LAYERS))
        if path.name.startswith("test_")
        and str(path.relative_to(ROOT)) not in TESTS_WITHOUT_MODULE
        and not has_counterpart(path)
    ]
    assert wrong == []


def has_counterpart(test_file: Path) -> bool:
    """Whether `test_<name>[_<aspect>].py` stands where the module <name> does."""
    folder = ROOT / test_file.parent.relative_to(ROOT / "tests")
    subject = test_file.stem.removeprefix("test_")
    names = {folder.name} | {
        path.stem.lstrip("_")
        for path in folder.glob("*")
        if path.suffix in {"", ".py"} and not path.name.startswith("__")
    }
    return any(subject == name or subject.startswith(f"{name}_") for name in names)


def test_exceptions_to_the_rules_name_what_exists() -> None:
    assert [path for path in TESTS_WITHOUT_MODULE if not (ROOT / path).exists()] == []
    found = {path.stem for path in python_files("planner/search")}
    assert SEARCH_SUPPORT - found == set()


# --- Code -----------------------------------------------------------------------------


def test_only_the_command_line_prints() -> None:
    wrong = [
        at(path, node, "print(")
        for path, node in nodes(*LAYERS)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
        and not path.is_relative_to(ROOT / "planner" / "cli")
    ]
    assert wrong == []


def test_conversion_factors_stand_in_units_only() -> None:
    wrong = [
        at(path, node, ast.unparse(node))
        for path, node in nodes(*LAYERS)
        if path != ROOT / "clusters" / "units.py" and is_conversion(node)
    ]
    assert wrong == []


def is_conversion(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return is_number(node) and node.value in CONVERSIONS
    if not isinstance(node, ast.BinOp):
        return False
    if isinstance(node.op, ast.Pow):
        base, exponent = node.left, node.right
        if is_number(base) and is_number(exponent):
            return float(base.value) ** float(exponent.value) in CONVERSIONS
    if isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv):
        sides = (node.left, node.right)
        return any(is_number(s) and s.value in CONVERSIONS_IN_PRODUCTS for s in sides)
    return False


def is_number(node: ast.AST) -> typing.TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def test_no_name_leaves_open_whether_it_means_bits_or_bytes() -> None:
    wrong = [
        at(path, node, name)
        for path, node in nodes(*LAYERS)
        for key in ("id", "attr", "arg", "name")
        if isinstance(name := getattr(node, key, None), str)
        and re.search(r"(^|_)g[bB]ps$", name)
    ]
    assert wrong == []


def test_no_error_is_swallowed_by_a_broad_except() -> None:
    wrong = [
        at(path, node, "broad except")
        for path, node in nodes(*LAYERS)
        if isinstance(node, ast.ExceptHandler)
        and is_broad(node.type)
        # Cleaning up and raising the same error again swallows nothing.
        and ast.unparse(node.body[-1]) != "raise"
    ]
    assert wrong == []


def is_broad(caught: ast.expr | None) -> bool:
    if caught is None:
        return True
    each = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(ast.unparse(one) in {"Exception", "BaseException"} for one in each)


def test_modules_say_what_they_are_for() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in python_files(*LAYERS)
        if not ast.get_docstring(parsed(path))
    ]
    assert wrong == []


def test_search_methods_open_with_the_template() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} lacks {heading}"
        for path in python_files("planner/search")
        if path.stem not in {"__init__"} | SEARCH_SUPPORT
        if path.parent.name == "search" or path.stem == "method"
        for heading in SEARCH_HEADINGS
        if not re.search(
            rf"^{heading}\b", ast.get_docstring(parsed(path)) or "", re.MULTILINE
        )
    ]
    assert wrong == []


def test_no_test_measures_time() -> None:
    # A busy machine is not a fault of the code; benchmarks/ has the times.
    wrong = [
        at(path, node, node.attr)
        for path, node in nodes("tests")
        if isinstance(node, ast.Attribute)
        and node.attr in {"process_time", "perf_counter", "perf_counter_ns"}
    ]
    assert wrong == []


# --- The rules themselves -------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "caught", "passed"),
    [
        (
            lambda code: any(is_conversion(n) for n in ast.walk(ast.parse(code))),
            ["x * 1000", "x / 1e3", "2**30", "1024**3", "1_000_000_000", "3600.0"],
            ["x + 1000", "f(1000)", "'3600'", "x**2", "x * True", "8 * x"],
        ),
        (
            lambda code: is_broad(ast.parse(code).body[0].handlers[0].type),
            ["try: x\nexcept: y", "try: x\nexcept (KeyError, Exception): y"],
            ["try: x\nexcept (KeyError, OSError): y"],
        ),
    ],
    ids=["conversions", "broad_except"],
)
def test_rules_catch_what_they_should(
    rule: Callable[[str], bool], caught: list[str], passed: list[str]
) -> None:
    assert [code for code in caught if not rule(code)] == []
    assert [code for code in passed if rule(code)] == []
