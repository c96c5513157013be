"""Real weights and small real pictures."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from helpers import normal
from shallow import OBJECTIVE, SHORT, WEIGHTS

import jaxnst
from jaxnst.compilation import share_of_mappings
from jaxnst.pyramid import resize

DEMO = Path(jaxnst.__file__).parent / "demo"


def pytest_configure(config: pytest.Config) -> None:
    """Let LLVM skip its optimisations, which take half of the time of a compilation.

    XLA's own remain, so programs do the same operations in the same memory, only more slowly. Slow
    tests, the notebooks among them, run the programs that users run.
    """
    if "not slow" in config.option.markexpr:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0".strip()


@pytest.fixture(scope="module", autouse=True)
def room() -> None:
    """Begin each file with room for its programs, so that none of ours is forgotten within it."""
    if share_of_mappings() > 0.25:
        jax.clear_caches()


@pytest.fixture(scope="session")
def params() -> jaxnst.vgg.Params:
    return jaxnst.load_params()


@pytest.fixture(scope="session")
def content() -> jax.Array:
    """A real picture, (h, 96, 3)."""
    return jax.numpy.asarray(jaxnst.load_image(DEMO / "content.jpg", size=96))


@pytest.fixture(scope="session")
def style() -> jax.Array:
    """A real picture of another size, (h, 80, 3)."""
    return jax.numpy.asarray(jaxnst.load_image(DEMO / "style.jpg", size=80))


@pytest.fixture(scope="session")
def small(content: jax.Array) -> jax.Array:
    """A content, (36, 48, 3), for transfers."""
    return resize(content, 36, 48)


@pytest.fixture(scope="session")
def paint(style: jax.Array) -> jax.Array:
    """A style, (40, 32, 3), for transfers."""
    return resize(style, 40, 32)


@pytest.fixture(scope="session")
def other(style: jax.Array) -> jax.Array:
    """A style of another size than `paint`, (24, 33, 3)."""
    return 1 - resize(style, 24, 33)


@pytest.fixture(scope="session")
def sources(content: jax.Array, style: jax.Array) -> dict[str, jax.Array]:
    """A content, (24, 32, 3), and a style, (28, 20, 3)."""
    return {"content": content[:24, :32], "style": style[:28, :20]}


@pytest.fixture(scope="session")
def described(
    sources: dict[str, jax.Array], params: jaxnst.vgg.Params
) -> tuple[jax.Array, dict[str, Any]]:
    """An image, and targets for it, at which one block of the network is compared."""
    noise = normal(*sources["content"].shape)
    targets = jaxnst.compute_targets(sources, params, objective=OBJECTIVE)
    return sources["content"] + 0.05 * noise, targets


@pytest.fixture(scope="session")
def transfer(
    small: jax.Array, paint: jax.Array, params: jaxnst.vgg.Params
) -> Callable[..., jaxnst.TransferResult]:
    """`style_transfer` with defaults for everything."""

    def run(
        config: jaxnst.TransferConfig = SHORT,
        content: Any = small,
        style: Any = paint,
        **options: Any,
    ) -> jaxnst.TransferResult:
        options = {"weights": WEIGHTS} | options
        return jaxnst.style_transfer(content, style, params=params, config=config, **options)

    return run


@pytest.fixture(scope="session")
def first_loss(small: jax.Array, paint: jax.Array, params: jaxnst.vgg.Params) -> Callable[..., Any]:
    """The loss of an image, apart from any loop."""

    def loss(image: Any = small, style: Any = paint, regions: Any = None) -> Any:
        targets = jaxnst.compute_targets(
            {"content": small, "style": style}, params, objective=OBJECTIVE
        )
        value, _ = jax.jit(jaxnst.perceptual_loss)(
            image, params, targets, WEIGHTS, objective=OBJECTIVE, regions=regions
        )
        return pytest.approx(float(value), rel=1e-4)

    return loss


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Ctrl-C as in a terminal; a shell's background jobs, such as a CI's, begin by ignoring it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the session's own, so that the user's is left alone."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXNST_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read from disk what another test has compiled. Commands find this setting and keep it.

    Not for other processes: one that is killed could leave a damaged file.
    """
    folder = tmp_path_factory.mktemp("compiled")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # Otherwise the names of the files depend on the folder.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    return folder
