"""The plot of a run's losses."""

import importlib.util

import numpy as np
import pytest

from jaxnst.plot import check_plot_output, plot_history, save_plot


def make_history(count=6, sizes=(32, 64)):
    evaluation = np.arange(1, count + 1)
    losses = 1e6 / evaluation**2
    history = {"evaluation": evaluation, "seconds": evaluation * 0.5, "loss": losses}
    history |= {"content": losses / 4, "style": losses * 3 / 4, "tv": np.zeros(count)}
    if sizes:
        history["size"] = np.repeat(sizes, count // len(sizes))
    return history


def curves(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_a_line_for_each_term_that_is_not_zero():
    history = make_history()
    left, right = plot_history(history).axes
    assert curves(left).keys() == {"loss", "content", "style"}
    for name, line in curves(left).items():
        np.testing.assert_array_equal(line.get_xdata(), history["evaluation"])
        np.testing.assert_allclose(line.get_ydata(), history[name])
    np.testing.assert_array_equal(right.lines[0].get_xdata(), history["seconds"])
    np.testing.assert_allclose(right.lines[0].get_ydata(), history["loss"])
    assert left.get_yscale() == right.get_yscale() == "log"


def test_a_change_of_scale_is_marked():
    left, right = plot_history(make_history()).axes
    dashed = [line for line in left.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in dashed] == [4]
    dashed = [line for line in right.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in dashed] == [2.0]
    assert [text.get_text() for text in left.texts] == ["32 px", "64 px"]


def test_a_history_of_minimize_has_no_sizes():
    left, _ = plot_history(make_history(sizes=())).axes
    assert not left.texts and len(curves(left)) == 3


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_files(tmp_path, suffix, count):
    history = make_history(count, sizes=())
    history["loss"][0] = np.nan if count > 2 else history["loss"][0]
    save_plot(tmp_path / f"a{suffix}", history)
    start = (tmp_path / f"a{suffix}").read_bytes()[:64]
    assert {".png": b"PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix.lower()] in start
    assert len([*tmp_path.iterdir()]) == 1


def test_losses_that_are_never_finite_or_never_above_0():
    for value in (np.nan, 0.0, -1.0):
        history = make_history(3, sizes=())
        for name in ("loss", "content", "style"):
            history[name] = np.full(3, value)
        plot_history(history).canvas.draw()


def test_matplotlib_is_asked_for(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"jaxnst\[plot\]"):
        check_plot_output("a.png")


@pytest.mark.parametrize(
    ("name", "error"), [("a.txt", ValueError), ("a", ValueError), ("no/a.png", FileNotFoundError)]
)
def test_paths_that_do_not_serve(tmp_path, name, error):
    with pytest.raises(error):
        check_plot_output(tmp_path / name)
