"""No room, a bad sector or half a write at any operation: an error, and earlier units are whole."""

import os

import pytest

from featvis_jax.results import files
from tests.results import broken_disk, crash_points


@pytest.mark.parametrize("fault", broken_disk.FAULTS)
def test_a_disk_that_breaks_at_any_call_costs_no_finished_unit(tmp_path, monkeypatch, fault):
    crash_points.compute(tmp_path / "whole")
    whole = crash_points.digests(tmp_path / "whole")
    call, broke = 0, True
    while broke:
        call += 1
        directory = tmp_path / str(call)
        before = broken_disk.begin(directory)
        with monkeypatch.context() as patch:
            disk = broken_disk.Disk(lambda *a, p=patch: p.setattr(files.os, *a), fault, call)
            try:
                crash_points.compute(directory)
            except OSError as error:
                assert str(directory) in str(error) or error.filename is None
            broke = disk.calls >= call
        broken_disk.check(directory, before, whole)
    assert call > 40
    assert os.write.__module__ == "posix"
