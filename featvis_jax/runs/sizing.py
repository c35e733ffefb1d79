"""What a run takes, tried beforehand: the size of a batch comes from the layer that needs most."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from featvis_jax import memory
from featvis_jax.maximize import ascent, planning
from featvis_jax.maximize.layer import LayerProgram
from featvis_jax.nn.tracing import Network
from featvis_jax.progress import announced, duration

# What trying may spend on compiling and trying layers, about; the others are then estimated.
_SECONDS_FOR_PROBES = 60.0
# Calls to the device that a probe takes; the first ones warm up.
_CALLS_OF_A_PROBE = 4


class Work(NamedTuple):
    """What a run has to do.

    Attributes:
      network: The trained network.
      recipes: What to do, by layer.
      channels: The channels asked for, by layer.
    """

    network: Network
    recipes: Mapping[str, ascent.Recipe]
    channels: Mapping[str, Sequence[int]]

    def program(self, layer: str, batch_size: int | None) -> LayerProgram:
        """Compile the program of a layer; without a size for the largest batch that fits."""
        count = len(self.channels[layer])
        if batch_size is not None:
            batch_size = planning.even_size(count, batch_size)
        try:
            with announced(f"compiling the ascent of {layer}", after_s=0):
                return LayerProgram(
                    self.network, self.recipes[layer], num_units=count, batch_size=batch_size
                )
        except jax.errors.JaxRuntimeError as error:
            raise explained(error, layer, batch_size or 1) from error

    def batches(self, layer: str, batch_size: int) -> list[planning.Batch]:
        """The batches of a layer, which depend on the channels asked for and the size alone."""
        channels = self.channels[layer]
        size = planning.even_size(len(channels), batch_size)
        return planning.batches(channels, batch_size=size)

    def deepest_first(self) -> list[str]:
        """The layers asked for, from the last of the network to the first."""
        place = {layer.name: index for index, layer in enumerate(self.network.layers)}

        def depth(name: str) -> int:
            return place[name] if name in place else place[name.removesuffix("/relu")]

        return sorted(self.channels, key=depth, reverse=True)


def largest_size(work: Work) -> tuple[int, dict[str, LayerProgram]]:
    """Find the largest useful batch that fits for every layer, with one compilation.

    An ascent on a layer runs all layers before it too, so that the deepest needs most memory per
    unit.

    Args:
      work: What the run has to do.

    Returns:
      Units per batch, and the program that was compiled to find it, by layer.

    Raises:
      MemoryError: Not even one unit fits.
    """
    name = work.deepest_first()[0]
    count, most = len(work.channels[name]), planning.largest_useful_size()
    program = work.program(name, None)
    size = program.batch_size
    if size == planning.even_size(count, most):
        # This layer may have few channels; others could fill a larger batch.
        units = -(-size // program.num_devices)
        fit = units * memory.free_bytes() / max(program.memory_bytes, 1)
        size = max(size, min(most, int(jax.local_device_count() * fit)))
    return size, {name: program}


def explained(error: Exception, layer: str, batch_size: int) -> Exception:
    """Make of a device that is out of memory an error that names the batch to use.

    Args:
      error: What the device said.
      layer: The layer that was running.
      batch_size: Its units per batch.

    Returns:
      That error, or the one given if it is about something else.
    """
    if "RESOURCE_EXHAUSTED" not in str(error):
        return error
    advice = (
        f"Give `batch={batch_size // 2}`, and another `out`."
        if batch_size > 1
        else "Take an earlier layer, a smaller input grid, a larger machine, or `rematerialize`."
    )
    return MemoryError(
        f"Layer {layer!r}: {batch_size} units together do not fit into memory. {advice}"
    )


class _Enough(Exception):
    """A probe knows what it wanted to know."""


class _Probe(NamedTuple):
    """What is known about a batch of a layer."""

    program_seconds: float
    step_seconds: float
    memory_bytes: float
    measured: bool


def text(
    work: Work,
    batch_size: int | None,
    finished: frozenset[tuple[str, int]],
    *,
    steps: int,
    out: Path,
) -> str:
    """Say what a run would do and need, from a short trial of its layers; nothing is written.

    Args:
      work: What the run has to do.
      batch_size: Units per batch; None for the largest that fits.
      finished: Layer and channel of what an earlier run has done.
      steps: Steps of the ascent.
      out: Directory of the results.

    Raises:
      MemoryError: Not even one unit fits.
    """
    programs: dict[str, LayerProgram] = {}
    found = batch_size
    if batch_size is None:
        batch_size, programs = largest_size(work)
    probes = _probes(work, batch_size, programs)
    *sides, count = work.network.image_shape
    shape = f"{'x'.join(map(str, sides))} voxels" + (f" of {count} channels" if count > 1 else "")
    num_devices = min(batch_size, jax.local_device_count())
    free = memory.free_bytes(num_devices=num_devices) / 2**30
    lines = [
        f"Images of {shape}, {steps} steps, `batch={batch_size}`"
        + (" (the largest useful one that fits)." if found is None else "."),
        f"{'layer':<16} {'channels':>8} {'batches':>9} {'memory':>10} {'batch step':>11} "
        f"{'time':>14}",
    ]
    total, to_do, estimated = 0.0, 0, False
    for layer, channels in work.channels.items():
        probe, batches = probes[layer], work.batches(layer, batch_size)
        missing = [
            batch
            for batch in batches
            if any((layer, channel) not in finished for channel in batch.channels)
        ]
        seconds = len(missing) * steps * probe.step_seconds
        total += seconds + (probe.program_seconds if missing else 0.0)
        to_do += sum((layer, channel) not in finished for channel in channels)
        estimated |= not probe.measured
        mark = " " if probe.measured else "*"
        lines.append(
            f"{layer:<16} {len(channels):>8} {f'{len(batches)} x {len(batches[0].channels)}':>9} "
            f"{f'{probe.memory_bytes / 2**30:.2f} GiB':>10} {f'{probe.step_seconds:.3g} s':>11} "
            f"{duration(seconds):>14}{mark}"
        )
    if estimated:
        lines.append("* at most: taken from the next deeper layer, since trying all takes long")
    everything = sum(map(len, work.channels.values()))
    if to_do < everything:
        lines.append(f"{everything - to_do} of {everything} channels are finished already.")
    lines.append(f"Time: about {duration(total)} for {to_do} channels, compiling included.")
    each = "" if num_devices == 1 else f" on each of {num_devices} devices"
    lines.append(f"Memory: {free:.1f} GiB may be used{each}.")
    size, room = _disk_bytes(work, to_do, steps), shutil.disk_usage(_existing(out)).free
    lines.append(
        f"Disk: at most {size / 2**20:.0f} MiB in {out}; {room / 2**20:.0f} MiB are free."
        + (" That is not enough: choose another `out`." if size > room else "")
    )
    lines.append("Nothing was written; leave out `dry_run` to begin.")
    return "\n".join(lines)


def _probes(work: Work, batch_size: int, programs: Mapping[str, LayerProgram]) -> dict[str, _Probe]:
    """Try the layers, the deepest first, until the time for it is over."""
    started, found = time.monotonic(), {}
    last: _Probe | None = None
    size = last_size = 1
    for layer in work.deepest_first():
        size = len(work.batches(layer, batch_size)[0].channels)
        if last is not None and time.monotonic() - started > _SECONDS_FOR_PROBES:
            share = size / last_size
            found[layer] = last._replace(
                step_seconds=last.step_seconds * share,
                memory_bytes=last.memory_bytes * share,
                measured=False,
            )
            continue
        program = programs.get(layer)
        if program is None or program.batch_size != size:
            program = work.program(layer, batch_size)
        batch = work.batches(layer, batch_size)[0]
        seconds = _step_seconds(program, batch, layer)
        last = _Probe(program.compile_seconds, seconds, program.memory_bytes, True)
        last_size, found[layer] = size, last
    return found


def _step_seconds(program: LayerProgram, batch: planning.Batch, layer: str) -> float:
    """Time the first steps of a batch; the first call warms up."""
    calls: list[float] = []
    looked = time.monotonic()

    def on_steps(steps: int) -> None:
        nonlocal looked
        now = time.monotonic()
        calls.append((now - looked) / steps)
        looked = now
        if len(calls) == _CALLS_OF_A_PROBE:
            raise _Enough

    try:
        program.run(batch, ascent.unit_keys(0, layer, batch.channels), on_steps=on_steps)
    except _Enough:
        pass
    except jax.errors.JaxRuntimeError as error:
        raise explained(error, layer, program.batch_size) from error
    return min(calls)


def _disk_bytes(work: Work, channels: int, steps: int) -> float:
    """Size of what the channels leave behind, gallery included, as if nothing were compressed."""
    voxels = 1
    for length in work.network.image_shape:
        voxels *= length
    # Float32 as NIfTI; the picture, its tiles in the gallery and in the contact sheet; a viewer's
    # volume in base64; two traces; and pages of text.
    return channels * (4 * voxels + 6 * voxels + 2 * 4 * steps + 40_000)


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.is_dir())
