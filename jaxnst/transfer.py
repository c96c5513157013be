"""Neural style transfer: the image that minimises the perceptual loss."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from jaxnst.checks import check_positive_integer
from jaxnst.objective import (
    LossWeights,
    Targets,
    bind_loss_and_grad,
    canonical_weights,
    compute_targets,
)
from jaxnst.optimize import (
    SINGLE,
    Compiled,
    Progress,
    Result,
    State,
    Status,
    init,
    run,
)
from jaxnst.pyramid import Shape, carry_moments, refine, resize, shrink
from jaxnst.signals import interruptible
from jaxnst.transfer_config import TransferConfig, make_optimizer, schedule
from jaxnst.vgg import Params, check_image

History = dict[str, np.ndarray[Any, Any]]


class TransferState(NamedTuple):
    """A transfer as one pytree of arrays and numbers; `style_transfer(resume=…)` goes on from it.

    The key is not part of it: noise is drawn once, before the first evaluation.
    """

    scale: Any  #: index of the scale at work, from coarse to fine
    begun: Any  #: evaluations made before that scale
    leaves: list[Any]  #: of the optimiser's `State` there
    history: History  #: of all evaluations so far


class TransferResult(NamedTuple):
    """What `style_transfer` returns."""

    image: jax.Array  #: the answer, (H, W, 3), clipped to [0, 1]
    status: Status
    #: By evaluation: evaluation, seconds (at the end of the chunk it was made in), loss, content,
    #: style, tv, and size, the long side in pixels.
    history: History


def style_transfer(
    content: Float[Array, "h w 3"],
    style: Float[Array, "_ _ 3"] | Sequence[Float[Array, "_ _ 3"]],
    *,
    params: Params,
    weights: LossWeights,
    config: TransferConfig,
    key: Key[Array, ""] | None = None,
    initial_image: Float[Array, "h w 3"] | None = None,
    resume: TransferState | None = None,
    callback: Callable[[Progress], object] | None = None,
    every: int | None = None,
) -> TransferResult:
    """Give `content` the style of one or several pictures (Gatys et al. 2016).

    With `config.min_size` it goes from coarse to fine: each scale starts from the last one's image,
    with the details of the first image that only the finer scale shows, made about as strong as
    those of the style (`pyramid.refine`), and styles are resized along with the content, never
    enlarged.

    Args:
        content: (H, W, 3), sRGB in [0, 1].
        style: one image of any size, or a list whose styles are blended in equal shares.
        params: from `load_params`.
        weights: coefficients of the loss, from `preset`.
        config: the rest of the recipe, from `preset`.
        key: for the noise; `jax.random.key(config.seed)` by default.
        initial_image: (H, W, 3), to start from this and not from what `config.init` says.
        resume: the `state` of a `Progress`, to go on from there with the same arguments, to the
            same bits as if there had been no pause.
        callback: called about once a second with a `Progress`, whose `x` has the size of the scale
            at work and whose `state` is a `TransferState`; a true answer ends the run.
        every: call it at each multiple of so many evaluations too.

    Returns:
        A `TransferResult`. A loss that is not finite or an interruption (Ctrl-C) is its `status`,
        and its image is the best one so far, enlarged if the last scale was not reached.

    Raises:
        TypeError, ValueError: an image, weights or a state that do not fit the config.
    """
    styles = list(style) if isinstance(style, Sequence) else [style]
    for name, picture in (("content", content), *(("style", picture) for picture in styles)):
        check_image(picture, name)
    if every is not None:
        check_positive_integer("every", every)
    content, styles = jnp.asarray(content), [jnp.asarray(picture) for picture in styles]
    with interruptible() as interrupted:
        image, status, history = coarse_to_fine(
            content,
            styles,
            first_image(content, config, key, initial_image),
            params=params,
            weights=canonical_weights(weights),
            config=config,
            programs=SINGLE_PROGRAMS,
            interrupted=interrupted,
            resume=resume,
            callback=callback,
            every=every,
        )
    return TransferResult(image, Status(int(status)), history)


@dataclass(frozen=True)
class Programs:
    """What the scales of a transfer call: for a single image here, for many lanes in `sweep`."""

    resize: Callable[[jax.Array, Shape], jax.Array]
    refine: Callable[[jax.Array, jax.Array, Sequence[jax.Array], Shape], jax.Array]
    shrink: Callable[[jax.Array, float], jax.Array]
    compute_targets: Callable[..., Targets]  #: (content, styles, params, config)
    init: Callable[..., State]  #: as `init_at`
    carry: Callable[[State, State, Shape], State]  #: as `carry_over`
    compiled: Compiled


def carry_over(old: State, fresh: State, shape: Shape) -> State:
    """The state to begin a scale with, after the one at the last scale's end. Pure.

    A run that was lost stays so; of several lanes, the others go on.
    """
    lost = (old.status == Status.NON_FINITE) | ~jnp.isfinite(old.best_loss)
    return replace(
        fresh,
        opt_state=carry_moments(old.opt_state, fresh.opt_state, (*shape, 3)),
        status=jnp.where(lost, Status.NON_FINITE, fresh.status).astype(jnp.int32),
    )


def init_at(
    x: jax.Array,
    evaluation: Any,
    args: tuple[Any, ...],
    *,
    loss_and_grad: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    average: float,
) -> State:
    """`init` after so many evaluations, with what varies first."""
    return init(
        loss_and_grad, x, *args, optimizer=optimizer, average=average, evaluation=evaluation
    )


def _resized(image: jax.Array, shape: Shape) -> jax.Array:
    return image if image.shape[:2] == shape else resize(image, *shape)


def _refined(
    image: jax.Array, start: jax.Array, styles: Sequence[jax.Array], shape: Shape
) -> jax.Array:
    return refine(image, start, styles, *shape)


SINGLE_PROGRAMS = Programs(
    resize=_resized,
    refine=_refined,
    shrink=shrink,
    compute_targets=compute_targets,
    init=init_at,
    carry=carry_over,
    compiled=SINGLE,
)


def coarse_to_fine(
    content: jax.Array,
    styles: Sequence[jax.Array],
    start: jax.Array,
    *,
    params: Params,
    weights: LossWeights,
    config: TransferConfig,
    programs: Programs,
    interrupted: threading.Event,
    resume: TransferState | None = None,
    callback: Callable[[Progress], object] | None = None,
    every: int | None = None,
) -> tuple[jax.Array, Any, History]:
    """The loop of `style_transfer` over scales, for one image or for whatever `programs` run.

    Returns:
        The image, the status and the history; by lanes, where there are any.
    """
    scales = schedule(content, config)
    loss_and_grad, optimizer = bind_loss_and_grad(config.objective), make_optimizer(config)
    at = TransferState(0, np.int32(0), [], {}) if resume is None else resume
    history, begun = at.history, np.asarray(at.begun)
    clock = time.perf_counter() - (history["seconds"][..., -1].max() if history else 0.0)
    x = start
    result: Result | None = None
    for index in range(int(at.scale), len(scales)):
        shape, num_steps = scales[index]
        ratio = max(shape) / max(scales[-1].shape)
        styles_here = [programs.shrink(style, ratio) for style in styles]
        targets = programs.compute_targets(
            programs.resize(content, shape),
            styles_here,
            params,
            config=config.objective,
        )
        args = params, targets, weights
        # Departs from crowsonkb, whose scales start from a blurred image and have to find anew the
        # details of the content that coarser scales had no room for.
        x = (
            programs.resize(x, shape)
            if result is None
            else programs.refine(x, start, styles_here, shape)
        )
        state = programs.init(
            x,
            begun,
            args,
            loss_and_grad=loss_and_grad,
            optimizer=optimizer,
            average=config.average,
        )
        if result is not None:
            state = programs.carry(result.state, state, shape)
        elif resume is not None:
            state = _restored(resume.leaves, state)
        report = _Report(
            callback,
            scale=index,
            begun=begun,
            num_steps=int(begun.max()) + sum(scale.num_steps for scale in scales[index:]),
            size=max(shape),
            seconds=time.perf_counter() - clock,
            history=history,
        )
        result = run(
            loss_and_grad,
            state,
            *args,
            num_steps=begun + num_steps,
            interrupted=interrupted,
            compiled=programs.compiled,
            callback=report,
            every=every,
        )
        x, history = result.x, report.join(result.history)
        begun, status = np.asarray(result.state.evaluation), np.asarray(result.status)
        if interrupted.is_set() and index < len(scales) - 1:
            # Even those that were done with this scale.
            status = np.where(status == Status.NON_FINITE, status, Status.INTERRUPTED)
        if np.isin(status, (Status.INTERRUPTED, Status.NON_FINITE)).all():
            break
    assert result is not None  # there is at least one scale
    # Departs from systems that clamp inside the loop, which breaks L-BFGS: the history has the
    # losses of images before clipping.
    return jnp.clip(programs.resize(x, scales[-1].shape), 0, 1), status, history


@dataclass(frozen=True)
class _Report:
    """Makes what a scale's run tells into what the whole transfer tells."""

    callback: Callable[[Progress], object] | None
    scale: int
    begun: Any  #: evaluations made before this scale
    num_steps: int  #: of all scales
    size: int  #: long side
    seconds: float  #: when this scale's run began, or went on
    history: History  #: before that

    def join(self, history: History) -> History:
        """The history of the transfer with that of this run behind it."""
        if not history:
            return self.history
        here = history | {
            "seconds": self.seconds + history["seconds"],
            "size": np.full(history["loss"].shape, self.size),
        }
        return {k: np.concatenate([self.history[k], v], axis=-1) if self.history else v
                for k, v in here.items()}  # fmt: skip

    def __call__(self, progress: Progress) -> object:
        if self.callback is None:
            return None
        history = self.join(progress.history)
        leaves = jax.tree.leaves(progress.state)
        return self.callback(
            progress._replace(
                num_steps=self.num_steps,
                seconds=float(history["seconds"][..., -1].max()),
                history=history,
                state=TransferState(self.scale, self.begun, leaves, history),
            )
        )


def first_image(
    content: jax.Array,
    config: TransferConfig,
    key: jax.Array | None,
    initial_image: jax.Array | None,
) -> jax.Array:
    """Where a transfer starts; noise comes at the size of the coarsest scale."""
    if initial_image is not None:
        check_image(initial_image, "initial_image")
        if initial_image.shape != content.shape:
            raise ValueError(
                f"initial_image has the shape {tuple(initial_image.shape)}, "
                f"but content has {tuple(content.shape)}"
            )
        return jnp.asarray(initial_image)
    if config.init == "noise":
        key = jax.random.key(config.seed) if key is None else key
        # At the coarsest scale, so that it is white there.
        return jax.random.uniform(key, (*schedule(content, config)[0].shape, 3), content.dtype)
    return content


def _restored(leaves: list[Any], like: State) -> State:
    """The state that has these leaves, copied, since `run` uses its state up."""
    wanted = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(like)]
    if [(leaf.shape, leaf.dtype) for leaf in leaves] != wanted:
        raise ValueError("the state to resume does not fit these images and this config")
    structure = jax.tree.structure(like)
    return jax.tree.unflatten(structure, [jnp.array(leaf, copy=True) for leaf in leaves])
