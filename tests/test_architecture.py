"""The shape of the library, held by an AST walk: arrows, cycles, sizes, and what must import without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
Function = ast.FunctionDef | ast.AsyncFunctionDef

# Each layer may import itself and every layer above it in this list.
SPINE: list[set[str]] = [
    {"types", "errors", "seeds", "activity", "tolerances", "sizes", "blocking", "family"}
    | {"jsonpatch", "jsonpointer"},
    {"config"},
    {"calls", "tooling", "references", "actions", "tasks", "core", "registry", "baselines", "checks", "envcheck"}
    | {"rewards", "users"},
    {"content", "replies", "chat", "causal_lm"},
    {"engines", "endpoint", "judge"},
    {"rollout"},
    {"learner"},
    # The stories and their parts.
    {"training", "evaluate", "warm_start", "run", "env_server"},
]
BASE = SPINE[0] | SPINE[1]
ALLOWED = {area: set[str]().union(*SPINE[: rank + 1]) for rank, layer in enumerate(SPINE) for area in layer}
for story in ("training", "evaluate", "warm_start", "run"):
    ALLOWED[story] |= {"store"}
ALLOWED |= {
    "store": BASE | {"store"},
    "viewer": BASE | {"store", "viewer"},
    "tools": BASE | {"tooling", "references", "tools"},
    "envs": BASE | SPINE[2] | {"tools", "envs"},
    "exchange": BASE | {"calls", "rollout", "store", "viewer", "exchange"},
    "doctor": ALLOWED["training"] | {"doctor"},
    "envstats": ALLOWED["training"] | {"envstats"},
    "replay": ALLOWED["training"] | {"replay"},
    "cli": ALLOWED["training"]
    | {"viewer", "tools", "envs", "cli", "agentgrpo", "doctor", "envstats", "exchange", "replay"},
    "__main__": {"__main__", "cli"},
    "agentgrpo": ALLOWED["training"],  # the package itself: its public names, lazily
}
LAZY = {"torch", "transformers", "vllm", "matplotlib", "datasets", "wandb", "tensorboard", "trackio", "mcp", "ray"}
LAZY |= {"yaml"}  # for OpenAPI documents that are no JSON
LAZY |= {"anyio", "httpx2", "jsonschema", "uvicorn"}  # what mcp brings
LAZY |= {"inspect_ai"}
LAZY |= {"minigrid", "bfcl_eval", "reasoning_gym", "verifiers"}  # environments from elsewhere
LAZY_OWN = {
    "agentgrpo",
    "cli",
    "registry",
    "run",
}  # may import agentgrpo in a function: to start fast, or at all
LONG = {"tests/tools/sandbox/attacks.py"}  # one program that a sandbox is given
TORCH_FREE = {"types", "errors", "config", "tooling", "core", "tasks", "users", "store", "viewer", "rewards", "judge"}


@dataclass(frozen=True)
class Module:
    path: Path
    name: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @property
    def area(self) -> str:
        return area_of(self.name)

    @property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    def imports(self, root: ast.AST | None = None) -> Iterator[str]:
        """Yield the full name of every module imported under `root` (default: anywhere)."""
        for node in ast.walk(root or self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}:{node.lineno}: imports are absolute"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (name if name in MODULES else str(node.module) for name in names)

    def runtime_imports(self) -> set[str]:
        """Return what importing this module imports: no function bodies, no TYPE_CHECKING blocks."""
        found: set[str] = set()
        pending: list[ast.AST] = [self.tree]
        while pending:
            node = pending.pop()
            if isinstance(node, ast.Import | ast.ImportFrom):
                found.update(self.imports(node))
            elif not isinstance(node, Function) and not is_type_checking(node):
                pending.extend(ast.iter_child_nodes(node))
        return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def area_of(name: str) -> str:
    """Return the first part below the package: `agentgrpo.engines.slots` -> `engines`."""
    return name.split(".")[1] if "." in name else name


def library() -> Iterator[Module]:
    for folder in ("agentgrpo", "envs", "tools"):  # the links in agentgrpo lead to the other two
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path == path.resolve():
                parts = path.relative_to(ROOT).with_suffix("").parts
                parts = parts[:-1] if parts[-1] == "__init__" else parts
                yield Module(path, ".".join(parts if folder == "agentgrpo" else ("agentgrpo", *parts)))


MODULES = {module.name: module for module in library()}
each_module = pytest.mark.parametrize("module", MODULES.values(), ids=list(MODULES))


def is_own(name: str) -> bool:
    return name.split(".")[0] == "agentgrpo"


@each_module
def test_arrows_point_one_way(module: Module) -> None:
    assert module.area in ALLOWED, f"{module.name} has no place yet: give '{module.area}' one in SPINE or ALLOWED"
    against = {name for name in module.imports() if is_own(name) and area_of(name) not in ALLOWED[module.area]}
    assert not against, f"{module.name} may not import {sorted(against)}"


def test_modules_import_each_other_in_no_circle() -> None:
    graph = {name: module.runtime_imports() & (MODULES.keys() - {name}) for name, module in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " -> ".join(error.args[1]))


@each_module
def test_files_and_functions_stay_small_and_typed(module: Module) -> None:
    lines = len(module.path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{module.name} has {lines} lines, at most 400"
    long = {f"{f.name}:{f.lineno}": length(f) for f in module.functions if length(f) > 50}
    assert not long, f"functions of more than 50 lines: {long}"
    untyped = [f"{f.name}:{f.lineno}({arg})" for f in module.functions for arg in untyped_parameters(f)]
    assert not untyped, f"parameters without a type: {untyped}"


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def untyped_parameters(function: Function) -> list[str]:
    spec = function.args
    args = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
    return [arg.arg for arg in args if arg.annotation is None and arg.arg not in ("self", "cls")]


def test_the_median_function_has_at_most_ten_lines() -> None:
    assert median(length(f) for module in MODULES.values() for f in module.functions) <= 10


@each_module
def test_imports_in_functions_are_of_heavy_or_optional_packages(module: Module) -> None:
    local = {name for function in module.functions for name in module.imports(function)}
    allowed = LAZY | ({"agentgrpo"} if module.area in LAZY_OWN else set())
    hidden = {name for name in local if name.split(".")[0] not in allowed}
    assert not hidden, f"{module.name} imports {sorted(hidden)} inside a function: move it to the top"


@pytest.mark.parametrize("folder", ["agentgrpo", "envs", "tools", "tests", "examples", "bench"])
def test_the_linked_folders_have_one_import_name(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        short = {name.split(".")[0] for name in Module(path, path.stem).imports()} & {"envs", "tools"}
        assert not short, f"{path.relative_to(ROOT)}: import agentgrpo.{short.pop()}, the short name loads it twice"


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_stay_small_and_import_from_no_other_test(path: Path) -> None:
    module = Module(path, path.stem)
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400 or path.relative_to(ROOT).as_posix() in LONG, f"{path.name} has {lines} lines, at most 400"
    others = {name for name in module.imports() if name.startswith("tests.") and ".test_" in name}
    assert not others, f"{path.name} imports {sorted(others)}: move what both need to a module that holds no tests"


def test_records_can_be_read_and_tools_written_without_torch() -> None:
    names = sorted(f"agentgrpo.{area}" for area in TORCH_FREE if f"agentgrpo.{area}" in MODULES)
    code = f"import sys, {', '.join(names)}; print(*{{'torch', 'transformers', 'vllm'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
