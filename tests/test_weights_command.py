"""`jaxnst weights …` and `jaxnst transfer --params`."""

import dataclasses
import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from torch_writer import Tensor, Zeros, write_zip

import jaxnst
from jaxnst import load_params, save_params
from jaxnst.app import cli
from jaxnst.formats import KNOWN_FILES, bundled_weights
from jaxnst.vgg import CONV_SHAPES

DEMO = Path(jaxnst.__file__).parent / "demo"
SHALLOW = ["--size", 32, "--style-layers", "relu1_1", "--content-layers", "relu1_2"]
FEATURES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Call the command line: exit status, standard output, standard error."""
    monkeypatch.setenv("JAXNST_CACHE", str(tmp_path / "cache"))

    def call(*arguments):
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def torch_file(tmp_path):
    """A VGG19 of zeros in torchvision's layout, which needs `--input`."""
    state = {}
    for number, (h, w, i, o) in zip(FEATURES, CONV_SHAPES.values(), strict=True):
        state[f"features.{number}.weight"] = Tensor(Zeros(1), (o, i, h, w), (0, 0, 0, 0))
        state[f"features.{number}.bias"] = np.zeros(o, np.float32)
    write_zip(tmp_path / "network.pth", state)
    return tmp_path / "network.pth"


def rows(text):
    return dict(re.split(r"  +", line, maxsplit=1) for line in text.splitlines() if "  " in line)


def test_list(run, tmp_path):
    status, out, err = run("weights", "list")
    assert (status, err) == (0, "")
    assert list(rows(out)) == list(KNOWN_FILES)
    assert str(bundled_weights()) in rows(out)["bundled"]
    assert "jaxnst weights fetch torchvision" in rows(out)["torchvision"]
    assert not (tmp_path / "cache").exists()


def test_info_of_the_bundled_file(run):
    status, out, err = run("weights", "info", bundled_weights())
    assert (status, err) == (0, "")
    found = rows(out)
    assert found["sha256"] == hashlib.sha256(bundled_weights().read_bytes()).hexdigest()
    assert found["known as"] == "bundled"
    assert found["layout"] == "jaxnst"
    assert found["container"].startswith("HDF5")
    assert found["layers"] == "as expected"


def test_info_of_another_file(run, torch_file):
    found = rows(run("weights", "info", torch_file)[1])
    assert found["container"] == "torch, 32 arrays"
    assert found["layout"] == "torchvision"
    assert "--input caffe or torchvision" in found["input rule"]
    assert found["known as"].startswith("no published file")


def test_info_shows_another_network_side_by_side(run, tmp_path):
    path = tmp_path / "network.pth"
    write_zip(path, {"features.0.weight": np.zeros((64, 3, 7, 7), np.float32)})
    status, out, _ = run("weights", "info", path)
    assert status == 0
    table = out.partition("\n\n")[2].splitlines()
    assert table[0].split() == ["array", "expected", "found"]
    assert re.split(r"  +", table[2]) == ["conv1_1/kernel", "(64, 3, 3, 3)", "(64, 3, 7, 7)"]
    assert re.split(r"  +", table[1]) == ["conv1_1/bias", "(64,)", "nothing"]
    assert len(table) == 1 + 2


def test_verify(run, torch_file, tmp_path):
    status, out, err = run("weights", "verify", bundled_weights())
    assert (status, err) == (0, "") and "published file 'bundled'" in out
    status, out, err = run("weights", "verify", torch_file, "--input", "torchvision")
    assert (status, err) == (0, "") and "no published file" in out
    cut = tmp_path / "cut.h5"
    cut.write_bytes(bundled_weights().read_bytes()[:-1000])
    for path, part in ((cut, "cut.h5"), (torch_file, "torchvision")):
        status, out, err = run("weights", "verify", path)
        assert (status, out) == (2, "") and part in err and len(err.splitlines()) == 1


