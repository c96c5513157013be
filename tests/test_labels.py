"""How labels read, and which of them make a grid."""

import itertools
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnst.app.labels import describe, describe_constant, grid


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e3, "1000"),
        (1e6, "1e6"),
        (2.5e12, "2.5e12"),
        (1e-4, "0.0001"),
        (1e-5, "1e-5"),
        (3e-10, "3e-10"),
        (0.0, "0"),
        (math.inf, "inf"),
        (12345678, "12345678"),
        (True, "True"),
        (np.float32(0.1), "0.1"),
        (np.int64(7), "7"),
        (jnp.asarray(0.1), "0.1"),
        ("starry.jpg", "starry.jpg"),
        (Path("starry.jpg"), "starry.jpg"),
        (("relu1_1", "relu2_1"), "('relu1_1', 'relu2_1')"),
        (None, "None"),
    ],
)
def test_values_are_short(value, text):
    assert describe([{"style_weight": value}]) == [f"style {text}"]


@pytest.mark.parametrize(
    ("labels", "texts", "constant"),
    [
        (
            [{"style_weight": w, "num_steps": 300, "tv_weight": 0.1} for w in (1e1, 1e3)],
            ["style 10", "style 1000"],
            "num steps 300, tv 0.1",
        ),
        ([{"style_weight": 1e3, "seed": 0}] * 2, ["style 1000, seed 0"] * 2, ""),
        ([{"seed": 0}, {"seed": 0, "tv_weight": 1}], ["", "tv 1"], "seed 0"),
        (  # short names that would be the same stay long
            [{"style_weight": 1, "style": "a"}, {"style_weight": 2, "style": "b"}],
            ["style_weight 1, style a", "style_weight 2, style b"],
            "",
        ),
        (["first, of two", "second_weight"], ["first, of two", "second_weight"], ""),
        ([], [], ""),
    ],
)
def test_settings_that_vary_are_named_in_each_label_and_the_others_once(labels, texts, constant):
    assert describe(labels) == texts
    assert describe_constant(labels) == constant


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_full_product_is_a_grid_in_any_order(shuffle):
    product = list(itertools.product((1e-5, 1e3), ("b", "a"), (0, 2, 10)))
    order = np.random.default_rng(0).permutation(12) if shuffle else np.arange(12)
    labels = [
        {"style_weight": product[i][0], "layer": product[i][1], "tv_weight": product[i][2]}
        for i in order
    ]
    axes, cells = grid([label | {"seed": 1} for label in labels])
    assert axes == {  # numbers ascend, texts come in the order of the labels
        "style": ["1e-5", "1000"],
        "layer": list(dict.fromkeys(label["layer"] for label in labels)),
        "tv": ["0", "2", "10"],
    }
    found = [labels[i] for i in cells]
    key = {text: i for i, text in enumerate(axes["layer"])}
    rank = [(label["style_weight"], key[label["layer"]], label["tv_weight"]) for label in found]
    assert rank == sorted(rank) and sorted(cells) == list(range(12))


@pytest.mark.parametrize(
    "labels",
    [
        [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}],
        [{"a": 1, "b": 1}, {"a": 1, "b": 1}, {"a": 2, "b": 1}],
        [{"a": 1}, {"a": 2}, {"a": 1, "b": 1}, {"a": 2, "b": 2}],
        [{"a": 1}, {"a": 1}],
        [{"a": math.nan}, {"a": math.nan}, {"a": 1}, {"a": math.nan}, {}],
        ["one", "two", "three"],
        ["one", {"a": 1}],
        [{}, {}],
        [
            dict(zip("abcdefghi", row, strict=True))
            for row in np.random.default_rng(0).random((200, 9))
        ],  # at once
    ],
)
def test_labels_that_fill_no_grid_are_numbered(labels):
    numbers = list(range(len(labels)))
    assert grid(labels) == ({"picture": [str(i + 1) for i in numbers]}, numbers)


def test_a_single_label_has_no_axis():
    assert grid([{"style_weight": 1e3}]) == ({}, [0])
