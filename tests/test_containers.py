"""Files that are damaged, hostile or of another kind are refused in one clear line."""

import shutil
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from torch_writer import load_refused

from jaxnst import load_params
from jaxnst.formats import containers
from jaxnst.vgg import CONV_SHAPES

GOLDEN = Path(__file__).parent / "assets" / "keras" / "tf_keras_weights.h5"
KERNEL, BIAS = "block3_conv2/block3_conv2/kernel:0", "block3_conv2/block3_conv2/bias:0"


@pytest.fixture
def path(tmp_path):
    """A VGG19 as Keras writes it, whose values are all 0."""
    return Path(shutil.copy(GOLDEN, tmp_path / "network.h5"))


# --- HDF5 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dataset", "parts"),
    [
        (KERNEL, None, ["conv3_2/kernel: expected (3, 3, 256, 256), found nothing"]),
        (BIAS, None, ["conv3_2/bias: expected (256,), found nothing"]),
        ("block3_conv2", None, ["conv3_2/bias", "conv3_2/kernel", "found nothing"]),
        (KERNEL, {"shape": (256, 256, 3, 3), "dtype": "f4"}, ["found (256, 256, 3, 3)"]),
        (BIAS, {"shape": (), "dtype": "f4"}, ["expected (256,), found ()"]),
        (BIAS, {"shape": (256, 1), "dtype": "f4"}, ["expected (256,), found (256, 1)"]),
        (BIAS, {"data": h5py.Empty("f4")}, ["expected (256,), found ()"]),
        (  # more than any memory
            KERNEL,
            {"shape": (3, 3, 10**7, 10**7), "dtype": "f4", "chunks": (3, 3, 8, 8)},
            ["found (3, 3, 10000000, 10000000)"],
        ),
        *(
            (BIAS, {"shape": (256,), "dtype": dtype}, ["conv3_2/bias must be floating numbers"])
            for dtype in ("i4", "u1", h5py.string_dtype(), h5py.ref_dtype, "c8")
        ),
        *(
            (BIAS, {"data": np.full(256, value, np.float32)}, ["conv3_2 must be finite"])
            for value in (np.nan, np.inf, -np.inf)
        ),
    ],
)
def test_odd_datasets_are_refused(path, name, dataset, parts):
    with h5py.File(path, "r+") as file:
        del file[name]
        if dataset:
            file.create_dataset(name, **dataset)
    load_refused(path, *parts)


@pytest.mark.parametrize("name", [BIAS, "block3_conv2"])
@pytest.mark.parametrize(
    "link",
    [
        h5py.ExternalLink("other.h5", "/secret"),
        h5py.ExternalLink("/etc/passwd", "/"),
        h5py.SoftLink("/block3_conv3/block3_conv3/bias:0"),
        h5py.SoftLink("/nowhere"),
    ],
)
def test_links_are_not_followed(path, name, link):
    with h5py.File(path.with_name("other.h5"), "w") as file:
        file["secret"] = np.zeros(256, np.float32)
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = link
    load_refused(path, name, f"not a {type(link).__name__}")


@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_values_in_another_file_are_not_read(path, tmp_path, kind):
    secret = tmp_path / "secret"
    with h5py.File(secret, "w") as file:
        file["secret"] = np.zeros(256, np.float32)
    layout = h5py.VirtualLayout(shape=(256,), dtype="f4")
    layout[:] = h5py.VirtualSource(secret, "secret", shape=(256,))
    with h5py.File(path, "r+") as file:
        del file[BIAS]
        if kind == "virtual":
            file.create_virtual_dataset(BIAS, layout)
        else:
            file.create_dataset(BIAS, (256,), "f4", external=[(str(secret), 0, 1024)])
    load_refused(path, BIAS, "not in another file")


