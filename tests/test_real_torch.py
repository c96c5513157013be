"""The reader of torch files against the real torch, where that is installed."""

from collections import OrderedDict

import numpy as np
import pytest
from torch_writer import ORDERED_DICT, PARAMETER, Call, Global, Tensor, write_old, write_zip

from jaxnst.formats.torch_file import is_torch_file, read_tensors

torch = pytest.importorskip("torch", reason="needs the bench extra: pip install -e '.[bench]'")

pytestmark = pytest.mark.slow
BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])


def check(found, expected):
    """Arrays are bit for bit what torch has."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        tensor = tensor.detach()
        assert found[name].shape == tuple(tensor.shape), name
        if tensor.dtype == torch.bfloat16:  # NumPy lacks the type, but each value is a float32
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
        "empty beyond the end": whole[6:, 3:],
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
    check(read_tensors(path), {f"state_dict.{name}": x for name, x in expected.items()})


# --- torch reads the files of torch_writer as read_tensors does -----------------------------------


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


def some_parameters():
    hooks, tensor = OrderedDict(), np.ones(3)
    rebuild = Global("torch._utils", "_rebuild_parameter")
    return {
        "of today": Call(rebuild, (tensor, True, hooks)),
        "called": Call(PARAMETER, (tensor,), (True, False, hooks)),
        "by NEWOBJ": Call(PARAMETER, (tensor,), (True, False, hooks), b"\x81"),
        "by its state": Call(PARAMETER, (), (tensor, None, hooks, True, False), b"\x81"),
        "called with requires_grad": Call(PARAMETER, (tensor, False)),
    }


def by_python_2():
    return Call(ORDERED_DICT, ([["a", np.arange(3.0)], ["b", np.arange(4)]],))


@pytest.mark.parametrize(
    ("write", "options"),
    [
        *((write_zip, {"byteorder": order}) for order in ("little", "big", None)),
        *((write_old, {"little_endian": little}) for little in (True, False)),
        *((write, {"rebuild": "_rebuild_tensor"}) for write in (write_zip, write_old)),
    ],
)
@pytest.mark.parametrize("value", [some_tensors, some_parameters, by_python_2])
def test_torch_and_read_tensors_agree(tmp_path, write, options, value):
    write(tmp_path / "weights", value(), **options)
    expected = torch.load(tmp_path / "weights", weights_only=False, map_location="cpu")
    assert len(expected) > 0
    check(read_tensors(tmp_path / "weights"), expected)
