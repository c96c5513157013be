"""Pictures of one colour each, and labels that make a grid, for the tests of reports."""

import numpy as np

COLOURS = np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
GRID = [{"style_weight": w, "tv_weight": t} for w in (1e1, 1e3, 1e5) for t in (0.0, 1e-5)]
IMAGE = np.zeros((8, 8, 3), np.float32)
NASTY = "</script><script>document.title='harm'</script><!--data-->\"'&<img src=x onerror=alert(1)>"


def plain(shapes):
    """Return an image of one colour for each shape."""
    return [
        np.broadcast_to(colour, (*shape, 3)) for colour, shape in zip(COLOURS, shapes, strict=False)
    ]
