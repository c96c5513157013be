"""The picture and the curves that a run shows in a notebook."""

import base64
import io
import subprocess
import sys
import types
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import pytest
from helpers import environment
from notebook_runs import outputs_of, run_notebook
from PIL import Image
from shallow import SHORT, WEIGHTS

import jaxnst
from jaxnst.curves import COLORS, DENSITY, INK, Curve, draw_curves
from jaxnst.preview import live_preview

CAPTION = DENSITY * (20 + 4)  # pixels above the pictures


@pytest.fixture(scope="module")
def publisher():
    """What IPython publishes in this process, as records of data, metadata and display id."""
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell.instance(
        config=Config({"HistoryManager": {"enabled": False}}),
        user_module=types.ModuleType("cells"),
        user_ns={},
    )
    shell.display_pub = CapturingDisplayPublisher()
    yield shell.display_pub
    shell.restore_sys_module_state()
    InteractiveShell.clear_instance()


@pytest.fixture
def shown(publisher):
    publisher.outputs.clear()
    return publisher.outputs


def decoded(record):
    """The page of an update, (h, w, 3) from 0 to 255."""
    file = io.BytesIO(base64.b64decode(record["data"]["image/jpeg"]))
    page = Image.open(file)
    assert page.format == "JPEG"
    size = record["metadata"]["image/jpeg"]
    assert page.size == (DENSITY * size["width"], DENSITY * size["height"])
    return np.asarray(page, np.float32)


def enlarged(image, size):
    """An image as it is shown, with this long side on the page."""
    height, width, _ = image.shape
    scale = size / max(height, width)
    shape = DENSITY * round(scale * height), DENSITY * round(scale * width), 3
    return 255 * np.clip(jax.image.resize(np.asarray(image, np.float32), shape, "cubic"), 0, 1)


def check_picture(page, image, *, size, top=CAPTION, left=0):
    """The image stands at this place of a page."""
    wanted = enlarged(image, size)
    height, width, _ = wanted.shape
    there = page[top : top + height, left : left + width]
    assert np.abs(there - wanted).mean() < 6


def has_color(page, color):
    """Whether some pixels have a colour, after JPEG."""
    color = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(page - color).max(axis=-1) < 40).sum() > 50


def record(n=5, total=10, *, x=None, **fields):
    """A `Progress` after `n` of `total` evaluations."""
    evaluation = np.arange(1, n + 1)
    history = {"evaluation": evaluation, "seconds": evaluation / 10, "loss": 3.0 / evaluation}
    history["style"] = 1.0 / evaluation
    return jaxnst.Progress(
        evaluation=n,
        num_steps=total,
        loss=history["loss"][-1],
        terms={},
        seconds=n / 10,
        x=jnp.full((20, 30, 3), 0.5) if x is None else x,
        history=history,
        status=jaxnst.Status.OK,
        done=n == total,
        state=None,
    )._replace(**fields)


# --- What is shown --------------------------------------------------------------------------------


def test_a_transfer_updates_one_output_and_ends_with_its_picture(transfer, shown):
    result = transfer(SHORT, callback=live_preview(seconds=0), every=1)
    assert len({output["transient"]["display_id"] for output in shown}) == 1
    assert [output["update"] for output in shown] == [False] + [True] * (len(shown) - 1)
    assert len(shown) == 4
    caption = shown[-1]["data"]["text/plain"]
    assert "evaluation 4 of 4" in caption and "48 x 36 pixels" in caption
    assert f"loss {result.history['loss'][-1]:.4g}" in caption
    page = decoded(shown[-1])
    check_picture(page, result.image, size=360)
    for color in (INK, *COLORS[:2]):  # the loss, content, style
        assert has_color(page[:, DENSITY * 360 :], color)


def test_lanes_stand_side_by_side(small, paint, params, shown):
    results = jaxnst.sweep(
        small,
        paint,
        params=params,
        config=SHORT,
        weights=WEIGHTS.replace(style=[0.1, 1.0, 10.0]),
        lane_batch=2,
        callback=live_preview(size=250),
    )
    assert len({output["transient"]["display_id"] for output in shown}) == 1
    assert "lanes 0 to 1 " in shown[0]["data"]["text/plain"]
    assert "lane 2 " in shown[-1]["data"]["text/plain"]
    page = decoded(shown[-1])
    side = (250 + 14 + 440 - 2 * 14) // 3
    below = DENSITY * (18 + 4)  # after the line of each lane
    for lane, image in enumerate(results.image):
        left = DENSITY * lane * (side + 14)
        check_picture(page, image, size=side, top=CAPTION + below, left=left)
        assert has_color(page[-DENSITY * 200 :], COLORS[lane])
    first = decoded(shown[0])  # of two lanes, before the third begins
    assert not has_color(first[-DENSITY * 200 :], COLORS[2])


