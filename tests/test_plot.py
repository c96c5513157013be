"""The plot of a run's losses."""

import importlib.util

import numpy as np
import pytest

from jaxnst.app.plot import check_plot_output, plot_history, save_plot


def make_history(count=6, sizes=(32, 64), **changes):
    evaluation = np.arange(1, count + 1)
    losses = 1e6 / evaluation**2
    history = {"evaluation": evaluation, "seconds": evaluation * 0.5, "loss": losses}
    history |= {"content": losses / 4, "my term": losses * 3 / 4, "tv": np.zeros(count)}
    if sizes:
        history["size"] = np.repeat(sizes, count // len(sizes))
    for name, (i, value) in changes.items():
        history[name][i] = value
    return history


def curves(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_each_term_of_the_history_has_a_line_unless_it_is_always_0():
    history = make_history()
    left, right = plot_history(history).axes
    assert curves(left).keys() == {"loss", "content", "my term"}
    for name, line in curves(left).items():
        np.testing.assert_array_equal(line.get_xdata(), history["evaluation"])
        np.testing.assert_allclose(line.get_ydata(), history[name])
    np.testing.assert_array_equal(right.lines[0].get_xdata(), history["seconds"])
    np.testing.assert_allclose(right.lines[0].get_ydata(), history["loss"])
    assert left.get_yscale() == right.get_yscale() == "log"


@pytest.mark.parametrize(
    ("sizes", "starts", "texts"),
    [((32, 64), [4], ["32 px", "64 px"]), ((48,), [], ["48 px"]), ((), [], [])],
)
def test_changes_of_size_are_marked(sizes, starts, texts):
    history = make_history(sizes=sizes)
    axes = plot_history(history).axes
    assert [text.get_text() for text in axes[0].texts] == texts
    for side, unit in zip(axes, (1, 0.5), strict=True):
        dashed = [line.get_xdata()[0] for line in side.lines if line.get_linestyle() == "--"]
        assert dashed == [start * unit for start in starts]


def test_a_term_near_0_does_not_stretch_the_axis():
    history = make_history(content=(slice(2), [0, 1e-30]))
    left, _ = plot_history(history).axes
    assert 1 < left.get_ylim()[0] < history["loss"].min()


def test_single_losses_of_nan_are_left_out():
    for axes in plot_history(make_history(loss=(2, np.nan))).axes:
        assert np.isfinite(axes.get_ylim()).all()
        assert np.isnan(axes.lines[0].get_ydata()).sum() == 1


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0])
def test_losses_that_are_never_finite_or_positive_can_be_drawn(value):
    everywhere = dict.fromkeys(("loss", "content", "my term"), (slice(None), value))
    plot_history(make_history(3, (), **everywhere)).canvas.draw()


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"PNG")]
)
@pytest.mark.parametrize("count", [1, 6])
def test_every_format_is_written(tmp_path, suffix, start, count):
    save_plot(tmp_path / f"a{suffix}", make_history(count, ()))
    assert start in (tmp_path / f"a{suffix}").read_bytes()[:64]
    assert len([*tmp_path.iterdir()]) == 1


def test_a_failure_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.png"
    target.write_text("old")
    with pytest.raises(KeyError):
        save_plot(target, {"evaluation": np.arange(3)})
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_missing_matplotlib_is_asked_for(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"jaxnst\[plot\]"):
        check_plot_output("a.png")


@pytest.mark.parametrize(
    ("name", "error"), [("a.txt", ValueError), ("a", ValueError), ("no/a.png", FileNotFoundError)]
)
def test_paths_that_cannot_be_written_are_refused(tmp_path, name, error):
    with pytest.raises(error):
        check_plot_output(tmp_path / name)
