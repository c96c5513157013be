"""Give each picture of some folders the style.

Pictures of one shape run one after the other, so that each shape is compiled once. While some
pictures are computed, the next ones are read and the last ones are written.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnst.app.inputs import recolored
from jaxnst.app.jobs import Callback, IsDone, Made
from jaxnst.app.manifest import Entry
from jaxnst.app.options import Choice
from jaxnst.color import COLORS
from jaxnst.decode import picture_size, read_content
from jaxnst.devices import make_mesh, put
from jaxnst.images import read_picture
from jaxnst.kinds import is_picture_name, unread_reason
from jaxnst.optimize import Status
from jaxnst.scale import check_problem
from jaxnst.sources import Picture
from jaxnst.sweep import sweep
from jaxnst.transfer import TransferResult, make_problem
from jaxnst.vgg import Params, min_size


class Content(NamedTuple):
    """A picture to give the style, or the reason why it cannot be."""

    path: Path
    output: str  #: the path of the result within the job's folder, with slashes
    error: str | None = None  #: the reason why it cannot be read


def find_contents(
    paths: Sequence[Path], suffix: str, *, output: Path | None = None
) -> list[Content]:
    """Return the given pictures and all pictures in the given folders, in a fixed order.

    A result has the name of its content with another suffix. Where two results would have the same
    name, the suffix of the content stays in the name. Subfolders are kept. A picture of a kind that
    jaxnst does not read, or a folder that it cannot read, is returned with an `error`.

    Args:
        paths: pictures and folders.
        suffix: the suffix of the results, such as ".png".
        output: the folder of the results, in which no contents are looked for.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: two results would still have the same name, there are no pictures, or a path is
            a pipe or a device.
    """
    found: dict[Path, Path] = {}  # the path within its folder, by the path
    errors: dict[Path, str | None] = {}
    for path in dict.fromkeys(paths):
        if path.is_dir():
            for inside, error in _inside(path, output):
                found[inside] = inside.relative_to(path)
                errors[inside] = error
        elif path.is_file():
            found[path] = Path(path.name)
        elif path.exists():
            raise ValueError(f"{str(path)!r} is no regular file: give pictures or folders")
        else:
            raise FileNotFoundError(f"there is no file {str(path)!r}: check the path")
    if not found:
        listed = ", ".join(map(str, dict.fromkeys(paths)))
        raise ValueError(f"there are no pictures in {_shortened(listed)}")
    names = {path: inside.with_suffix(suffix) for path, inside in found.items()}
    common = _common(names)
    for path in common:
        names[path] = found[path].with_name(found[path].name + suffix)
    if same := _common(names):
        raise ValueError(
            f"results of {same[0]} and {same[1]} would be called the same: run them one by one"
        )
    return [Content(path, name.as_posix(), errors.get(path)) for path, name in names.items()]


def _inside(folder: Path, output: Path | None) -> Iterator[tuple[Path, str | None]]:
    """Yield the pictures below a folder, sorted, each with the reason why it cannot be read."""
    unreadable: list[OSError] = []
    paths: dict[Path, str | None] = {}
    for here, folders, files in os.walk(folder, onerror=unreadable.append):
        at = Path(here)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and (output is None or not _same(at / name, output))
        ]
        for name in files:
            path = at / name
            reason = unread_reason(path)
            if not name.startswith(".") and (is_picture_name(path) or reason) and path.is_file():
                paths[path] = reason
    for error in unreadable:
        paths[Path(error.filename)] = f"folder {error.filename!r} cannot be read: {error.strerror}"
    yield from sorted(paths.items())


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.samefile(b)


def _shortened(text: str) -> str:
    return text if len(text) < 200 else f"{text[:200]} …"


def _common(names: dict[Path, Path]) -> list[Path]:
    """Return the keys whose names are the same."""
    # Some file systems do not distinguish capital letters from small ones.
    count = Counter(str(name).lower() for name in names.values())
    return [path for path, name in names.items() if count[str(name).lower()] > 1]


class Loaded(NamedTuple):
    """A content that was read."""

    entry: Entry
    image: np.ndarray[Any, Any]
    alpha: np.ndarray[Any, Any] | None


@dataclass(frozen=True)
class BatchJob:
    """Contents, and what all of their results have in common.

    Attributes:
        contents: the share of this process, from `find_contents`.
        styles: the pictures with their shares.
        params: as for `style_transfer`.
        choice: the recipe, and how pictures are loaded.
        settings: see `jobs.Job`.
        lanes: number of pictures of one shape that run at once.
        multiple: the other side of a picture is rounded to a multiple of this many pixels, as by
            `load_image`.
    """

    contents: Sequence[Content]
    styles: Sequence[Picture]
    params: Params
    choice: Choice
    settings: dict[str, str]
    lanes: int = 1
    multiple: int = 1

    @property
    def count(self) -> int:
        """Return the number of pictures of this process."""
        return len(self.contents)

    def check(self) -> None:
        """Check the styles and the recipe.

        Raises:
            TypeError, ValueError: as for `style_transfer`.
        """
        config, weights, *_ = self.choice
        problem = make_problem(
            self.styles[0].image, self.styles, params=self.params, weights=weights, config=config
        )
        check_problem(problem, config)

    def make(
        self, is_done: IsDone, callback: Callback, stopped: Callable[[], bool]
    ) -> Iterator[Made]:
        """Give each content the style, and yield the results by shape.

        A content that cannot be read yields an error, and the others continue. When the job is
        stopped, unfinished pictures are lost.
        """
        mesh = make_mesh(jax.local_devices()[: self.lanes])
        params = put(self.params, None, mesh)
        with ThreadPoolExecutor(2) as readers:
            load = partial(self._load, is_done)
            loads = _ahead(readers, load, _by_shape(self.contents), self.lanes)
            for group in _grouped(takewhile(lambda _: not stopped(), loads), self.lanes):
                if isinstance(group, Made):
                    yield group
                elif stopped():
                    break  # before the next group begins
                else:
                    began = time.perf_counter()
                    results = self._transfer(group, params, callback)
                    if any(result.status is Status.INTERRUPTED for result in results):
                        break
                    seconds = (time.perf_counter() - began) / len(group)
                    for (entry, image, alpha), result in zip(group, results, strict=True):
                        image = COLORS[self.choice.color].finish(result.image, image)
                        result = result._replace(image=image)
                        yield Made(entry, result, alpha=alpha, seconds=seconds)
            readers.shutdown(wait=False, cancel_futures=True)

    def _load(self, is_done: IsDone, content: Content) -> Loaded | Made:
        """Read a content, or return why there is nothing to read: it is done, or an error."""
        geometry = self.choice.geometry
        multiple = 1 if geometry.crop else self.multiple
        entry: Entry = {
            "output": content.output,
            "content": str(content.path),
            "settings": self.settings,
        }
        if content.error is not None:
            return Made(entry, error=content.error)
        try:
            data = read_content(content.path)  # once
            entry["content_sha256"] = sha256(data).hexdigest()
            if is_done(entry):
                return Made(entry)
            options = asdict(geometry) | {"multiple": multiple}
            image, alpha = read_picture(content.path, content=data, **options)
            least = min_size(self.choice.config.objective.layers)
            if min(image.shape[:2]) < least:
                height, width = image.shape[:2]
                raise ValueError(
                    f"{str(content.path)!r} is {width}x{height} pixels at this size, and the "
                    f"network needs {least}x{least}: give a larger --size"
                )
            return Loaded(entry, image, alpha)
        except (OSError, ValueError) as error:
            return Made(entry, error=" ".join(str(error).split()))

    def _transfer(
        self, group: Sequence[Loaded], params: Params, callback: Callback
    ) -> list[TransferResult]:
        """Return the results of a group.

        A group is filled up to the same number of lanes, so that one program serves all groups and
        the last bits of a picture do not depend on the other pictures of its group.
        """
        filled = [*group, *[group[-1]] * (self.lanes - len(group))]
        contents = np.stack([loaded.image for loaded in filled])
        contents, styles = recolored(self.choice.color, contents, self.styles)
        results = sweep(
            contents,
            list(styles),
            params=params,
            weights=self.choice.weights,
            config=self.choice.config,
            lane_batch=self.lanes,
            callback=callback,
        )
        return list(results[: len(group)])


def _by_shape(contents: Sequence[Content]) -> list[Content]:
    """Sort pictures by their proportions, so that pictures of one shape are neighbours."""

    def proportions(content: Content) -> float:
        size = picture_size(content.path)
        return size[0] / size[1] if size and min(size) else 0.0

    return sorted(contents, key=proportions)


def _ahead(
    readers: ThreadPoolExecutor,
    load: Callable[[Content], Loaded | Made],
    contents: Iterable[Content],
    lanes: int,
) -> Iterator[Loaded | Made]:
    """Load contents in order, some of them in advance, and yield what was loaded."""
    pending: deque[Future[Loaded | Made]] = deque()
    rest = iter(contents)
    while True:
        pending.extend(readers.submit(load, c) for c in islice(rest, 2 * lanes + 1 - len(pending)))
        if not pending:
            return
        yield pending.popleft().result()


def _grouped(loads: Iterable[Loaded | Made], lanes: int) -> Iterator[list[Loaded] | Made]:
    """Yield neighbours of one shape as groups of `lanes` pictures, and the rest as it is."""
    group: list[Loaded] = []
    for loaded in loads:
        if isinstance(loaded, Made):
            yield loaded
            continue
        if group and (len(group) == lanes or group[0].image.shape != loaded.image.shape):
            yield group
            group = []
        group.append(loaded)
    if group:
        yield group