@pytest.mark.parametrize("count", [2, 4, 5, 9, 40])
def test_any_number_of_lanes_fits_in_the_same_width(shown, count):
    progress = record(10)
    lanes = progress._replace(
        x=jnp.full((count, 20, 30, 3), 0.5),
        **{name: np.stack([getattr(progress, name)] * count) for name in ("loss", "status")},
        history={name: np.stack([row] * count) for name, row in progress.history.items()},
        done=np.full(count, True),
    )
    live_preview()(jaxnst.SweepProgress(range(count), count, lanes))
    (output,) = shown
    assert 700 < output["metadata"]["image/jpeg"]["width"] <= 360 + 14 + 440
    decoded(output)


def test_values_outside_0_and_1_are_clipped(shown):
    half = jnp.where(jnp.arange(30) < 15, 1.5, -0.5)
    live_preview()(record(10, x=jnp.broadcast_to(half[None, :, None], (20, 30, 3))))
    page = decoded(shown[0])[CAPTION : CAPTION + 480]
    assert page[:, :300].min() > 250 and page[:, 420:700].max() < 5


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_images_in_half_precision_are_shown(shown, dtype):
    live_preview()(record(10, x=jnp.full((20, 30, 3), 0.5, dtype)))
    assert abs(decoded(shown[0])[CAPTION + 99, 99].mean() - 128) < 3


def test_nan_is_black_and_does_not_stop_the_run(shown):
    loss = np.array([1.0, np.nan, 0.5])
    history = record(3).history | {"loss": loss}
    live_preview()(
        record(3, x=jnp.full((8, 8, 3), jnp.nan), history=history, status=jaxnst.Status.NON_FINITE)
    )
    assert "non finite" in shown[0]["data"]["text/plain"]
    assert decoded(shown[0])[CAPTION + 99, 99].max() < 5


@pytest.mark.parametrize("shape", [(2731, 4096), (4096, 10), (1, 500)])
def test_large_and_narrow_pictures_are_shown_at_the_same_size(shown, shape):
    live_preview(size=300)(record(10, x=np.full((*shape, 3), 0.5, np.float32)))
    assert max(decoded(shown[0]).shape) <= DENSITY * (300 + 14 + 440)
    assert len(shown[0]["data"]["image/jpeg"]) < 100_000


@pytest.mark.parametrize(
    "x", [{"a": np.ones(3)}, (np.ones(3), np.ones((2, 2))), np.ones(7), np.ones((4, 4, 2)), 1.0]
)
def test_without_an_image_only_the_curves_are_shown(shown, x):
    live_preview()(record(10, x=x))
    assert shown[0]["metadata"]["image/jpeg"]["width"] == 440
    assert "pixels" not in shown[0]["data"]["text/plain"]
    assert has_color(decoded(shown[0]), COLORS[0])


# --- When it is shown -----------------------------------------------------------------------------


def test_updates_are_a_second_apart_and_the_last_is_shown(shown, monkeypatch):
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr("jaxnst.preview.time", clock)
    preview, times = live_preview(), []
    for n in range(1, 101):
        clock.now, before = 0.08 * n, len(shown)
        assert preview(record(n, 100)) is None
        times += [clock.now] * (len(shown) - before)
    assert times[-1] == 8.0
    assert (np.diff(times[:-1]) > 0.9).all() and len(times) in (8, 9)


def test_a_second_run_has_an_output_of_its_own(shown):
    preview = live_preview(seconds=0)
    for n in (5, 10, 5, 8, 3, 10):  # the second run is stopped at 8
        preview(record(n))
    ids = [output["transient"]["display_id"] for output in shown]
    assert [ids.index(i) for i in ids] == [0, 0, 2, 2, 4, 4]
    assert [output["update"] for output in shown] == [False, True] * 3


def test_a_run_that_is_resumed_in_another_cell_is_shown_there(shown, publisher):
    from IPython import get_ipython

    preview = live_preview(seconds=0)
    for n in (5, 7, 10):
        preview(record(n))
        get_ipython().execution_count += n == 7
    assert [output["update"] for output in shown] == [False, True, False]


