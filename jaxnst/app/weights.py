"""The commands about weight files. Each returns its exit status."""

import argparse
from contextlib import nullcontext

from jaxnst.app.output import on_terminal, say
from jaxnst.app.progress import DownloadBar
from jaxnst.files import check_not_read
from jaxnst.formats import (
    KNOWN_FILES,
    bundled_weights,
    cached,
    fetch,
    identify,
    inspect_weights,
    load_params,
    quantize_params,
    save_params,
    sha256,
    show_shape,
)
from jaxnst.vgg import CONV_SHAPES

LAST = [*CONV_SHAPES][-1]


def list_files(options: argparse.Namespace) -> int:
    """Run `jaxnst weights list`."""
    for name, known in KNOWN_FILES.items():
        if name == "bundled":
            where = str(bundled_weights())
        elif place := cached(known):
            where = str(place)
        elif known.url:
            where = f"not here: jaxnst weights fetch {name}"
        else:
            where = f"not here, and not to be fetched: {known.filename}"
        say(f"{name:<12} {known.input:<12} {where}")
    return 0


def describe_file(options: argparse.Namespace) -> int:
    """Run `jaxnst weights info`."""
    found = inspect_weights(options.file)
    asked = "to be asked for: --input caffe or torchvision"
    rows = {
        "file": found.path,
        "bytes": f"{found.path.stat().st_size:,}",
        "sha256": sha256(found.path),
        "known as": found.known.name if found.known else "no published file with a known checksum",
        "container": f"{found.container}, {found.num_arrays} arrays",
        "layout": found.layout or "none of VGG19 that is known",
    }
    if found.layout:
        rows["input rule"] = found.input or asked
        end = "" if found.deepest == LAST else f", but end after {found.deepest}"
        rows["layers"] = f"as expected{end}" if not found.mismatches else "not those of VGG19:"
    for name, value in rows.items():
        say(f"{name:<12} {value}")
    if found.mismatches:
        say(f"\n{'array':<32} {'expected':<20} found")
    for name, shapes in sorted(found.mismatches.items()):
        expected, got = map(show_shape, shapes)
        say(f"{name:<32} {expected:<20} {got}")
    return 0


def verify_file(options: argparse.Namespace) -> int:
    """Run `jaxnst weights verify`."""
    params = load_params(options.file, input=options.input)
    known = identify(options.file)
    origin = f"the published file {known.name!r}" if known else "no published file that is known"
    deepest = [layer for layer in CONV_SHAPES if layer in params][-1]
    extent = "whole and finite" if deepest == LAST else f"finite, and ends after {deepest}"
    say(f"{options.file}: a VGG19, {extent}; {origin}")
    return 0


def convert_file(options: argparse.Namespace) -> int:
    """Run `jaxnst weights convert`."""
    check_not_read([options.output], [options.file])
    params = load_params(options.file, input=options.input)
    save_params(options.output, quantize_params(params) if options.quantize else params)
    say(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")
    return 0


def fetch_file(options: argparse.Namespace) -> int:
    """Run `jaxnst weights fetch`."""
    with nullcontext() if options.quiet or not on_terminal() else DownloadBar(options.name) as show:
        path = fetch(KNOWN_FILES[options.name], progress=show)
    say(str(path))
    return 0
