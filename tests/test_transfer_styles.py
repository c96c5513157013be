"""Whole transfers with several styles, blends, regions, and objectives of other terms."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from shallow import PYRAMID, SHORT, STYLE, check_result

import jaxnst
from jaxnst import Adam, LossWeights, Objective, Penalty, Picture


@pytest.fixture(scope="module")
def halves(small):
    """Two regions, left and right."""
    left = jnp.zeros(small.shape[:2]).at[:, :24].set(1)
    return jnp.stack([left, 1 - left])


def test_a_list_of_styles_is_a_blend(transfer, paint, other, first_loss):
    both = transfer(style=[paint, other]).history["loss"][0]
    assert both == first_loss(style=[paint, other])
    for alone in (paint, other):
        assert abs(transfer(style=alone).history["loss"][0] / both - 1) > 1e-3
    np.testing.assert_allclose(
        transfer(style=(paint, paint)).history["loss"], transfer().history["loss"], rtol=1e-3
    )


def test_a_blend_gives_each_style_its_share(transfer, paint, other, first_loss):
    shares = [Picture(paint, share=1.0), Picture(other, share=3.0)]
    for blend in ([1, 3], [0.25, 0.75], np.array([2.0, 6.0])):
        result = transfer(style=[paint, other], blend=blend)
        assert result.history["loss"][0] == first_loss(style=shares)
    assert transfer(style=shares).history["loss"][0] == first_loss(style=shares)
    assert transfer(style=[paint, other], blend=[0, 2]).history["loss"][0] == first_loss(
        style=other
    )


def test_each_region_has_its_own_style(transfer, paint, other, halves, first_loss):
    result = transfer(style=[paint, other], regions=halves)
    by_region = [
        first_loss(style=style, regions=halves[i : i + 1]).expected
        for i, style in enumerate([paint, other])
    ]
    assert result.history["loss"][0] == pytest.approx(np.mean(by_region), rel=1e-4)
    swapped = transfer(style=[other, paint], regions=halves[::-1])
    np.testing.assert_allclose(swapped.history["loss"], result.history["loss"], rtol=1e-3)


def test_a_blend_holds_in_every_region(transfer, paint, other, halves):
    per_region = [Picture(paint, share=[1.0, 0.5]), Picture(other, share=[0.0, 0.5])]
    losses = [
        transfer(style=style, regions=halves, blend=blend).history["loss"][0]
        for style, blend in (
            ([paint, other], None),  # each alone
            (per_region, None),
            ([paint, other], [1, 1]),
        )
    ]
    assert (np.diff(np.sort(losses)) > 1e-3 * max(losses)).all()


@pytest.mark.slow
def test_regions_that_are_everywhere_change_nothing(transfer, small, paint):
    everywhere = jnp.ones((2, *small.shape[:2]))
    for config, regions, style in (
        (PYRAMID, everywhere, [paint, paint]),
        (SHORT, everywhere[0], paint),
    ):
        result = transfer(config, style=style, regions=regions)
        check_result(result, small.shape, sum(config.steps))
        expected = transfer(config).history["loss"]
        np.testing.assert_allclose(result.history["loss"], expected, rtol=5e-3)


def test_a_style_counts_where_its_picture_says(transfer, paint):
    both = jnp.concatenate([paint, *[jnp.zeros_like(paint)] * 2], axis=1)
    # The layers of the last columns see across the seam.
    where = jnp.zeros(both.shape[:2]).at[:, : paint.shape[1] - 6].set(1)
    masked = transfer(style=Picture(both, where)).history["style"][0]
    alone, whole = (transfer(style=style).history["style"][0] for style in (paint, both))
    assert masked == pytest.approx(alone, rel=0.2)
    assert abs(whole / alone - 1) > 0.5


def test_content_counts_where_its_picture_says(transfer, small, halves):
    start = small.at[:, 30:].set(1 - small[:, 30:])  # as the content on the left
    left, right = (
        transfer(content=Picture(small, half), initial_image=start).history["content"][0]
        for half in halves
    )
    assert left < 1e-6 * right
    whole = transfer(initial_image=start).history["content"][0]
    assert right == pytest.approx(2 * whole, rel=1e-3)


def test_an_objective_without_content(transfer, small):
    objective = Objective({"style": STYLE, "smooth": Penalty()})
    weights = LossWeights.ones(objective).replace(smooth=0.1)
    for init in ("content", "noise"):
        config = replace(SHORT, objective=objective, init=init, optimizer=Adam())
        result = transfer(config, weights=weights)
        check_result(result, small.shape, 4, terms=("style", "smooth"))
        assert result.history["loss"][-1] < result.history["loss"][0]


@pytest.mark.slow
def test_in_each_region_statistics_are_nearer_to_its_own_style_than_to_the_other(
    content, style, params
):
    styles = [style, 1 - style[::-1, ::-1, ::-1]]
    left = np.zeros(content.shape[:2], np.float32)
    left[:, :48] = 1
    regions = np.stack([left, 1 - left])
    config, weights = jaxnst.preset("default")
    config = replace(config, num_steps=30)
    result = jaxnst.style_transfer(
        content, styles, params=params, weights=weights, config=config, regions=regions
    )

    def statistics(picture):
        objective = replace(config.objective, terms={"style": config.objective.terms["style"]})
        sources = {"style": picture}
        return jaxnst.compute_targets(sources, params, objective=objective)["style"]

    distance = config.objective.terms["style"].distance
    found = statistics(jaxnst.Picture(result.image, regions))
    wanted = [statistics(picture) for picture in styles]
    for region in (0, 1):
        own, other = (
            sum(
                weight * distance(found[layer][region], wanted[index][layer][0])
                for layer, weight in weights.layers["style"].items()
            )
            for index in (region, 1 - region)
        )
        assert other > 3 * own, "the criterion of regions"
