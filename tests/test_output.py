"""What is printed never decides what is made."""

import io
import subprocess
import sys

import helpers
import pytest

from jaxnst.app import output


class Full(io.StringIO):
    """A file on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def closed():
    file = io.StringIO()
    file.close()
    return file


@pytest.mark.parametrize("file", [None, Full(), closed()], ids=["none", "full", "closed"])
def test_output_that_cannot_be_written_is_dropped(monkeypatch, file):
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr(sys, "stderr", file)
    output.say("out.png: done")
    output.complain("not saved")
    assert not output.on_terminal()


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "é\\udcff.png\n"),
        ("ascii", "\\xe9\\udcff.png\n"),
        ("cp1252", "é\\udcff.png\n"),
    ],
)
def test_names_that_the_encoding_lacks_are_escaped(monkeypatch, encoding, expected):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding))
    output.say("é\udcff.png")
    assert data.getvalue().decode(encoding) == expected


def test_a_long_text_is_cut_in_its_middle():
    assert output.one_line("a" * 500 + " \n " + "b" * 500, 100) == "a" * 50 + " … " + "b" * 50
    assert output.one_line("a\nb") == "a b"


def test_a_complaint_is_one_line(capsys):
    output.complain("first\n  second")
    assert capsys.readouterr().err == "jaxnst: first second\n"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--size 1_0", "'1_0'"),
        ("--content-weight 1_0", "'1_0'"),
        ("--size ٣", "'٣'"),
        (f"--size {'9' * 400}", "below 9223372036854775808"),
        (f"--content-weight {'9' * 400}", "a finite number"),
        ("--num-steps 2147483648", "num_steps must be at most"),
        ("--memory 4611686018427387904", "memory must be at most"),
        ("--seed 99999999999999999999", "an integer below"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, monkeypatch, words, part):
    monkeypatch.chdir(tmp_path)
    outcome = helpers.call("transfer", "a.png", "b.png", "-o", "c.png", *words.split())
    helpers.check_refused(outcome, part)
    assert len(outcome.err) < 1000


@pytest.mark.parametrize("platform", ["nonsense", "cuda", "rocm"])
def test_a_platform_that_is_not_there_is_one_line(platform):
    process = subprocess.run(
        [sys.executable, "-m", "jaxnst", "transfer", "a.png", "b.png", "-o", "c.png"],
        env=helpers.environment(JAX_PLATFORMS=platform),
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.count("\n") == 1 and "JAX has no device" in process.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a shell that closes stdout")
@pytest.mark.parametrize("streams", [">&-", ">/dev/full", ">&- 2>&-"])
def test_a_picture_is_made_whatever_becomes_of_stdout(tmp_path, streams):
    words = "demo -o out.png --size 32 --preset pastiche --num-steps 1"
    words += " --content-layers relu1_1 --style-layers relu1_1"
    process = subprocess.run(
        f"{sys.executable} -m jaxnst {words} {streams}",
        shell=True,
        cwd=tmp_path,
        env=helpers.environment(JAX_PLATFORMS="cpu"),
        stderr=subprocess.PIPE,
    )
    assert (process.returncode, process.stderr) == (0, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
