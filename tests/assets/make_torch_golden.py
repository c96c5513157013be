"""Make the files of `torch/`: what the real torch writes, for the tests of a reader without torch.

The tests read the files alone; this script is run by hand, with torch 2.13.0 (nothing of jaxnst is
imported):

    pip install torch==2.13.0 numpy
    python tests/assets/make_torch_golden.py [FOLDER]

Each of these is written as a zip (`<name>.pt`) and in the format before torch 1.6 (`<name>.pth`):
    simple      an OrderedDict of two float32 tensors, "a" (2, 3) and "b" (4,)
    tensors     a dict of tensors of all dtypes, empty ones, scalars, non-contiguous ones and some
                that share a storage; see `make_tensors`
    protocol4   the same by pickle protocol 4
    module      the state dict of a small network, with the `_metadata` that torch adds
    nested      {"epoch": …, "state_dict": {…}, …}
    parameters  a dict of two nn.Parameter, one of them frozen
    vgg19       a state dict with the names, shapes and `_metadata` of torchvision's VGG19. Tensor i
                repeats one stored element, i + 1, so that 575 MB are a few KB

Values of an array of n elements are (0, 1, …, n - 1) % 7 - 2, or % 2 for bool and % 7 for uint8.
"""

import argparse
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

VGG19 = (64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M")


def values(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    count = torch.Size(shape).numel()
    numbers = torch.arange(count)
    if dtype == torch.bool:
        return (numbers % 2).bool().reshape(shape)
    return (numbers % 7 - (0 if dtype == torch.uint8 else 2)).to(dtype).reshape(shape)


def make_tensors() -> dict[str, torch.Tensor]:
    names = ("float16", "float32", "float64", "bfloat16", "uint8", "int8", "int16", "int32")
    tensors = {name: values(2, 3, dtype=getattr(torch, name)) for name in (*names, "int64", "bool")}
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.empty(0)
    tensors["empty3"] = torch.empty(2, 0, 3)
    tensors["transposed"] = values(2, 3, 4).permute(2, 0, 1)
    tensors["strided"] = values(5, 8)[1::2, 2::3]
    tensors["expanded"] = values(3)[:, None].expand(3, 4)
    shared = values(24)
    tensors["shared_head"] = shared[:6].reshape(2, 3)
    tensors["shared_tail"] = shared[18:]
    tensors["shared_all"] = shared
    tensors["scalar_inside"] = shared[5]
    return tensors


def make_module() -> dict[str, torch.Tensor]:
    module = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), fc=nn.Linear(5, 2))
    )
    state = module.state_dict()
    for tensor in state.values():
        tensor.copy_(values(*tensor.shape, dtype=tensor.dtype))
    return state


def make_vgg19() -> dict[str, torch.Tensor]:
    """As torchvision builds it, but for the values."""
    with torch.device("meta"):  # shapes without memory
        state = build_vgg19().state_dict()
    for i, (name, tensor) in enumerate(state.items()):
        state[name] = torch.tensor([i + 1.0]).expand(tensor.shape)
    return state


def build_vgg19() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for width in VGG19:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(True)]
            channels = width
    network = nn.Module()
    network.features = nn.Sequential(*layers)
    network.avgpool = nn.AdaptiveAvgPool2d(7)
    network.classifier = nn.Sequential(
        *(nn.Linear(512 * 7 * 7, 4096), nn.ReLU(True), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout()),
        nn.Linear(4096, 1000),
    )
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the golden torch files.")
    folder = Path(__file__).resolve().parent / "torch"
    parser.add_argument("folder", nargs="?", type=Path, default=folder)
    folder = parser.parse_args().folder
    if not torch.__version__.startswith("2.13."):
        parser.error(f"torch 2.13 is needed, not {torch.__version__}")
    folder.mkdir(exist_ok=True)
    simple = OrderedDict(a=values(2, 3), b=values(4))
    files = {
        "simple": simple,
        "tensors": make_tensors(),
        "protocol4": make_tensors(),
        "module": make_module(),
        "nested": {"epoch": 3, "lr": 0.1, "arch": "vgg19", "state_dict": simple, "best": None},
        "parameters": {
            "trained": nn.Parameter(values(2, 3)),
            "frozen": nn.Parameter(values(4), requires_grad=False),
        },
        "vgg19": make_vgg19(),
    }
    for name, value in files.items():
        protocol = 4 if name == "protocol4" else 2
        for suffix, is_zip in ((".pt", True), (".pth", False)):
            path = folder / f"{name}{suffix}"
            torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
            print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
