"""Pictures for benchmarks and gallery: those of packages, and paintings in the public domain."""

from importlib.util import find_spec
from pathlib import Path

import pooch

_GORDIC = (
    "gordicaleksa/pytorch-neural-style-transfer/a244dc61797f920a62146d98de92384352a4d3a2/data/"
    "style-images/"
)
#: Files at raw.githubusercontent.com, with their SHA-256. All paintings are in the public domain.
FILES = {
    # Van Gogh: self-portrait, the night café, houses at Auvers, olive trees
    "vg_self.jpg": (_GORDIC, "5f20d17cecdf061f35f8e45047205fc379f4f0ebedb9453d9d7c66b1dd2c0592"),
    "vg_la_cafe.jpg": (_GORDIC, "af361f26d92524b959967ca1dda27f4127e9a89a51fd23ae0e9cb88add859d62"),
    "vg_houses.jpg": (_GORDIC, "a8c19caa86560dc690cd8b7693d956bd4e66c5f73de7310b4e7cf18fae043ec5"),
    "vg_olive.jpg": (_GORDIC, "5010a5df69376b0368faa2f2991b39a5fe77221689567c0df9c1a87b415806b3"),
    # Gauguin: three Tahitian women; Picabia: Edtaonisl
    "tahiti_guaguin.jpg": (
        _GORDIC,
        "8486376e546d9940485bdfc6a2317e3829e232467f6a74c6659098f5ec64d0e6",
    ),
    "edtaonisl.jpg": (_GORDIC, "6993247396a33b7297b4dc0f59e8114f223ac5a3ab604f251f9f5e25c592e44f"),
    # Hokusai: the great wave
    "wave.jpg": (
        "lengstrom/fast-style-transfer/0d3d981f7ab948253d355585bdbdfa914247b4d0/examples/style/",
        "54f19686bea5117c0bb68ce4425dbed4efafa3e8d7cafe35f0fae80b8223f4be",
    ),
    # Bruegel: the harvesters; Tiffany: hibiscus and parrots, a window. Photographs by the Met.
    "harvesters.jpeg": (
        "google/wuffs/2560db99aa19c524880b56b0119cd8e979597490/test/data/",
        "13657e9d92363f1c5d7dda4535dcba3d7e4158d77dd6e8e7a128705c07f4d499",
    ),
    "hibiscus.regular.png": (
        "google/wuffs/2560db99aa19c524880b56b0119cd8e979597490/test/data/",
        "c6a5374f1d8e8162de1cbdd85bd52660e6be57cd790f605ceabdc5c6e6d04a2e",
    ),
    # scipy.datasets.face(), a raccoon
    "face.dat": (
        "scipy/dataset-face/49ba9e3b8b21a71cdb039b341ce5c08cee4afd74/",
        "9d8b0b4d081313e2b485748c770472e5a95ed1738146883d84c7030493e82886",
    ),
}

#: Folders with pictures, by package.
_FOLDERS = {
    "jaxnst": "demo",
    "skimage": "data",
    "sklearn": "datasets/images",
    "matplotlib": "mpl-data/sample_data",
}


def find(name: str, files: Path | None = None) -> Path:
    """Return the path of a picture that a package brings, or of a file of `FILES`.

    Args:
        name: of the file.
        files: a folder that holds `FILES`, which are downloaded otherwise.
    """
    for package, folder in _FOLDERS.items():
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            path = Path(spec.origin).parent / folder / name
            if path.exists():
                return path
    if files is not None:
        return files / name
    folder, digest = FILES[name]
    url = f"https://raw.githubusercontent.com/{folder}{name}"
    return Path(pooch.retrieve(url, f"sha256:{digest}", fname=name))
