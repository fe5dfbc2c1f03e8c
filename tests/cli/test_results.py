"""`show`, `plot` and `export`: what is done with a stored result, and what is none."""

from pathlib import Path

import h5py
import pytest

from tests.cli.running import MODEL, SMALL, command, refused, succeed


def test_show_plot_and_export():
    succeed("analyze", *MODEL, *SMALL, "--quiet")
    shown = succeed("show", "results/analysis.h5").stdout
    assert "batch_size: 8" in shown
    assert "fingerprint: " in shown
    succeed("plot", "results/analysis.h5", "--out", "again", "--normalize", "min-max")
    assert Path("again/curves.png").read_bytes()[:4] == b"\x89PNG"
    succeed("plot", "results/analysis.h5", "--out", "one", "--only", "heatmap", "--model", "vit")
    assert sorted(path.name for path in Path("one").iterdir()) == ["heatmap.pdf", "heatmap.png"]
    assert "compare" in refused("plot", "results/analysis.h5", "--only", "pie")
    assert command("plot", "results/analysis.h5", "--model", "vit").exit_code == 2
    succeed("export", "results/analysis.h5", "table.csv")
    assert "blocks.0" in Path("table.csv").read_text()
    assert ".csv" in refused("export", "results/analysis.h5", "table.xls")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.h5", None, "none.h5"),
        ("text.h5", b"not HDF5", "text.h5"),
        ("newer.h5", {"format": "refiner-cka", "format_version": 99}, "newer"),
        ("other.h5", {"creator": "someone else"}, "other.h5"),
    ],
)
def test_a_file_that_is_no_result_is_refused(name, content, expected):
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif content is not None:
        with h5py.File(name, "w") as file:
            file.attrs.update(content)
    assert expected in refused("show", name)
    assert expected in refused("plot", name)
