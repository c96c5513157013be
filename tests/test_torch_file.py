"""Torch files: those that the real torch wrote, older ones, and damaged ones."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from torch_writer import (
    FEATURES,
    HOOKS,
    OLD_MAGIC,
    ORDERED_DICT,
    PARAMETER,
    STORAGE,
    Call,
    Global,
    Pickle,
    Raw,
    Tensor,
    check,
    refused,
    save,
    tensor,
    values,
    write_members,
    write_old,
    write_old_parts,
    write_zip,
)

from jaxnst.formats import torch_pickle
from jaxnst.formats.torch_file import is_torch_file, read_tensors
from jaxnst.vgg import CONV_SHAPES

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "assets" / "torch"
BOTH = pytest.mark.parametrize("suffix", [".pt", ".pth"], ids=["zip", "old"])
WRITERS = pytest.mark.parametrize("write", [write_zip, write_old], ids=["zip", "old"])
DTYPES = ("float16", "float32", "float64", "bfloat16", "uint8", "int8", "int16", "int32", "int64")


def simple():
    return {"a": values(2, 3), "b": values(4)}


def module():
    four = ("conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    return {
        "conv.weight": values(4, 3, 3, 3),
        **{name: values(4) for name in four},
        "norm.num_batches_tracked": values(dtype="int64"),
        **{"fc.weight": values(2, 5), "fc.bias": values(2)},
    }


def tensors():
    """The tensors of the golden file, over the storages that they have there."""
    shared = values(24)
    return {name: values(2, 3, dtype=name) for name in (*DTYPES, "bool")} | {
        "scalar": np.array(2.5, np.float32),
        "empty": values(0),
        "empty3": Tensor(values(0), (2, 0, 3), (3, 3, 1)),
        "transposed": Tensor(values(24), (4, 2, 3), (1, 12, 4)),
        "strided": Tensor(values(40), (2, 2), (16, 3), 10),
        "expanded": Tensor(values(3), (3, 4), (1, 0)),
        "shared_head": Tensor(shared, (2, 3)),
        "shared_tail": Tensor(shared, (6,), (1,), 18),
        "shared_all": Tensor(shared, (24,)),
        "scalar_inside": Tensor(shared, (), (), 5),
    }


def expected():
    """The same by NumPy's own indexing, as torch's made the golden file."""
    shared = values(24)
    return {name: v for name, v in tensors().items() if isinstance(v, np.ndarray)} | {
        "empty3": values(2, 0, 3),
        "transposed": values(2, 3, 4).transpose(2, 0, 1),
        "strided": values(5, 8)[1::2, 2::3],
        "expanded": np.repeat(values(3)[:, None], 4, axis=1),
        "shared_head": shared[:6].reshape(2, 3),
        "shared_tail": shared[18:],
        "shared_all": shared,
        "scalar_inside": shared[5],
    }


def vgg19_shapes():
    """Name -> shape of torchvision's VGG19."""
    shapes = {}
    for position, (h, w, i, o) in zip(FEATURES, CONV_SHAPES.values(), strict=True):
        shapes |= {f"features.{position}.weight": (o, i, h, w), f"features.{position}.bias": (o,)}
    for layer, before, width in ((0, 25088, 4096), (3, 4096, 4096), (6, 4096, 1000)):
        shapes[f"classifier.{layer}.weight"] = (width, before)
        shapes[f"classifier.{layer}.bias"] = (width,)
    return shapes


# --- Well-formed files ----------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("simple", simple),
        ("module", module),
        ("nested", lambda: {f"state_dict.{name}": array for name, array in simple().items()}),
        ("tensors", expected),
        ("protocol4", expected),
        ("parameters", lambda: {"trained": values(2, 3), "frozen": values(4)}),
    ],
)
def test_reads_files_by_the_real_torch(name, content, suffix):
    path = GOLDEN / f"{name}{suffix}"
    assert is_torch_file(path)
    check(read_tensors(str(path)), content())


