"""What every test relies on: shape checks, eight CPU devices, full precision."""

import atexit
import gc
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import sys
import tempfile
from typing import Any, cast

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Compiling small models is most of the time of the suite. Children inherit this.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if importlib.metadata.version("jaxlib") == "0.10.1":
    # Halves it again; a later jaxlib does not know the first flag and aborts on it.
    flags = ["use_fusion_emitters=false", "parallel_codegen_split_count=1"]
    os.environ.setdefault("XLA_FLAGS", " ".join(f"--xla_cpu_{flag}" for flag in flags))
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # What a program that they start has compiled the next one does not compile again.
    compiled = tempfile.mkdtemp(prefix="compiled")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import jaxtyping
import pytest
import typecheck

# Before the first import of the package: every call then checks its annotations, where
# a module says the shapes of arrays.
ROOT = pathlib.Path(__file__).parents[1]
SHAPED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "mimjax").rglob("*.py")
    if "from jaxtyping import" in path.read_text()
]
jaxtyping.jaxtyped = typecheck.jaxtyped
jaxtyping.install_import_hook(SHAPED, "typecheck.check")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
# To look each small program up takes longer than what is found saves.
jax.config.update("jax_enable_compilation_cache", False)

NEEDS = {
    "test_bench_torch.py": ("torch", "transformers"),
    "test_optim_torch.py": ("torch",),
    "test_parity.py": ("torch", "transformers"),
    "test_timm.py": ("torch", "timm"),
    "test_mixing_torch.py": ("torch", "timm"),
    "test_randaugment_torch.py": ("timm",),
    "test_aim_torch.py": ("torch",),
    "test_dvae_torch.py": ("torch",),
    "test_vits_torch.py": ("torch",),
    "test_convert_torch.py": ("torch", "safetensors"),
    "test_export_torch.py": ("torch", "timm", "transformers"),
    "test_resize_torch.py": ("torch", "timm"),
}
collect_ignore = [
    name
    for name, needs in NEEDS.items()
    if not all(map(importlib.util.find_spec, needs))
]
if collect_ignore and sys.version_info < (3, 12):
    raise pytest.UsageError("not all is installed: pip install -e '.[test]'")
# Nothing needs the torchvision that timm brings, and one built for another torch breaks
# transformers.
sys.modules.setdefault("torchvision", cast(Any, None))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds what writes docs/parity.md."""
    told = "the page to write of all comparisons with models of others; with -n0"
    parser.addoption("--parity-table", default="", metavar="FILE", help=told)


def pytest_configure(config: pytest.Config) -> None:
    """Makes ready a process that runs tests; with others at work this one runs none."""
    if not config.getoption("numprocesses", 0):
        # What the package imports, for the hook would have all of it compiled anew.
        for name in ("flax", "optax", "orbax.checkpoint", "tensorflow"):
            importlib.import_module(name)
        # Tracing makes objects by the million, nearly none of them garbage.
        gc.freeze()
        gc.set_threshold(1_000_000, 50, 100)
    elif config.getoption("--parity-table"):
        # Others would have compared, and this one would know nothing of it.
        raise pytest.UsageError("--parity-table: say -n0 too")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Writes it, after tests that have passed."""
    path = session.config.getoption("--parity-table")
    if path and not exitstatus:
        import parity_table

        parity_table.write(pathlib.Path(path))


# Whole files go to the two workers in turn: the longest go first, so that none is left
# for the end with one worker idle.
LONGEST = """resume processes mesh program export_torch convert golden show parity
    bench_torch primitives study beit2 judge train models init_from vits_torch swin
    bench fused grid timm hosts data_order vit segment"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first."""
    place = {f"test_{name}": n for n, name in enumerate(LONGEST.split())}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says so where a file was left out."""
    for name in collect_ignore:
        needs = " and ".join(NEEDS[name])
        terminalreporter.write_line(f"{name}: not run, it needs {needs}")


@pytest.fixture
def encoder():
    """Makes a small encoder: 16 patches of 4 x 4 pixels, 32 wide, 2 layers."""
    from mimjax.backbones import vit

    def make(**fields) -> vit.Encoder:
        small = {"image_size": (16, 16), "patch_size": (4, 4), "width": 32}
        return vit.Encoder(**{**small, "depth": 2, "heads": 4, **fields})

    return make
