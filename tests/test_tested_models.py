"""Networks of the zoo analysed for real: CKA against float64, and docs/tested-models.md against what is found."""

import re

import pytest

from tests.tested_models import PAGE, TITLES, examine
from tests.zoo import NETWORKS, Network

TOLERANCE = 1e-6
"""A float32 Gram matrix of centred features carries a relative error of a few float32 eps (1.2e-7)."""

# One of each way that features or tokens are odd; the rest are left to `make test-all`.
QUICK = (
    "ghostnet_050",
    "resnet18",
    "tnt_s_patch16_224",
    "HieraModel",
    "MobileNetV2Model",
    "SwinModel",
    "ViTMAEModel",
    "shufflenet_v2_x0_5",
)


def rows():
    """Return the rows of the page: (library, name) -> blocks, tokens, error, remark."""
    found = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        library = next(key for key, title in TITLES.items() if section.startswith(title + "\n"))
        for line in section.splitlines():
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if len(cells) == 5 and cells[0] not in ("model", "---"):
                found[library, cells[0]] = cells[1:]
    return found


def of_each():
    return [
        pytest.param(
            one,
            id=f"{one.library}-{one.name}",
            marks=() if one.name in QUICK else pytest.mark.whole,
        )
        for one in NETWORKS
    ]


@pytest.mark.parametrize("network", of_each())
def test_cka_is_that_of_float64_and_the_page_says_so(network: Network):
    row = examine(network)
    assert row.blocks, row.said
    assert row.error < TOLERANCE
    blocks, tokens, _, said = rows()[network.library, network.name]
    assert (row.blocks, row.tokens) == (blocks, tokens)
    assert said == row.said.replace("|", "\\|")


def test_the_page_has_every_network():
    assert rows().keys() == {(one.library, one.name) for one in NETWORKS}
