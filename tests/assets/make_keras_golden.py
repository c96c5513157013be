"""Make the golden files in `keras/`: what Keras itself writes for a VGG19, without the numbers.

Each file has the groups, names, attributes, shapes and types that the real writer gave it, but its
datasets were never written to, so that it takes a few KB. A test copies it and fills in the
bundled weights. Run by hand, in an environment for each of the two generations of Keras:

    pip install tensorflow-cpu tf_keras && python tests/assets/make_keras_golden.py tf_keras
    pip install keras jax && KERAS_BACKEND=jax python tests/assets/make_keras_golden.py keras

Made with tf_keras 2.21.0 and Keras 3.15.1. `nested` is a VGG19 inside of another model, trained for
one step, so that the file holds the optimiser's state too.
"""

import importlib
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np


def write_all(keras, folder: Path, name: str) -> None:
    """Save VGG19 in every HDF5 layout that this Keras writes."""
    network = keras.applications.VGG19(weights=None, include_top=False)
    network.save(folder / f"{name}_model.h5")
    network.save_weights(folder / f"{name}.weights.h5")
    if name == "tf_keras":  # Keras 3 writes weights to `.weights.h5` alone
        network.save_weights(folder / f"{name}_weights.h5")
    keras.applications.VGG19(weights=None).save(folder / f"{name}_full_model.h5")

    picture = keras.Input((64, 64, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(network(picture))
    nested = keras.Model(picture, keras.layers.Dense(2)(pooled))
    nested.compile("adam", "mse")
    nested.fit(np.zeros((1, 64, 64, 3)), np.zeros((1, 2)), verbose=0)
    nested.save(folder / f"{name}_nested_model.h5")
    nested.save_weights(folder / f"{name}_nested.weights.h5")


def empty_copy(source: h5py.Group, target: h5py.Group) -> None:
    """Copy everything but the numbers of large datasets."""
    target.attrs.update(source.attrs)
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            empty_copy(item, target.create_group(name))
        elif item.size < 3:
            target[name] = item[()]
        else:
            dataset = target.create_dataset(name, item.shape, item.dtype, chunks=item.shape)
            dataset.attrs.update(item.attrs)


if __name__ == "__main__":
    module = sys.argv[1]
    goldens = Path(__file__).with_name("keras")
    goldens.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write_all(importlib.import_module(module), Path(folder), module)
        for path in sorted(Path(folder).iterdir()):
            with h5py.File(path) as real, h5py.File(goldens / path.name, "w") as golden:
                empty_copy(real, golden)