@BOTH
def test_reads_a_vgg19(suffix):
    found = read_tensors(GOLDEN / f"vgg19{suffix}")
    assert list(found) == list(vgg19_shapes())
    for i, (name, array) in enumerate(found.items()):
        assert (array.shape, array.dtype) == (vgg19_shapes()[name], np.float32)
        assert array[(0,) * array.ndim] == array[(-1,) * array.ndim] == i + 1


@BOTH
def test_shared_storages_stay_shared(suffix):
    found = read_tensors(GOLDEN / f"tensors{suffix}")
    assert np.shares_memory(found["shared_head"], found["shared_all"])
    assert not np.shares_memory(found["shared_head"], found["shared_tail"])
    assert found["expanded"].strides == (4, 0)


@pytest.mark.parametrize("rebuild", ["_rebuild_tensor", "_rebuild_tensor_v2"])
@pytest.mark.parametrize("order", ["little", "big", None])
def test_zip_says_its_byte_order(tmp_path, order, rebuild):
    write_zip(tmp_path / "weights", tensors(), byteorder=order, rebuild=rebuild)
    check(read_tensors(tmp_path / "weights"), expected(), ">" if order == "big" else "<")


@pytest.mark.parametrize("little_endian", [True, False])
def test_old_format_is_little_endian_whatever_it_says(tmp_path, little_endian):
    # torch swaps these on big-endian machines, both when it writes and when it reads.
    write_old(tmp_path / "weights", tensors(), little_endian=little_endian)
    check(read_tensors(tmp_path / "weights"), expected())


def text2(text):
    """A text as Python 2 wrote it."""
    return Raw(b"U" + bytes([len(text)]) + text.encode())


PYTHON2 = (text2("storage"), Global("torch", "FloatStorage"), text2("0"), text2("cuda:0"), 6)
WELL_FORMED = {
    "a parameter of torch 0.3": Call(PARAMETER, (tensor(),), (True, False, HOOKS), b"\x81"),
    "a parameter made by a call": Call(PARAMETER, (tensor(), True), (True, False, HOOKS)),
    "a parameter's state": Call(PARAMETER, (), (tensor(), None, HOOKS, True, False), b"\x81"),
    "a name of Python 2": tensor(name=PYTHON2),
    "an integer of Python 2": tensor(offset=Raw(b"\x8a\x00")),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_reads_older_tensors(tmp_path, name):
    metadata = {text2("_metadata"): Call(ORDERED_DICT, ([],))}
    pairs = [[text2("a"), WELL_FORMED[name]], [text2("epoch"), 3]]
    save(tmp_path / "weights", Call(ORDERED_DICT, (pairs,), metadata))
    check(read_tensors(tmp_path / "weights"), {"a": values(2, 3)})


def test_ignores_entries_that_are_not_tensors(tmp_path):
    more = {7: [1.5, None, (True, -(2**40))], "a": tensor(), "more": {"b": tensor(), 3: tensor()}}
    save(tmp_path / "weights", more | {"x" * 200: {"c": tensor()}, "empty": tensor(shape=(0, 3))})
    expected = {"a": values(2, 3), "more.b": values(2, 3), "empty": values(0, 3)}
    check(read_tensors(tmp_path / "weights"), expected)


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"PK\3\4", b"\x80\x02", b"\x89HDF\r\n\x1a\n", bytes(4096)]
)
def test_other_files_are_not_torch_files(tmp_path, content):
    path = tmp_path / "weights"
    path.write_bytes(content)
    assert not is_torch_file(path)
    refused(path, "starts like neither|is a damaged")
    for function in (read_tensors, is_torch_file):
        with pytest.raises(FileNotFoundError, match="nothing"):
            function(tmp_path / "nothing")


# --- Containers that are damaged ------------------------------------------------------------------

