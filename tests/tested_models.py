"""Analyses every network of the zoo and writes docs/tested-models.md.

    python tests/tested_models.py                 # all of them, as `make tested-models` does
    python tests/tested_models.py --only swin     # print the rows of some

Each network has random weights and sees a batch of 16 of the embedded digits, in a process of its own. The error
is the largest difference between CKA of its blocks and float64 CKA, by the textbook formula, of the same float32
features, which hooks of this script kept.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.zoo import NETWORKS, Network  # noqa: E402

PAGE = ROOT / "docs" / "tested-models.md"
IMAGES = 16
SECONDS = 600
"""A network that takes longer is reported as such."""

TITLES = {"timm": "timm", "transformers": "Hugging Face transformers", "torchvision": "torchvision"}
HEAD = """# Models that were tried

Every module of timm, and vision classes of Hugging Face transformers and torchvision, each with random weights and
without options. `make tested-models` made this page and makes it again; `make test` tries a sample of the
networks, `make test-all` all. Made with {versions}.

- **Blocks**: how many `--layers block` finds; first and last in the order of the pass. They agree with a table,
  `tests/zoo.py` (`make test-all`).
- **Tokens**: how the blocks' outputs are read where tokens are measured: of how many blocks, their axes (`nlc`:
  images, tokens, channels), prefix tokens.
- **Error**: largest difference of CKA between blocks from float64 CKA of the same float32 features, 16 of the
  embedded digits.
- **Said**: what the tool says.

{counts}
"""


@dataclass(frozen=True)
class Row:
    """What was found of one network.

    Attributes:
        network: its name.
        blocks: how many, first and last.
        tokens: how they are read.
        error: largest error of CKA; NaN where there is none.
        said: warnings or the refusal, one line.
    """

    network: str
    blocks: str
    tokens: str
    error: float
    said: str

    def __str__(self) -> str:
        """The row of a table."""
        error = "" if np.isnan(self.error) else f"{self.error:.0e}"
        said = self.said.replace("|", "\\|")
        return f"| {self.network} | {self.blocks} | {self.tokens} | {error} | {said} |"


def examine(network: Network) -> Row:
    """Analyse one network and compare with float64."""
    import torch

    import refiner_cka as rc
    from refiner_cka.analysis.passes import CPU_CHUNK

    torch.manual_seed(0)
    torch.set_num_threads(1)
    module = network.build()
    data = pictures(network.input_size)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", rc.AnalysisWarning)
        try:
            subject = rc.Subject.from_module(module, network.remedy or "block", name=network.name)
            analysis = rc.prepare(subject, data, batch_size=IMAGES, workers=0, device="cpu")
            result = rc.measure(analysis)
        except rc.RefinerCkaError as error:
            return Row(network.name, "", "", float("nan"), str(error))
        said = [str(each.message) for each in caught if each.category is rc.AnalysisWarning]
    paths = [layer.path for layer in result.layers]
    images = data[list(analysis.plan.batches[0])]
    chunks = [images] if analysis.models[0].whole else list(images.split(CPU_CHUNK))
    expected = truth(module, paths, chunks, analysis.plan.seed)
    # A layer without a CKA is NaN here, and rounding noise there.
    difference = np.abs(result.cka() - expected)
    return Row(
        network.name,
        f"{len(paths)}: {paths[0]} to {paths[-1]}",
        described(analysis.models[0]),
        float(np.nanmax(difference)) if np.isfinite(difference).any() else float("nan"),
        "; ".join(line.removeprefix(f"{network.name}: ") for line in said),
    )


def pictures(size):
    """Return digits in so many channels, height and width, with values from -1 to 1.

    Noise would be no test: in so many dimensions no two images of noise are alike, and all that CKA reads of them
    is what is left of a Gram matrix without its diagonal.
    """
    import torch
    from torch.nn.functional import interpolate

    from refiner_cka.images import open_source

    digits = open_source("digits")
    inks = [torch.from_numpy(np.array(digits.read(k).convert("L"))) for k in range(IMAGES)]
    shown = interpolate(torch.stack(inks)[:, None] / 127.5 - 1, size=size[1:], mode="bilinear")
    return shown.expand(-1, size[0], -1, -1).contiguous()


def truth(module, paths, chunks, seed):
    """Return float64 CKA of the layers' float32 features for one batch in chunks, `(L, L)`."""
    import torch

    from refiner_cka.analysis import process
    from refiner_cka.subjects.hooks import capture
    from refiner_cka.subjects.readout import tensor_of
    from tests import float64

    kept = {path: [] for path in paths}
    images = 0

    def visit(path, output):
        kept[path].append(tensor_of(output, images).flatten(1).float().numpy().copy())

    process.seed(seed, 0, torch.device("cpu"))
    with capture(module, paths, visit), torch.no_grad():
        for chunk in chunks:
            images = len(chunk)
            module(chunk)
    # CKA of one batch does not depend on the size of features, and products of the smallest leave float64.
    features = [np.concatenate(kept[path]) for path in paths]
    return float64.minibatch_cka_matrix(
        [[float64.gram(each / (np.abs(each).max().astype(np.float64) or 1.0))] for each in features]
    )


