"""The house stands as it was drawn: imports run one way, and nothing is pickled."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import diffusers
import pytest

from calotype import lazy

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src/calotype"
FLOORS = [
    {"lazy", "mistakes"},
    {"training"},
    {"data"},
    {"tokenizers", "diffusion", "autoregressive"},
    {"pipelines"},
    {"evaluation"},
    {"recipes", "pages", "uses"},
    {"hub"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
"""From the ground up; a package imports from the floors below its own."""
BESIDE = {("diffusion", "tokenizers")}
"""Imports on one floor: a denoiser reads what a bottleneck packs."""

MODULES = {
    ".".join(file.relative_to(SRC.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in SRC.rglob("*.py")
}


LAZY = {"torchmetrics", "torch_fidelity", *lazy.__all__}
"""Libraries that are imported when something of them is first used."""


def imported(file: Path) -> set[str]:
    """The modules of ours that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Import(names):
                found |= {name.name for name in names}
            case ast.ImportFrom(module=str(module), names=names, level=level):
                assert level == 0, f"{file}: a relative import"
                inside = {f"{module}.{name.name}" for name in names}
                found |= (inside & MODULES.keys()) or {module}
    return found & MODULES.keys()


def package(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_package_has_its_floor():
    packages = {package(module) for module in MODULES} - {""}
    assert packages == set().union(*FLOORS)


def test_imports_run_one_way():
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    wrong = []
    for module, file in MODULES.items():
        for other in imported(file):
            a, b = package(module), package(other)
            if a and b and a != b and floor[b] >= floor[a] and (a, b) not in BESIDE:
                wrong.append(f"{module} imports {other}")
    assert not wrong


def test_the_front_door_imports_nothing():
    """What it names is imported when it is asked for, and is there."""
    script = (
        "import sys, calotype\n"
        "print(*{name.split('.')[0] for name in sys.modules} & {'torch', 'numpy', 'PIL'},"
        " *(name for name in sys.modules if name.startswith('calotype.')))\n"
        "print(all(callable(getattr(calotype, name)) for name in calotype.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["", "True"], done.stderr
    assert {package(module) for module in imported(SRC / "__init__.py")} == {
        "commands", "pipelines", "recipes", "tokenizers"
    }  # fmt: skip


def test_no_circles_between_modules():
    """Between packages there are none by `FLOORS`; here a package's `__init__` counts only for
    those outside it, which is all that Python needs."""
    graph = {}
    for module, file in MODULES.items():
        own = {m for m in MODULES if module.startswith(m + ".")}
        graph[module] = imported(file) - own
    TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_scripts_import_only_what_users_call():
    allowed = {"cli", "commands", "pipelines", "training"}
    for file in (ROOT / "scripts").glob("*.py"):
        assert {package(module) for module in imported(file)} <= allowed, file


def test_no_name_hides_a_pipeline_of_diffusers():
    """A class in a folder so named is saved and cannot be loaded."""
    names = {path.stem for path in SRC.iterdir()} | {path.stem for path in ROOT.iterdir()}
    hidden = {path.stem for path in (Path(diffusers.__file__).parent / "pipelines").iterdir()}
    assert not names & {name for name in hidden if not name.startswith("__")}


def test_hugging_faces_tokenizers_is_not_hidden():
    script = "import tokenizers, transformers; print(tokenizers.Tokenizer.__module__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "tokenizers", done.stderr


def test_help_and_mistakes_wait_for_torch_alone():
    """Whatever a recipe or options are made of imports no library of `calotype.lazy`."""
    modules = ["calotype.cli", *(m for m in MODULES if package(m) in ("commands", "recipes"))]
    script = f"import sys, {', '.join(modules)}; print(*{LAZY} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == [], done.stdout + done.stderr


def test_submodules_that_nothing_has_imported_are_found():
    """Bug: a generator trained in a program of its own knew no `diffusers.models.autoencoders`."""
    script = (
        "from calotype.lazy import diffusers, transformers\n"
        "print(diffusers.models.autoencoders.vae.DiagonalGaussianDistribution.__name__,"
        " diffusers.training_utils.EMAModel.__name__, hasattr(transformers, 'NoSuchThing'))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["DiagonalGaussianDistribution", "EMAModel", "False"], done.stderr


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize("file", sorted(MODULES.values()), ids=lambda f: str(f.relative_to(SRC)))
def test_nothing_is_pickled(file):
    """Neither by name nor by a function of torch's or numpy's that pickles."""
    forbidden = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Import(names):
                assert not {name.name.split(".")[0] for name in names} & forbidden
            case ast.ImportFrom(module=str(module)):
                assert module.split(".")[0] not in forbidden
            case ast.Attribute(value=ast.Name("torch"), attr="load" | "save"):
                pytest.fail(f"{file}:{node.lineno} uses torch.{node.attr}")
            case ast.keyword(arg="allow_pickle" | "trust_remote_code") if not is_false(node.value):
                pytest.fail(f"{file}:{node.lineno} asks for {node.arg}")