def test_a_circle_of_groups_is_harmless(path):
    with h5py.File(path, "r+") as file:
        file["block3_conv2/again"] = file["/"]
    assert set(load_params(path)) == {"normalize", *CONV_SHAPES}


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("version", 2, "written by a newer jaxnst"),
        *(
            (name, value, "no VGG19 in a known layout")
            for name in ("format", "version")
            for value in (
                1.0,
                "1",
                b"\xff",
                np.ones(2),
                np.zeros(1, [("a", "f4")]),
                h5py.Empty("i"),
            )
        ),
    ],
)
def test_a_newer_version_is_refused_and_odd_attributes_are_ignored(tmp_path, name, value, part):
    with h5py.File(tmp_path / "network", "w") as file:
        file.attrs["format"], file.attrs["version"] = "jaxnst-vgg19", 1
        file.attrs[name] = value
    load_refused(tmp_path / "network", part)


def nested(group):
    for _ in range(8000):
        group = group.create_group("g")


def many(group):
    for i in range(300):
        group.create_group(f"{i}")["again"] = group


def huge_chunks(group):
    options = {"chunks": (2**25,), "maxshape": (None,), "compression": "gzip"}
    group.create_dataset("conv1_1/bias", (64,), "f4", **options)
    group.create_dataset("conv1_1/kernel", (3, 3, 3, 64), "f4")
    group["normalize/mean"] = group["normalize/std"] = np.ones(3, np.float32)


def unpacked(group, size, **options):
    """A cut network whose kernel says 6912 bytes, of which one chunk holds `size` when unpacked."""
    group["normalize/mean"] = group["normalize/std"] = np.ones(3, np.float32)
    group.create_dataset("conv1_1/bias", (64,), "f4")
    kernel = group.create_dataset("conv1_1/kernel", (3, 3, 3, 64), "f4", chunks=True, **options)
    if size:
        kernel.id.write_direct_chunk((0,) * 4, zlib.compress(bytes(size)))


PIPELINES = [
    {"compression": "gzip"},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
    {"fletcher32": True},
    {"shuffle": True},
]


@pytest.mark.parametrize("options", PIPELINES)
def test_packed_hdf5_is_read(params, tmp_path, options):
    with h5py.File(tmp_path / "network", "w") as file:
        unpacked(file, 0, **options)
        file["conv1_1/kernel"][...] = np.asarray(params["conv1_1"]["kernel"])
    found = load_params(tmp_path / "network")["conv1_1"]["kernel"]
    np.testing.assert_array_equal(found, params["conv1_1"]["kernel"])


@pytest.mark.parametrize(
    ("fill", "part"),
    [
        (nested, "or groups more than 32 deep"),
        (many, "more than 500 names"),
        (huge_chunks, "'conv1_1/bias' has chunks of shape (33554432,)"),
        (
            lambda group: unpacked(group, 2**27, compression="gzip"),
            "'conv1_1/kernel' has a chunk that unpacks to more than its 6912 bytes",
        ),
        (
            lambda group: unpacked(group, 0, compression="lzf"),
            "'conv1_1/kernel' must be packed by gzip or not at all, not by filters [32000]",
        ),
        (
            lambda group: group.create_dataset("x" * 60_000, (1,), "f4"),
            "no VGG19 in a known layout",
        ),
        (
            lambda group: group.create_dataset(b"\xff", (1,), "f4"),
            "damaged HDF5 file (Unicode",
        ),
    ],
    ids=[
        "8000 groups in each other",
        "many groups",
        "chunks",
        "gzip without end",
        "another filter",
        "a long name",
        "not UTF-8",
    ],
)
def test_hdf5_is_read_within_bounds(tmp_path, monkeypatch, fill, part):
    monkeypatch.setattr(containers, "NAMES", 500)
    with h5py.File(tmp_path / "network", "w") as file:
        fill(file)
    load_refused(tmp_path / "network", part)


def test_a_keras_archive_says_what_to_extract(tmp_path):
    path = tmp_path / "network.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(GOLDEN, "model.weights.h5")
    load_refused(path, "model.weights.h5")


def test_folders_and_absent_files_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.h5"):
        with pytest.raises(FileNotFoundError, match="no weights file"):
            load_params(path)
