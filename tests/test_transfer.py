"""Whole transfers with the real network: starts, keys, styles, refusals."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnst import (
    LossWeights,
    ObjectiveConfig,
    Progress,
    Status,
    TransferConfig,
    compute_targets,
    perceptual_loss,
    preset,
    style_transfer,
)
from jaxnst.pyramid import refine, resize, shrink
from jaxnst.transfer import TransferState
from jaxnst.transfer_config import schedule
from jaxnst.vgg import Params

CONFIG, WEIGHTS = preset("pastiche")
SHORT = dataclasses.replace(CONFIG, num_steps=4)
NOISE = dataclasses.replace(SHORT, init="noise")


@pytest.fixture(scope="module")
def small(content: jax.Array) -> jax.Array:
    return resize(content, 36, 48)


@pytest.fixture(scope="module")
def paint(style: jax.Array) -> jax.Array:
    return resize(style, 40, 32)


@pytest.fixture(scope="module")
def other(style: jax.Array) -> jax.Array:
    """Of another size than `paint`."""
    return 1 - resize(style, 24, 33)


def transfer(
    content: Any, style: Any, params: Params, config: TransferConfig = SHORT, **options: Any
) -> Any:
    options = {"weights": WEIGHTS} | options
    return style_transfer(content, style, params=params, config=config, **options)


def first_loss(
    image: jax.Array, content: jax.Array, styles: list[jax.Array], params: Params
) -> float:
    targets = compute_targets(content, styles, params, config=CONFIG.objective)
    loss, _ = perceptual_loss(image, params, targets, WEIGHTS, config=CONFIG.objective)
    return float(loss)


def check_result(result: Any, content: Any, num_steps: int) -> None:
    assert isinstance(result.image, jax.Array)
    assert result.image.shape == content.shape
    assert result.image.dtype == jnp.float32
    assert np.isfinite(result.image).all()
    assert float(result.image.min()) >= 0 and float(result.image.max()) <= 1
    assert result.status is Status.OK
    terms = ["loss", "content", "style", "tv"]
    assert list(result.history) == ["evaluation", "seconds", *terms, "size"]
    assert {values.shape for values in result.history.values()} == {(num_steps,)}
    np.testing.assert_array_equal(result.history["evaluation"], np.arange(1, num_steps + 1))
    terms = sum(result.history[name] for name in ("content", "style", "tv"))
    np.testing.assert_allclose(result.history["loss"], terms, rtol=1e-5)


# --- starts ------------------------------------------------------------------------------------


def test_starts_from_content(small: jax.Array, paint: jax.Array, params: Params) -> None:
    result = transfer(small, paint, params)
    check_result(result, small, 4)
    assert result.history["content"][0] < 1e-3 * result.history["loss"][0]
    expected = first_loss(small, small, [paint], params)
    assert result.history["loss"][0] == pytest.approx(expected, rel=1e-4)


def test_starts_from_noise(small: jax.Array, paint: jax.Array, params: Params) -> None:
    result = transfer(small, paint, params, NOISE)
    check_result(result, small, 4)
    noise = jax.random.uniform(jax.random.key(CONFIG.seed), small.shape)
    expected = first_loss(noise, small, [paint], params)
    assert result.history["loss"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("config", [SHORT, NOISE])
def test_starts_from_an_initial_image(
    small: jax.Array, paint: jax.Array, params: Params, config: TransferConfig
) -> None:
    start = 1 - small
    result = transfer(small, paint, params, config, initial_image=start)
    check_result(result, small, 4)
    expected = first_loss(start, small, [paint], params)
    assert result.history["loss"][0] == pytest.approx(expected, rel=1e-4)


def test_the_key_decides(small: jax.Array, paint: jax.Array, params: Params) -> None:
    def image(config: TransferConfig = NOISE, **options: Any) -> np.ndarray:
        return np.asarray(transfer(small, paint, params, config, **options).image)

    one = image(key=jax.random.key(1))
    np.testing.assert_array_equal(one, image(key=jax.random.key(1)))
    np.testing.assert_array_equal(one, image(dataclasses.replace(NOISE, seed=1)))
    assert np.abs(one - image(key=jax.random.key(2))).mean() > 0.01


def test_the_same_call_gives_the_same_bits(
    small: jax.Array, paint: jax.Array, params: Params
) -> None:
    one, two = (transfer(small, paint, params) for _ in range(2))
    np.testing.assert_array_equal(one.image, two.image)
    for name in one.history.keys() - {"seconds"}:
        np.testing.assert_array_equal(one.history[name], two.history[name])


# --- optimisers --------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_the_loss_goes_down(
    small: jax.Array, paint: jax.Array, params: Params, optimizer: str
) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer, num_steps=15)
    result = transfer(small, paint, params, config)
    check_result(result, small, 15)
    assert result.history["loss"].min() < 0.6 * result.history["loss"][0]
    assert np.abs(np.asarray(result.image) - small).max() > 0.01


def test_the_learning_rate_is_used(small: jax.Array, paint: jax.Array, params: Params) -> None:
    # Adam's first step has the length of its rate.
    config = dataclasses.replace(CONFIG, optimizer="adam", learning_rate=0.005, num_steps=2)
    image = transfer(jnp.full_like(small, 0.5), paint, params, config).image
    assert float(jnp.abs(image - 0.5).max()) == pytest.approx(0.005, rel=1e-3)


def test_one_evaluation_gives_the_start(small: jax.Array, paint: jax.Array, params: Params) -> None:
    result = transfer(small, paint, params, dataclasses.replace(CONFIG, num_steps=1))
    check_result(result, small, 1)
    np.testing.assert_array_equal(result.image, small)


# --- coarse to fine ----------------------------------------------------------------------------

PYRAMID = dataclasses.replace(SHORT, min_size=24, first_steps=6)
ADAM = dataclasses.replace(
    PYRAMID, optimizer="adam", average=0.9, clamp=True, beta2=0.99, scale_factor=2**0.5
)
BOTH = pytest.mark.parametrize("config", [PYRAMID, ADAM], ids=["lbfgs", "adam"])


def test_the_schedule(small: jax.Array) -> None:
    assert schedule(small, SHORT) == [((36, 48), 4)]
    assert schedule(small, PYRAMID) == [((18, 24), 6), ((36, 48), 4)]
    assert [width for (_, width), _ in schedule(small, ADAM)] == [24, 34, 48]
    # relu5_1 needs 16 pixels, and a scale that has them not is left out.
    flat = small[:20]
    assert schedule(flat, PYRAMID) == [((20, 48), 6)]
    coarse = dataclasses.replace(PYRAMID, scale_factor=1.4, coarse_steps=3)
    assert [steps for _, steps in schedule(small, coarse)] == [6, 3, 4]
    coarse = dataclasses.replace(coarse, first_steps=None)
    assert [steps for _, steps in schedule(small, coarse)] == [3, 3, 4]
    shallow = dataclasses.replace(
        PYRAMID, objective=ObjectiveConfig(("relu2_1",), ("relu1_1", "relu2_1"))
    )
    assert schedule(flat, shallow) == [((10, 24), 6), ((20, 48), 4)]
    # A picture below the least size has one scale, which is the first.
    assert schedule(small, dataclasses.replace(PYRAMID, min_size=100)) == [((36, 48), 6)]


@BOTH
def test_each_scale_starts_from_the_last_ones_image(
    small: jax.Array, paint: jax.Array, params: Params, config: TransferConfig
) -> None:
    seen: list[Progress] = []
    result = transfer(small, paint, params, config, callback=seen.append, every=1)
    scales = schedule(small, config)
    check_result(result, small, sum(scale.num_steps for scale in scales))
    sizes = [width for (_, width), num_steps in scales for _ in range(num_steps)]
    assert result.history["size"].tolist() == sizes
    assert [progress.x.shape[1] for progress in seen] == sizes
    assert {progress.num_steps for progress in seen} == {len(sizes)}
    assert [progress.evaluation for progress in seen] == list(range(1, len(sizes) + 1))
    assert (np.diff(result.history["seconds"]) > 0).all()
    # The first loss at the next scale is that of the last one's answer with finer details.
    (_, first_steps), ((height, width), _), *_ = scales
    ratio = width / small.shape[1]
    before = refine(seen[first_steps - 1].x, small, [shrink(paint, ratio)], height, width)
    targets = compute_targets(
        shrink(small, ratio), [shrink(paint, ratio)], params, config=config.objective
    )
    loss, _ = perceptual_loss(before, params, targets, WEIGHTS, config=config.objective)
    assert result.history["loss"][first_steps] == pytest.approx(float(loss), rel=1e-3)


@pytest.mark.slow  # half a minute
def test_it_pays_to_begin_small(content: jax.Array, style: jax.Array, params: Params) -> None:
    at_once = dataclasses.replace(CONFIG, num_steps=20)
    slowly = dataclasses.replace(at_once, min_size=48, first_steps=60)
    one, two = (
        transfer(content, style, params, config).history["loss"][-1] for config in (at_once, slowly)
    )
    assert two < 0.8 * one


def test_noise_is_drawn_at_the_coarsest_scale(
    small: jax.Array, paint: jax.Array, params: Params
) -> None:
    seen: list[Progress] = []
    config = dataclasses.replace(PYRAMID, init="noise")
    transfer(small, paint, params, config, callback=seen.append, key=jax.random.key(3))
    noise = jax.random.uniform(jax.random.key(3), (18, 24, 3))
    np.testing.assert_array_equal(seen[0].x, noise)  # after one evaluation it is the best


def test_adams_moments_go_on_and_curvature_pairs_do_not(
    small: jax.Array, paint: jax.Array, params: Params
) -> None:
    for config, count in ((ADAM, 6 + 4 + 1), (PYRAMID, 0)):
        states = []

        def look(progress: Progress, states: list[Any] = states) -> None:
            states.append([np.array(leaf) for leaf in progress.state.leaves])

        begun = sum(scale.num_steps for scale in schedule(small, config)[:-1])
        transfer(small, paint, params, config, callback=look, every=1)
        integers = [int(x) for x in states[begun] if x.shape == () and x.dtype == np.int32]
        assert count in integers


@pytest.mark.parametrize("clamp", [True, False])
def test_clamp_keeps_adam_in_range(
    small: jax.Array, paint: jax.Array, params: Params, clamp: bool
) -> None:
    config = dataclasses.replace(SHORT, optimizer="adam", learning_rate=0.3, clamp=clamp)
    points: list[np.ndarray] = []
    transfer(
        small, paint, params, config, callback=lambda p: points.append(np.array(p.state.leaves[0]))
    )
    beyond = np.abs(points[-1] - 0.5).max() - 0.5
    assert beyond <= 1e-6 if clamp else beyond > 0.1


def test_the_average_is_the_answer(small: jax.Array, paint: jax.Array, params: Params) -> None:
    config = dataclasses.replace(ADAM, min_size=None, average=0.5)
    points: list[np.ndarray] = []
    result = transfer(
        small,
        paint,
        params,
        config,
        callback=lambda p: points.append(np.array(p.state.leaves[0])),
        every=1,
    )
    shares = 0.5 ** np.arange(4)[::-1]
    expected = np.tensordot(shares / shares.sum(), np.array(points), 1)
    np.testing.assert_allclose(result.image, expected.clip(0, 1), atol=1e-5)


# --- to go on ----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "pause",
    [pytest.param(3, marks=pytest.mark.slow), 6, pytest.param(9, marks=pytest.mark.slow)],
)
def test_goes_on_to_the_same_bits(
    small: jax.Array, paint: jax.Array, params: Params, config: TransferConfig, pause: int
) -> None:
    states: list[TransferState] = []

    def stop(progress: Progress) -> bool:
        states.append(jax.tree.map(np.array, progress.state))
        return progress.evaluation == pause

    whole = transfer(small, paint, params, config)
    first = transfer(small, paint, params, config, callback=stop, every=1)
    assert first.status is Status.INTERRUPTED and len(first.history["loss"]) == pause
    assert first.image.shape == small.shape
    second = transfer(small, paint, params, config, resume=states[-1])
    assert second.status is Status.OK
    np.testing.assert_array_equal(second.image, whole.image)
    for name in whole.history.keys() - {"seconds"}:
        np.testing.assert_array_equal(second.history[name], whole.history[name])
    assert (np.diff(second.history["seconds"]) >= 0).all()


def test_a_finished_run_goes_on_to_itself(
    small: jax.Array, paint: jax.Array, params: Params
) -> None:
    states: list[TransferState] = []
    whole = transfer(
        small, paint, params, callback=lambda p: states.append(jax.tree.map(np.array, p.state))
    )
    again = transfer(small, paint, params, resume=states[-1])
    np.testing.assert_array_equal(again.image, whole.image)
    np.testing.assert_array_equal(again.history["loss"], whole.history["loss"])


def test_a_state_of_other_images_is_refused(
    small: jax.Array, paint: jax.Array, params: Params
) -> None:
    states: list[TransferState] = []
    transfer(small, paint, params, callback=lambda p: states.append(p.state))
    with pytest.raises(ValueError) as caught:
        transfer(small[:-2], paint, params, resume=states[-1])
    check_one_line(caught, "the state to resume does not fit")


# --- styles and images -------------------------------------------------------------------------


def test_a_list_of_styles_is_a_blend(
    small: jax.Array, paint: jax.Array, other: jax.Array, params: Params
) -> None:
    result = transfer(small, [paint, other], params)
    check_result(result, small, 4)
    expected = first_loss(small, small, [paint, other], params)
    assert result.history["loss"][0] == pytest.approx(expected, rel=1e-4)
    alone = [transfer(small, style, params).history["loss"][0] for style in (paint, other)]
    assert all(abs(loss / expected - 1) > 1e-3 for loss in alone)


def test_a_style_twice_is_that_style(small: jax.Array, paint: jax.Array, params: Params) -> None:
    once, twice = transfer(small, paint, params), transfer(small, (paint, paint), params)
    np.testing.assert_allclose(once.history["loss"], twice.history["loss"], rtol=1e-3)


def test_numpy_images_do(small: jax.Array, paint: jax.Array, params: Params) -> None:
    expected = transfer(small, paint, params)
    content, style = np.asarray(small), np.asarray(paint)
    for styles in (style, [style]):
        np.testing.assert_array_equal(transfer(content, styles, params).image, expected.image)
    start = transfer(content, style, params, NOISE, initial_image=content)
    np.testing.assert_array_equal(start.image, expected.image)


def test_nothing_given_is_changed(small: jax.Array, paint: jax.Array, params: Params) -> None:
    given = (small, paint, params, WEIGHTS)
    before = jax.tree.map(lambda leaf: np.array(leaf, copy=True), given)
    transfer(small, paint, params, initial_image=small)
    jax.tree.map(np.testing.assert_array_equal, before, given)


# --- callback ----------------------------------------------------------------------------------


def test_the_callback_sees_the_progress(small: jax.Array, paint: jax.Array, params: Params) -> None:
    seen: list[Progress] = []
    result = transfer(small, paint, params, callback=seen.append)
    assert all(isinstance(progress, Progress) for progress in seen)
    evaluations = [progress.evaluation for progress in seen]
    assert evaluations == sorted(set(evaluations)) and evaluations[-1] == 4
    for progress in seen:
        assert progress.num_steps == 4
        assert progress.x.shape == small.shape
        assert progress.seconds > 0
        assert set(progress.terms) == {"content", "style", "tv"}
        assert progress.loss == result.history["loss"][progress.evaluation - 1]
        assert sum(progress.terms.values()) == pytest.approx(progress.loss, rel=1e-5)
    np.testing.assert_array_equal(jnp.clip(seen[-1].x, 0, 1), result.image)


def test_the_callback_can_end_the_run(small: jax.Array, paint: jax.Array, params: Params) -> None:
    config = dataclasses.replace(CONFIG, num_steps=500)
    result = transfer(small, paint, params, config, callback=lambda progress: True)
    assert result.status is Status.INTERRUPTED
    assert 1 <= len(result.history["loss"]) < 500
    assert np.isfinite(result.image).all()


# --- refusals ----------------------------------------------------------------------------------


def check_one_line(caught: pytest.ExceptionInfo[BaseException], part: str) -> None:
    message = str(caught.value)
    assert part in message and len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"init": "black"},
        {"optimizer": "sgd"},
        {"fit": "both"},
        {"crop": True},
        {"num_steps": 0},
        {"num_steps": 1.5},
        {"num_steps": True},
        {"memory": 0},
        {"memory": -1},
        {"size": 0},
        {"size": "512"},
        {"min_size": 0},
        {"first_steps": 0},
        {"coarse_steps": 0},
        {"scale_factor": 1.0},
        {"scale_factor": float("nan")},
        {"beta2": 1.0},
        {"average": 1.0, "optimizer": "adam"},
        {"average": -0.1, "optimizer": "adam"},
        {"clamp": True},
        {"average": 0.9},
        {"learning_rate": 0.0},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
    ],
    ids=str,
)
def test_config_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        TransferConfig(**options)
    check_one_line(caught, next(iter(options)))


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("content", lambda image: image[0], ValueError),
        ("content", lambda image: image[None], ValueError),
        ("content", lambda image: image[..., :1], ValueError),
        ("content", lambda image: (image * 255).astype(jnp.uint8), TypeError),
        ("content", lambda image: image.tolist(), TypeError),
        ("content", lambda image: None, TypeError),
        ("style", lambda image: image[0], ValueError),
        ("style", lambda image: image[None], ValueError),
        ("style", lambda image: [image, image[..., :1]], ValueError),
        ("style", lambda image: [], ValueError),
        ("style", lambda image: (image * 255).astype(jnp.uint8), TypeError),
        ("style", lambda image: "style.png", TypeError),
        ("style", lambda image: None, TypeError),
        ("initial_image", lambda image: image[1:], ValueError),
        ("initial_image", lambda image: image[..., 0], ValueError),
        ("initial_image", lambda image: (image * 255).astype(jnp.uint8), TypeError),
    ],
)
def test_images_that_do_not_fit_are_refused(
    small: jax.Array, params: Params, name: str, change: Any, error: type[Exception]
) -> None:
    images = {"content": small, "style": small, name: change(small)}
    content, style = images.pop("content"), images.pop("style")
    with pytest.raises(error) as caught:
        transfer(content, style, params, **images)
    check_one_line(caught, name)


@pytest.mark.parametrize("name", ["content", "style"])
def test_images_that_are_too_small_are_refused(small: jax.Array, params: Params, name: str) -> None:
    images = {"content": small, "style": small, name: small[:7, :15]}
    with pytest.raises(ValueError) as caught:
        transfer(images["content"], images["style"], params)
    check_one_line(caught, "too small")


@pytest.mark.parametrize("name", ["content_layers", "style_layers"])
def test_weights_that_do_not_fit_are_refused(
    small: jax.Array, paint: jax.Array, params: Params, name: str
) -> None:
    weights: LossWeights = WEIGHTS._replace(**{name: {"relu1_2": 1.0}})
    with pytest.raises(ValueError) as caught:
        transfer(small, paint, params, weights=weights)
    check_one_line(caught, name)


@pytest.mark.parametrize("name", ["content", "style"])
def test_nan_is_a_status(small: jax.Array, paint: jax.Array, params: Params, name: str) -> None:
    images = {"content": small, "style": paint}
    images[name] = images[name].at[3, 3, 1].set(jnp.nan)
    result = transfer(images["content"], images["style"], params)
    assert result.status is Status.NON_FINITE
    assert result.image.shape == small.shape
    assert len(result.history["loss"]) < 4


def test_weights_that_overflow_are_a_status(
    small: jax.Array, paint: jax.Array, params: Params
) -> None:
    result = transfer(small, paint, params, weights=WEIGHTS._replace(style=float("inf")))
    assert result.status is Status.NON_FINITE
    np.testing.assert_array_equal(result.image, small)
