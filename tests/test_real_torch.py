"""The reader of torch files against the real torch, where that is installed."""

from collections import OrderedDict

import numpy as np
import pytest
from torch_writer import Call, Global, Parameter, Tensor, write_old, write_zip

from jaxnst.torch_file import is_torch_file, read_tensors

torch = pytest.importorskip("torch", reason="needs the bench extra: pip install -e '.[bench]'")

pytestmark = pytest.mark.slow
BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
WRITERS = pytest.mark.parametrize("write", [write_zip, write_old], ids=["zip", "old"])


def check(found, expected):
    """Arrays are bit for bit what torch has."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        tensor = tensor.detach()
        assert found[name].shape == tuple(tensor.shape), name
        if tensor.dtype == torch.bfloat16:  # NumPy has none, and each is a float32
            assert found[name].dtype.name == "bfloat16", name
            array, tensor = found[name].astype(np.float32), tensor.float()
        else:
            array = found[name].astype(found[name].dtype.newbyteorder("="))
            assert array.dtype == tensor.numpy().dtype, name
        np.testing.assert_array_equal(array, tensor.numpy(), err_msg=name)


def tensors():
    """All kinds, with random values."""
    draw = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 7, 8, generator=draw)
    dtypes = ("float16", "float32", "float64", "bfloat16", "uint8", "int8", "int16", "int32")
    return {name: (100 * whole).to(getattr(torch, name)) for name in (*dtypes, "int64")} | {
        "bool": whole > 0,
        "transposed": whole.permute(2, 0, 1),
        "strided": whole[1::2, ::3, 2::2],
        "expanded": whole[:, :1].expand(6, 5, 8),
        "diagonal": whole[0, :, :7].diagonal(),
        "shared": whole.view(-1)[5:77],
        "half, transposed": whole.half().mT,
        "channels_last": whole[None].contiguous(memory_format=torch.channels_last),
        "scalar": whole[1, 2, 3],
        "empty": whole[6:],
        "empty behind the end": whole[6:, 3:],
        "parameter": torch.nn.Parameter(whole),
    }


@BOTH
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_what_torch_writes(tmp_path, zipped, protocol):
    path, expected = tmp_path / "weights.pth", tensors()
    options = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    torch.save(expected, path, **options)
    assert is_torch_file(path)
    check(read_tensors(path), expected)
    torch.save({"epoch": 3, "state_dict": expected}, path, **options)
    check(read_tensors(path), expected)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_reads_a_whole_vgg19(tmp_path, zipped, dtype):
    network = torch.nn.Module()
    layers, before = [], 3
    for width in (64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4, 0):
        if width:
            layers += [torch.nn.Conv2d(before, width, 3), torch.nn.ReLU(inplace=True)]
            before = width
        else:
            layers.append(torch.nn.MaxPool2d(2))
    network.features = torch.nn.Sequential(*layers)
    network.classifier = torch.nn.Sequential(
        *(torch.nn.Linear(25088, 4096), torch.nn.ReLU(), torch.nn.Dropout()),
        *(torch.nn.Linear(4096, 4096), torch.nn.ReLU(), torch.nn.Dropout()),
        torch.nn.Linear(4096, 1000),
    )
    state = network.to(dtype).state_dict()
    torch.save(state, tmp_path / "vgg19.pth", _use_new_zipfile_serialization=zipped)
    check(read_tensors(tmp_path / "vgg19.pth"), state)


# --- torch reads the files that the tests write as read_tensors does ------------------------------


def some_tensors():
    values = np.random.default_rng(0).normal(size=60).astype(np.float32)
    return OrderedDict(
        a=values[:24].reshape(2, 3, 4),
        shared=Tensor(values, (4, 5), (1, 4), 7),
        expanded=Tensor(values, (3, 4), (0, 2), 1),
        half=values.astype(np.float16),
        int=np.arange(5),
        empty=np.zeros((0, 3), np.float32),
        scalar=np.array(2.5),
    )


def agree(path):
    # Not weights_only, which warns of protocol 4; what is loaded are our own files.
    expected = torch.load(path, weights_only=False, map_location="cpu")
    assert len(expected) > 0
    check(read_tensors(path), expected)


@WRITERS
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("rebuild", ["_rebuild_tensor", "_rebuild_tensor_v2"])
def test_torch_reads_them(tmp_path, write, protocol, rebuild):
    write(tmp_path / "weights", some_tensors(), protocol=protocol, rebuild=rebuild)
    agree(tmp_path / "weights")


@pytest.mark.parametrize("order", ["little", "big", None])
def test_torch_understands_the_byte_order_so(tmp_path, order):
    write_zip(tmp_path / "weights", some_tensors(), byteorder=order)
    agree(tmp_path / "weights")


@pytest.mark.parametrize("little_endian", [True, False])
def test_torch_pays_no_heed_to_the_old_formats_byte_order(tmp_path, little_endian):
    write_old(tmp_path / "weights", some_tensors(), little_endian=little_endian)
    agree(tmp_path / "weights")


@WRITERS
def test_torch_understands_old_parameters_so(tmp_path, write):
    kind, hooks, tensor = Global("torch.nn.parameter", "Parameter"), OrderedDict(), np.ones(3)
    parameters = {
        "new": Parameter(tensor),
        "called": Call(kind, (tensor,), (True, False, hooks)),
        "made anew": Call(kind, (tensor,), (True, False, hooks), b"\x81"),
        "by its state": Call(kind, (), (tensor, None, hooks, True, False), b"\x81"),
        "called with requires_grad": Call(kind, (tensor, False)),
    }
    write(tmp_path / "weights", parameters)
    agree(tmp_path / "weights")


@WRITERS
def test_torch_understands_python_2_so(tmp_path, write):
    pairs = [["a", np.arange(3.0)], ["b", np.arange(4)]]
    write(tmp_path / "weights", Call(Global("collections", "OrderedDict"), (pairs,)))
    agree(tmp_path / "weights")