CODE = Pickle().dumps({"a": tensor()})
SYSTEM = Pickle().dumps(Call(Global("os", "system"), ("touch ran",)))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"a.npy": b"", "deep/er/data.pkl": b"", "data.pkl": b""}, "one data.pkl, this one has 0"),
        ({"a/data.pkl": CODE, "b/data.pkl": CODE}, "has one data.pkl, this one has 2"),
        ({"w/data.pkl": bytes(torch_pickle.PICKLE_BYTES + 1)}, "data.pkl has 262145 bytes"),
        ({"w/data.pkl": CODE, "w/data/0": STORAGE, "w/byteorder": b"middle"}, "order is b'middle'"),
        ({"w/data.pkl": CODE, "w/data/0": STORAGE, "w/byteorder": b""}, "its byte order is b''"),
        ({f"w/{i:09}" * 9: b"" for i in range(8000)}, r"directory of its zip has \d+ bytes; at mo"),
    ],
)
def test_refuses_odd_zips(tmp_path, members, reason):
    path = tmp_path / "weights"
    write_members(path, members)
    refused(path, reason)
    assert is_torch_file(path) == any(name.endswith("/data.pkl") for name in list(members)[:1])


def test_refuses_compressed_members(tmp_path):
    members = {"w/data.pkl": CODE, "w/data/0": STORAGE}
    write_members(tmp_path / "weights", members, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "weights", "its member 'w/data.pkl' is compressed")


@pytest.mark.parametrize(
    ("mark", "at", "data", "reason"),
    [
        (b"PK\3\4", 0, b"QK", "is a damaged torch|starts like neither"),
        (b"PK\3\4", 26, b"\xff\xff", "is a damaged"),
        (b"PK\3\4", 30, b"../../", "is a damaged"),
        (b"PK\5\6", 0, b"QK", r"\(BadZipFile"),
        (b"PK\5\6", 12, b"\xff" * 8, "damaged torch|directory of its zip"),
        (b"PK\1\2", 0, b"QK", r"\(BadZipFile"),
        (b"PK\1\2", 8, b"\1", r"encrypted|\(RuntimeError"),
        (b"PK\1\2", 20, b"\xff\xff\xff\x7f" * 2, "ends beyond the end of the file|Overlapped"),
        (b"PK\1\2", 24, b"\xff\xff\xff\x7f", "is compressed"),
        (b"PK\1\2", 42, b"\xff\xff\xff\x7f", "is a damaged"),
        (b"w/data/0", 0, b"w/data/7", "its member 'w/data/0' is missing"),
    ],
)
def test_refuses_damaged_zips(tmp_path, mark, at, data, reason):
    path = tmp_path / "weights"
    save(path, {"a": tensor()})
    content = bytearray(path.read_bytes())
    at += content.rindex(mark)
    content[at : at + len(data)] = data
    path.write_bytes(content)
    refused(path, reason)


@pytest.mark.parametrize(
    ("lies", "reason"),
    [
        ({"magic": OLD_MAGIC + 1}, "starts like neither of torch's formats"),
        ({"version": 1000}, "magic number and protocol are not 0x1950a86a20f9469cfc6c and 1001"),
        ({"counts": [5]}, "storage '0' of 6 elements is cut off or damaged"),
        ({"counts": [-1]}, "storage '0' of 6 elements is cut off or damaged"),
        ({"storages": [("0", STORAGE[:3])], "counts": [6]}, "storage '0' of 6 elements is cut off"),
        ({"keys": ["1"]}, "it lists 1 storages, which are not the 1 of its tensors"),
        ({"keys": ["0", "0"]}, "it lists 2 storages"),
        ({"keys": [0]}, "its list of storages is not a list of names"),
        ({"keys": {"0": 1}}, "its list of storages is not a list of names"),
        ({"storages": []}, "it lists 0 storages"),
        ({"code": SYSTEM}, "it asks for 'os.system'"),
    ],
)
def test_refuses_false_statements_in_the_old_format(tmp_path, lies, reason):
    write_old_parts(tmp_path / "weights", **{"code": CODE, "storages": [("0", STORAGE)]} | lies)
    refused(tmp_path / "weights", reason)


def test_refuses_tars(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(257) + b"ustar" + bytes(250))
    refused(tmp_path / "weights", "it is a tar, torch's first format")
