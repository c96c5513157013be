"""What does not fit an objective is refused in plain words; objectives are values."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shallow import OBJECTIVE as SHALLOW
from shallow import STYLE, WEIGHTS

import jaxnst
from jaxnst import Content, Objective, Picture, Style, compute_targets, perceptual_loss

BAD_SOURCES = [
    (lambda c, s: s, TypeError, "must be a dict by name"),
    (lambda c, s: {"content": c}, ValueError, "want the sources content, style, not content"),
    (lambda c, s: {"content": c, "style": s, "sky": s}, ValueError, "not content, style, sky"),
    (lambda c, s: {"content": c, "style": []}, ValueError, "style must be one or more pictures"),
    (lambda c, s: {"content": c, "style": s[..., :1]}, ValueError, "style must have the shape"),
    (lambda c, s: {"content": (c * 255).astype(int), "style": s}, TypeError, "content must hold"),
    (lambda c, s: {"content": Picture(c, s[..., 0]), "style": s}, ValueError, "regions of the con"),
    (
        lambda c, s: {"content": c, "style": [Picture(s, s[..., 0]), s]},
        ValueError,
        "the pictures of style must have the same number of regions",
    ),
]


@pytest.mark.parametrize(("bad", "error", "words"), BAD_SOURCES, ids=[b[2] for b in BAD_SOURCES])
def test_sources_that_do_not_fit_are_refused(bad, error, words, sources, params):
    with pytest.raises(error, match=words):
        compute_targets(bad(*sources.values()), params, objective=SHALLOW)


def test_weights_targets_and_regions_that_do_not_fit_are_refused(described, sources, params):
    image, targets = described
    two = jnp.ones((2, *image.shape[:2]))
    three = Picture(sources["style"], jnp.ones((3, *sources["style"].shape[:2])))
    of_three = compute_targets({**sources, "style": three}, params, objective=SHALLOW)
    lacking = {name: target for name, target in targets.items() if name != "style"}
    changed = WEIGHTS.layers | {"style": {"relu1_1": 1.0}}
    for change, words in (
        ({"weights": WEIGHTS._replace(scales={"tv": 1.0})}, "weights have scales for tv"),
        ({"weights": WEIGHTS._replace(layers=changed)}, "weights have relu1_1 for 'style'"),
        ({"targets": lacking}, "targets have the terms content, tv, but .* content, style, tv"),
        ({"image": image[:16]}, "at pool1 the image has features of the shape"),
        ({"regions": jnp.ones((16, 16))}, "regions of the image"),
        ({"regions": two, "targets": of_three}, "same number of regions, not 2 and 3"),
    ):
        args = {"image": image, "params": params, "targets": targets, "weights": WEIGHTS} | change
        with pytest.raises(ValueError, match=words):
            perceptual_loss(**args, objective=SHALLOW)
    with pytest.raises(TypeError, match="there is no term 'styl'; there are content, style, tv"):
        WEIGHTS.replace(styl=1.0)
    with pytest.raises(ValueError, match="'style' has no weight at relu9_1"):
        WEIGHTS.replace_layers(style={"relu9_1": 1.0})


OTHERS = {
    "another layer": ("style", Style(("relu1_1", "conv2_1")), "no pool1 for Style"),
    "another layer of content": ("content", Content(("relu1_1",)), "no pool1 for Content"),
    "content for style": ("style", Content(("relu1_1", "pool1"), source="style"), "at relu1_1"),
    "style for content": ("content", Style(("pool1",), source="content"), "at pool1"),
    "a statistic of another shape": (
        "style",
        Style(STYLE.layers, statistic=lambda x, where: jnp.mean(x, (0, 1))),
        "at relu1_1",
    ),
    "a statistic of another structure": (
        "style",
        Style(STYLE.layers, statistic=lambda x, where: {"mean": jnp.mean(x, (0, 1))}),
        "at relu1_1",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_targets_of_another_objective_are_refused_with_the_layer(kind, described, sources, params):
    name, term, words = OTHERS[kind]
    other = replace(SHALLOW, terms={**SHALLOW.terms, name: term})
    targets = compute_targets(sources, params, objective=other)
    with pytest.raises(ValueError, match=words):
        perceptual_loss(described[0], params, targets, WEIGHTS, objective=SHALLOW)


BAD_OBJECTIVES = [
    ({"pooling": "mean"}, ValueError, "pooling"),
    ({"dtype": "float16"}, ValueError, "float16 overflows"),
    ({"terms": {}}, TypeError, "one or more"),
    ({"terms": Style()}, TypeError, "must be a dict"),
    ({"terms": {"loss": Style()}}, ValueError, "must not be called 'loss'"),
    ({"terms": {"style": 3}}, TypeError, "'style' must have the methods"),
    ({"terms": {"style": Style(())}}, ValueError, "one or more layers"),
]


@pytest.mark.parametrize(("bad", "error", "words"), BAD_OBJECTIVES)
def test_invalid_objectives_are_refused(bad, error, words):
    with pytest.raises(error, match=words):
        replace(SHALLOW, **bad)


def test_objectives_are_values():
    objective = Objective({"style": Style(["relu1_1"])})
    same = Objective({"style": Style(("relu1_1",))}, "max", np.float32)
    assert objective == same and hash(objective) == hash(same)
    assert len({SHALLOW, replace(SHALLOW), replace(SHALLOW, pooling="average")}) == 2
    assert jax.tree.leaves(SHALLOW) == []
    assert SHALLOW.layers == ("pool1", "relu1_1") and SHALLOW.sources == ("content", "style")
    assert jaxnst.Objective is Objective
