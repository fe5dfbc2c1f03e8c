"""Draw docs/img/nano-seeds.png and print the table of docs/nano.md: three trainings of each embedded network.

make weights && make weights SEED=1 && make weights SEED=2
python docs/img/nano_seeds.py results/weights
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import refiner_cka as rc  # noqa: E402
from refiner_cka.plots.lines import depth_axis  # noqa: E402
from refiner_cka.plots.style import PAGE, new_figure, paper, series  # noqa: E402

NAMES = ("vit_nano", "deit_nano", "resnet_nano", "refiner_nano")
SEEDS = (0, 1, 2)
COSINE = "patch_cosine_centred"


def texts(folder: Path) -> dict[str, list[str]]:
    """Return the `--model` text of every seed of each network."""
    return {
        name: [
            f"{name}={folder}/seed{seed}/{name}.safetensors,label={name} {seed}" for seed in SEEDS
        ]
        for name in NAMES
    }


def row(name: str, given: list[str], result: rc.Result) -> str:
    """Return a network's line of the table; three numbers in a cell are three seeds."""
    curves = [result.curve(f"{name} {seed}", normalize="none") for seed in SEEDS]
    cosines = [result.smoothing(COSINE, f"{name} {seed}").values for seed in SEEDS]
    accuracies = [f"{rc.accuracy(text, 'digits-test'):.1%}".replace("%", " %") for text in given]
    cells = [
        f"`{name}`",
        result_parameters(result, f"{name} 0"),
        accuracies[0],
        ", ".join(accuracies[1:]),
        three(1 / curve.values[0] for curve in curves),
        three(np.interp(0.5, curve.depth, curve.values) for curve in curves),
        three(values[len(values) // 2] for values in cosines),
        three(values[-1] for values in cosines),
    ]
    return f"| {' | '.join(cells)} |"


def result_parameters(result: rc.Result, name: str) -> str:
    """Return how many numbers a network learned."""
    (model,) = (each for each in result.provenance["models"] if each["name"] == name)
    return f"{model['origin']['parameters']:,}"


def three(values) -> str:
    """Return the numbers of the seeds."""
    return ", ".join(f"{value:.2f}" for value in values)


def draw(result: rc.Result) -> None:
    """Draw curves and cosines of all seeds, a colour for each network."""
    with paper():
        figure = new_figure(PAGE, 2.6)
        axes = figure.subplots(1, 2)
        for number, name in enumerate(NAMES):
            for seed in SEEDS:
                look = series(number) | {"label": name if seed == 0 else None}
                curve = result.curve(f"{name} {seed}", normalize="none")
                axes[0].plot(curve.depth, curve.values, **look)
                cosine = result.smoothing(COSINE, f"{name} {seed}")
                axes[1].plot(cosine.depth, cosine.values, **look)
        for ax, label in zip(axes, ("CKA($l$, last)", "Centred patch cosine"), strict=True):
            depth_axis(ax)
            ax.set_ylabel(label)
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
        )
        figure.savefig(HERE / "nano-seeds.png", dpi=200, metadata={"Software": None})


def main(folder: Path) -> None:
    """Measure, draw and print."""
    models = texts(folder)
    result = rc.analyze(
        [text for each in models.values() for text in each], "digits-test", batch_size=32
    )
    draw(result)
    for name, given in models.items():
        print(row(name, given, result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
