"""How labels read, and when they are a grid."""

import itertools
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnst.labels import describe, describe_constant, grid


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e3, "1000"),
        (1e5, "100000"),
        (1e6, "1e6"),
        (2.5e12, "2.5e12"),
        (1e-4, "0.0001"),
        (1e-5, "1e-5"),
        (3e-10, "3e-10"),
        (1e30, "1e30"),
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
def test_values_are_compact(value, text):
    assert describe([{"style_weight": value}]) == [f"style {text}"]


def test_only_what_varies_is_named_and_the_rest_once():
    labels = [{"style_weight": w, "num_steps": 300, "tv_weight": 0.1} for w in (1e1, 1e3)]
    assert describe(labels) == ["style 10", "style 1000"]
    assert describe_constant(labels) == "num steps 300, tv 0.1"


def test_where_nothing_varies_all_is_named():
    labels = [{"style_weight": 1e3, "seed": 0}] * 2
    assert describe(labels) == ["style 1000, seed 0"] * 2
    assert describe_constant(labels) == ""


def test_a_setting_that_some_lack_varies():
    assert describe([{"seed": 0}, {"seed": 0, "tv_weight": 1}]) == ["", "tv 1"]


def test_names_that_would_be_the_same_stay_long():
    labels = [{"style_weight": 1, "style": "a"}, {"style_weight": 2, "style": "b"}]
    assert describe(labels) == ["style_weight 1, style a", "style_weight 2, style b"]


def test_texts_stay():
    assert describe(["first, of two", "second_weight"]) == ["first, of two", "second_weight"]
    assert describe_constant(["first", "second"]) == ""
    assert describe([]) == [] and describe_constant([]) == ""


def test_grid_of_a_product():
    product = list(itertools.product((1e1, 1e3), ("b", "a"), (0.0, 0.1, 1.0)))
    labels = [{"style_weight": w, "layer": x, "tv_weight": t, "seed": 1} for w, x, t in product]
    axes, cells = grid(labels)
    assert axes == {"style": ["10", "1000"], "layer": ["b", "a"], "tv": ["0", "0.1", "1"]}
    assert cells == list(range(12))


def test_cells_find_each_label_in_any_order():
    product = list(itertools.product((1e-5, 1.0, 1e3), (0, 2, 10)))
    shuffled = np.random.default_rng(0).permutation(len(product))
    labels = [{"style_weight": product[i][0], "tv_weight": product[i][1]} for i in shuffled]
    axes, cells = grid(labels)
    assert axes == {"style": ["1e-5", "1", "1000"], "tv": ["0", "2", "10"]}  # numbers ascend
    assert [tuple(labels[i].values()) for i in cells] == product


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
    ],
)
def test_what_is_no_grid_is_a_list(labels):
    numbers = list(range(len(labels)))
    assert grid(labels) == ({"picture": [str(i + 1) for i in numbers]}, numbers)


def test_many_settings_at_random_are_a_list_at_once():
    draws = np.random.default_rng(0).uniform(size=(200, 9))
    assert list(grid([dict(zip("abcdefghi", row, strict=True)) for row in draws]).axes) == [
        "picture"
    ]


def test_a_single_label_needs_no_axis():
    assert grid([{"style_weight": 1e3}]) == ({}, [0])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("style", "labels is a str: give a list of settings or texts"),
        ({"style_weight": 1e3}, "labels is a dict: give a list of settings or texts"),
        (iter(["a"]), "labels is a list_iterator: give a list of settings or texts"),
        (["a", 1e3], r"labels\[1\] is 1000.0: give settings such as .* or text"),
    ],
)
def test_refuses_what_is_no_list_of_labels(labels, message):
    for function in (describe, describe_constant, grid):
        with pytest.raises(TypeError, match=message):
            function(labels)
