"""Which size may fit where memory runs out."""

import jax
import psutil
import pytest
from jax.errors import JaxRuntimeError

from jaxnst import devices
from jaxnst.app import memory
from jaxnst.app.memory import naming_a_size_that_fits
from jaxnst.schedule import Scale

SCALES = [Scale((256, 512), 10), Scale((512, 1024), 5)]


def advice(wanted, evaluations, size=1024, scales=SCALES):
    error = JaxRuntimeError(f"RESOURCE_EXHAUSTED: Out of memory allocating {wanted} bytes.")
    helping = naming_a_size_that_fits(scales, lambda: evaluations, size)
    with pytest.raises(OSError, match="there is not enough memory for this; ") as caught, helping:
        raise error
    return str(caught.value).partition("; ")[2]


def test_the_size_is_that_of_the_free_memory(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda _: 10_000)
    assert advice(40_000, 12) == "--size 512 may fit"  # four times the pixels
    assert advice(40_000, 3) == "--size 256 may fit"  # at the coarser scale
    assert advice(40_000, 12, size=None) == "--size 512 may fit"
    assert advice(40_000, 12, size=512) == "--size 256 may fit"  # of the short side
    assert advice(10, 15) == "--size 816 may fit"  # some small piece, where all is taken
    assert advice(10**9, 0) == "give a smaller --memory"  # as for 10**7 pairs


def test_other_errors_pass():
    with pytest.raises(JaxRuntimeError), naming_a_size_that_fits(SCALES, lambda: 0, None):
        raise JaxRuntimeError("INTERNAL: bad luck")


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="only Linux has this limit")
def test_a_limit_of_the_process_counts(monkeypatch):
    here = psutil.Process().memory_info().vms
    monkeypatch.setattr(psutil.Process, "rlimit", lambda *_: (here + 10**8, here + 10**8))
    assert devices.free_memory(jax.local_devices()[:1]) == pytest.approx(0.7e8, rel=0.3)
    monkeypatch.setattr(psutil.Process, "rlimit", lambda *_: (here - 1, here - 1))
    assert devices.free_memory(jax.local_devices()[:1]) == 0
