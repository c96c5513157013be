"""Real weights and small real pictures."""

import signal
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

import jaxnst
from jaxnst.pyramid import resize

DEMO = Path(jaxnst.__file__).parent / "demo"


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
def compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Read from disk what another test has compiled. Commands find this setting and keep it.

    Not for other processes: one that is killed could leave a damaged file.
    """
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