def test_outside_ipython_nothing_is_shown_and_ipython_is_imported_late():
    code = """if True:
        import sys
        import jax, jaxnst
        jaxnst.live_preview, jaxnst.style_transfer
        assert "IPython" not in sys.modules
        vg = jax.value_and_grad(lambda x: ((x - 0.5) ** 2).sum())
        jaxnst.minimize(
            vg,
            jax.numpy.zeros((8, 8, 3)),
            optimizer=jaxnst.Adam(learning_rate=0.1),
            num_steps=3,
            callback=jaxnst.live_preview(),
        )
    """
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_ipython_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    with pytest.raises(ImportError, match=r"^live_preview needs IPython: .*'jaxnst\[notebooks\]'$"):
        live_preview()


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 2.5}, {"seconds": -1}])
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=f"{[*options][0]} must be"):
        live_preview(**options)


def test_a_cell_of_a_notebook_has_one_output(tmp_path):
    cell = """
import jax, jaxnst
result = jaxnst.minimize(
    jax.value_and_grad(lambda x: ((x - 0.5) ** 2).sum()),
    jax.numpy.zeros((8, 8, 3)),
    optimizer=jaxnst.Adam(learning_rate=0.1),
    num_steps=6,
    callback=jaxnst.live_preview(seconds=0),
    seconds_per_chunk=1e-9,
)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbformat.write(notebook, tmp_path / "live.ipynb")
    (output,) = outputs_of(run_notebook(tmp_path / "live.ipynb", tmp_path, seconds=120))
    assert output.output_type == "display_data"
    assert "evaluation 6 of 6" in output.data["text/plain"]
    check_picture(decoded(output), np.full((8, 8, 3), 0.45), size=360)


# --- The curves -----------------------------------------------------------------------------------


def drawn(values, *, end=100, **options):
    """The columns and rows of a loss of these values at evaluations 1, 2, …."""
    curve = Curve("", np.arange(1, len(values) + 1), np.asarray(values))
    picture = draw_curves([curve], [], (440, 240), end=end, **options)
    dark = np.asarray(picture).max(axis=-1) < 80
    columns = np.flatnonzero(dark.any(axis=0))
    return columns, np.array([np.flatnonzero(dark[:, column]).mean() for column in columns])


@pytest.mark.parametrize("values", [np.geomspace(200, 3, 60), np.linspace(-4, 9, 60)])
def test_a_curve_stands_at_its_values(values):
    columns, rows = drawn(values)
    scale = np.log(values) if values.min() > 0 else values
    slope, start = np.polyfit(np.interp(columns, columns[[0, -1]], scale[[0, -1]]), rows, 1)
    assert slope < 0  # large values stand high
    wanted = slope * np.interp(np.linspace(0, 59, len(columns)), np.arange(60), scale) + start
    assert np.abs(rows - wanted).max() < 2 * DENSITY
    width = DENSITY * (440 - 50 - 6)
    assert abs(np.ptp(columns) - 0.59 * width) < 3 * DENSITY


def test_values_that_are_not_finite_leave_a_gap():
    values = np.linspace(9, 2, 50)
    values[20:30], values[40] = np.nan, np.inf
    columns, rows = drawn(values)
    assert (np.diff(columns) > 5 * DENSITY).sum() == 2 and np.ptp(rows) > 50


@pytest.mark.parametrize(
    "values", [[3.0], [2.0, 2.0], [-1e30] * 2, [0.0, 0.0], [np.nan], [], [1e-30, 1e30]]
)
def test_any_losses_can_be_drawn(values):
    drawn(values, end=2, marks=[(1, "8 px")])


def test_a_long_curve_is_drawn_to_its_end():
    columns, _ = drawn(np.linspace(9, 2, 50_001), end=50_001)
    assert columns[-1] >= DENSITY * (440 - 6 - 1)


def test_terms_near_0_do_not_stretch_the_axis():
    x = np.arange(1, 51)
    loss = Curve("loss", x, np.linspace(3, 1, 50))
    alone, together = (
        np.asarray(draw_curves([loss], terms, (440, 240), end=50))
        for terms in ([Curve("", x, np.full(50, 1e-9), COLORS[0])], [])
    )
    np.testing.assert_array_equal(alone, together)


def test_scales_are_marked_where_they_begin(shown):
    history = record(10).history
    pages = []
    for sizes in (np.full(10, 32), np.repeat([32, 64], 5)):
        live_preview(seconds=0)(record(10, history=history | {"size": sizes}))
        pages.append(decoded(shown[-1])[:, DENSITY * (360 + 14) :].mean(axis=(0, 2)))
    darker = np.flatnonzero(pages[0] - pages[1] > 15)
    assert np.abs(darker - DENSITY * (50 + (440 - 56) * 6 / 10)).max() < 2 * DENSITY
