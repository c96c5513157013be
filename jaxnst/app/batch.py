"""Folders of pictures: a job of thousands that is cut off goes on where it was.

Pictures of one shape run one after the other, so that each shape is compiled once; while some are
computed, the next are read and the last are written.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnst.app.manifest import Entry, Manifest, file_digest
from jaxnst.app.options import Choice
from jaxnst.app.sweep_folder import save_result
from jaxnst.decode import is_picture_name, picture_size
from jaxnst.devices import make_mesh, put
from jaxnst.images import read_picture
from jaxnst.lanes import SweepProgress
from jaxnst.optimize import Status
from jaxnst.sweep import sweep
from jaxnst.transfer import TransferResult
from jaxnst.vgg import Params, min_size


class Content(NamedTuple):
    """A picture to be worked on."""

    path: Path
    output: str  #: the result's path within the job's folder, with slashes


def find_contents(
    paths: Iterable[Path], suffix: str, *, output: Path | None = None
) -> list[Content]:
    """All pictures that are named, and all in folders that are named, in a fixed order.

    A result is called as its content is, but for the suffix. Where two would be called the same,
    the contents' suffixes stay as parts of the names. Folders within folders are kept.

    Args:
        paths: of pictures and of folders.
        suffix: of the results, such as ".png".
        output: the folder of the results, which are no contents.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: two results would still be called the same, or there are no pictures.
    """
    found: dict[Path, Path] = {}  # the path within its folder, by the path
    for path in paths:
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if _is_content(file, path)]
            if output is not None and path.resolve() in output.resolve().parents:
                inside = [f for f in inside if output.resolve() not in f.resolve().parents]
            found |= {file: file.relative_to(path) for file in inside}
        elif path.exists():
            found[path] = Path(path.name)
        else:
            raise FileNotFoundError(f"there is no file {str(path)!r}: check the path")
    if not found:
        raise ValueError(f"there are no pictures in {', '.join(map(str, paths))}")
    names = {path: inside.with_suffix(suffix) for path, inside in found.items()}
    common = _common(names)
    for path in common:
        names[path] = found[path].with_name(found[path].name + suffix)
    if same := _common(names):
        listed = " and ".join(str(path) for path in same)
        raise ValueError(f"results of {listed} would be called the same: run them one by one")
    return [Content(path, name.as_posix()) for path, name in names.items()]


def _is_content(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.is_file() and is_picture_name(path) and not hidden


def _common(names: dict[Path, Path]) -> list[Path]:
    """Return keys whose names collide."""
    # Some file systems do not tell capital letters from small ones.
    count = Counter(str(name).lower() for name in names.values())
    return [path for path, name in names.items() if count[str(name).lower()] > 1]


@dataclass(frozen=True)
class Batch:
    """A job: what all of its pictures have in common.

    Attributes:
        styles: images, blended.
        params: as for `style_transfer`.
        choice: the recipe, and how pictures are loaded.
        settings: what of all that a manifest is to tell and to compare, by name.
        lanes: how many pictures of one shape run at once.
        multiple: of pixels that a picture's other side is rounded to, see `load_image`.
    """

    styles: Sequence[Any]
    params: Params
    choice: Choice
    settings: dict[str, str]
    lanes: int = 1
    multiple: int = 16


class _Loaded(NamedTuple):
    content: Content
    made_of: dict[str, Any]  #: what a manifest compares
    image: np.ndarray[Any, Any]
    alpha: np.ndarray[Any, Any] | None


def run_batch(
    batch: Batch,
    contents: Sequence[Content],
    manifest: Manifest,
    *,
    interrupted: threading.Event,
    callback: Callable[[SweepProgress], object] | None = None,
) -> Iterator[Entry]:
    """Give each content the style; yield a line of the manifest for each that was worked on.

    What the manifest has as done already is left alone. A content that cannot be read has a line
    with status "failed" and the reason, and the others go on.

    Args:
        batch: the job.
        contents: from `find_contents`.
        manifest: of the folder of the results, open.
        interrupted: ends the job once it is set, which Ctrl-C does; what is in work is lost.
        callback: as in `sweep`, about the pictures in work.

    Raises:
        OSError: a result cannot be written, say on a full disk.
    """
    devices = jax.local_devices()[: batch.lanes]
    batch = replace(batch, params=put(batch.params, None, make_mesh(devices)))
    written: deque[Future[Entry]] = deque()
    with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(1) as writer:
        loads = _ahead(readers, partial(_load, batch, manifest), _by_shape(contents), batch.lanes)
        going = takewhile(lambda _: not interrupted.is_set(), loads)
        for group in _grouped(going, batch.lanes):
            if interrupted.is_set():
                break  # what was read before is not begun
            if isinstance(group, dict):
                written.append(writer.submit(manifest.append, group))
            else:
                began = time.perf_counter()
                results = _transfer(batch, group, callback)
                if any(result.status is Status.INTERRUPTED for result in results):
                    interrupted.set()
                    break
                seconds = (time.perf_counter() - began) / len(group)
                for loaded, result in zip(group, results, strict=True):
                    entry = {"output": loaded.content.output} | loaded.made_of
                    save = partial(
                        save_result, manifest, entry, result, alpha=loaded.alpha, seconds=seconds
                    )
                    written.append(writer.submit(save))
            # The next group waits for the writing of the last but one.
            while len(written) > 2 * batch.lanes or (written and written[0].done()):
                yield written.popleft().result()
        readers.shutdown(wait=False, cancel_futures=True)
        while written:
            yield written.popleft().result()


def _by_shape(contents: Sequence[Content]) -> list[Content]:
    """Sort pictures by their proportions, so that those of one shape follow each other."""

    def proportions(content: Content) -> float:
        size = picture_size(content.path)
        return size[0] / size[1] if size and min(size) else 0.0

    return sorted(contents, key=proportions)


def _ahead(
    readers: ThreadPoolExecutor,
    load: Callable[[Content], _Loaded | Entry | None],
    contents: Iterable[Content],
    lanes: int,
) -> Iterator[_Loaded | Entry | None]:
    """What is loaded, in order, some of it before it is asked for."""
    pending: deque[Future[_Loaded | Entry | None]] = deque()
    rest = iter(contents)
    while True:
        pending.extend(readers.submit(load, c) for c in islice(rest, 2 * lanes + 1 - len(pending)))
        if not pending:
            return
        yield pending.popleft().result()


def _load(batch: Batch, manifest: Manifest, content: Content) -> _Loaded | Entry | None:
    """The picture, or a line that tells why not, or None if there is nothing left to do."""
    geometry = batch.choice.geometry
    multiple = 1 if geometry.crop else batch.multiple
    made_of: dict[str, Any] = {"content": str(content.path), "settings": batch.settings}
    try:
        made_of["content_sha256"] = file_digest(content.path)
        if manifest.is_done(content.output, made_of):
            return None
        image, alpha = read_picture(content.path, **asdict(geometry), multiple=multiple)
        least = min_size(batch.choice.config.objective.layers)
        if min(image.shape[:2]) < least:
            height, width = image.shape[:2]
            raise ValueError(
                f"{str(content.path)!r} is {width}x{height} pixels at this size, and the network "
                f"needs {least}x{least}: give a larger --size"
            )
        return _Loaded(content, made_of, image, alpha)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        return {"output": content.output, "status": "failed", "error": reason} | made_of


def _grouped(
    loads: Iterable[_Loaded | Entry | None], lanes: int
) -> Iterator[list[_Loaded] | Entry]:
    """Pictures of one shape that follow each other, so many at a time; lines as they come."""
    group: list[_Loaded] = []
    for loaded in loads:
        if loaded is None:
            continue
        if isinstance(loaded, dict):
            yield loaded
            continue
        if group and (len(group) == lanes or group[0].image.shape != loaded.image.shape):
            yield group
            group = []
        group.append(loaded)
    if group:
        yield group


def _transfer(
    batch: Batch, group: list[_Loaded], callback: Callable[[SweepProgress], object] | None
) -> list[TransferResult]:
    """The results of a group.

    It is always filled up to the same number of lanes, so that one program serves all groups and
    a picture does not depend, in its last bits, on which others it came with.
    """
    filled = group + group[-1:] * (batch.lanes - len(group))
    results = sweep(
        np.stack([loaded.image for loaded in filled]),
        list(batch.styles),
        params=batch.params,
        weights=batch.choice.weights,
        config=batch.choice.config,
        lane_batch=batch.lanes,
        callback=callback,
    )
    return list(results[: len(group)])