def test_convert(run, params, tmp_path):
    kernel = np.float32(np.random.default_rng(0).normal(size=CONV_SHAPES["conv3_1"]))
    source, out = tmp_path / "source.h5", tmp_path / "network.safetensors"
    save_params(source, params | {"conv3_1": params["conv3_1"] | {"kernel": kernel}})
    assert run("weights", "convert", source, out) == (0, f"{out}: 80.1 MB\n", "")
    np.testing.assert_array_equal(load_params(out)["conv3_1"]["kernel"], kernel)
    assert run("weights", "convert", out, source, "--quantize")[0] == 0
    assert len(np.unique(load_params(source)["conv3_1"]["kernel"])) <= 256


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("info nowhere.h5", "nowhere.h5"),
        ("verify nowhere.h5", "nowhere.h5"),
        ("convert nowhere.h5 out.h5", "nowhere.h5"),
        ("convert BUNDLED out.npz", ".npz"),
        ("convert BUNDLED nowhere/out.h5", "nowhere"),
        ("convert BUNDLED out.h5 --input caffe", "leave it out"),
        ("fetch matconvnet", "matconvnet"),
        ("fetch", "keras"),
        ("", "ACTION"),
    ],
)
def test_refuses(run, tmp_path, monkeypatch, arguments, part):
    monkeypatch.chdir(tmp_path)
    words = [bundled_weights() if w == "BUNDLED" else w for w in arguments.split()]
    status, out, err = run("weights", *words)
    assert (status, out) == (2, "")
    assert part in err and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_fetch(run, tmp_path, monkeypatch):
    content = bytes(range(256)) * 100

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        known = dataclasses.replace(
            KNOWN_FILES["keras"],
            url=f"http://127.0.0.1:{server.server_port}/file",
            num_bytes=len(content),
            checksum="sha256:" + hashlib.sha256(content).hexdigest(),
        )
        monkeypatch.setitem(KNOWN_FILES, "keras", known)
        place = tmp_path / "cache" / known.filename
        assert run("weights", "fetch", "keras") == (0, f"{place}\n", "")
        server.shutdown()
    assert place.read_bytes() == content
    assert run("weights", "fetch", "keras") == (0, f"{place}\n", "")  # without the server
    assert str(place) in rows(run("weights", "list")[1])["keras"]
    place.unlink()
    status, out, err = run("weights", "fetch", "keras")
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert str(place) in err and known.checksum in err


def test_transfer_uses_the_params_of_a_file(run, params, tmp_path):
    inputs = [DEMO / "content.jpg", DEMO / "style.jpg", "--size", 32, "--num-steps", 2]

    def picture(*options):
        out = tmp_path / "out.png"
        status, text, err = run("transfer", *inputs, "-o", out, *options)
        assert (status, err) == (0, "")
        return out.read_bytes()

    same, other = tmp_path / "same.safetensors", tmp_path / "other.h5"
    save_params(same, params)
    save_params(other, params | {"conv1_1": {k: -v for k, v in params["conv1_1"].items()}})
    assert picture() == picture("--params", same) != picture("--params", other)


def test_transfer_needs_the_input_rule(run, torch_file, tmp_path):
    command = ["transfer", DEMO / "content.jpg", DEMO / "style.jpg", "--size", 32]
    command += ["--num-steps", 1, "--params", torch_file, "-o", tmp_path / "out.png"]
    status, out, err = run(*command)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert not (tmp_path / "out.png").exists()
    assert run(*command, "--input", "torchvision")[0] == 0


def test_a_network_that_ends_early(run, params, tmp_path):
    cut = {name: leaf for name, leaf in params.items() if name < "conv3_2" or name == "normalize"}
    path = tmp_path / "cut.safetensors"
    save_params(path, cut)
    assert rows(run("weights", "info", path)[1])["layers"] == "as expected, but end after conv3_1"
    assert "a VGG19, finite, and ends after conv3_1" in run("weights", "verify", path)[1]
    inputs = [DEMO / "content.jpg", DEMO / "style.jpg", "--size", 32, "--num-steps", 1]
    inputs += ["--params", path, "-o", tmp_path / "out.png"]
    status, out, err = run("transfer", *inputs)
    assert (status, out) == (2, "") and "conv3_1" in err and err.count("\n") == 1
    shallow = ["--content-layers", "relu2_1", "--style-layers", "relu1_1", "relu3_1"]
    assert run("transfer", *inputs, "--preset", "pastiche", *shallow)[0] == 0


def test_convert_never_overwrites_its_input(run, params, tmp_path):
    path, link = tmp_path / "a.safetensors", tmp_path / "link.safetensors"
    save_params(path, params)
    link.symlink_to(path)
    (tmp_path / "x").mkdir()
    before = path.read_bytes()
    for target in (path, link, tmp_path / "x" / ".." / "a.safetensors"):
        status, out, err = run("weights", "convert", path, target)
        assert (status, out) == (2, "") and "would overwrite what is read" in err
    assert path.read_bytes() == before