def described(model):
    """Return how tokens are read, the most frequent way first."""
    from refiner_cka.measures.tokens import has_tokens
    from refiner_cka.subjects.locality import Reading

    readings = [model.readings[row.path] for row in model.rows]
    kinds = Counter(
        each.layout.format + (f", {each.layout.prefix} prefix" if each.layout.prefix else "")
        for each, row in zip(readings, model.rows, strict=True)
        if isinstance(each, Reading) and has_tokens(model.outputs[row.path], each)
    )
    ways = "; ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    missing = len(model.rows) - kinds.total()
    return (ways or "none") + (f"; {missing} without" if ways and missing else "")


def guarded(network: Network) -> Row:
    """Examine a network; whatever it raises is its row."""
    with redirect_stderr(io.StringIO()):
        try:
            return examine(network)
        except Exception as error:
            return Row(network.name, "", "", float("nan"), f"{type(error).__name__}: {error}")


def page(rows: dict[str, list[Row]]) -> str:
    """Return the page."""
    packages = ("torch", "timm", "transformers", "torchvision")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    lines = []
    for library, found in rows.items():
        errors = [row.error for row in found if not np.isnan(row.error)]
        worst = f", largest error {max(errors):.0e}" if errors else ""
        lines.append(
            f"{TITLES[library]}: {len(found)} networks, {len(errors)} measured{worst}, "
            f"{sum(not row.said for row in found)} without a remark."
        )
    text = HEAD.format(versions=versions, counts=" ".join(lines))
    for library, found in rows.items():
        text += f"\n## {TITLES[library]}\n\n| model | blocks | tokens | error | said |\n|---|---|---|---|---|\n"
        text += "".join(f"{row}\n" for row in found)
    return text


def examined(networks: Sequence[Network]) -> list[Row]:
    """Examine networks, each in a process of its own."""
    rows = []
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        pending = [pool.apply_async(guarded, (network,)) for network in networks]
        for network, each in zip(networks, pending, strict=True):
            try:
                rows.append(each.get(SECONDS))
            except multiprocessing.TimeoutError:
                rows.append(Row(network.name, "", "", float("nan"), f"more than {SECONDS} s"))
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Write the page, or print rows of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="networks whose name contains this; the page is not written")
    only = parser.parse_args().only
    chosen = [network for network in NETWORKS if only is None or only in network.name]
    found = examined(chosen)
    if only is None:
        of = {
            library: [
                row
                for network, row in zip(chosen, found, strict=True)
                if network.library == library
            ]
            for library in TITLES
        }
        PAGE.write_text(page(of))


if __name__ == "__main__":
    main()
