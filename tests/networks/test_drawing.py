"""The boxes of the figure hold every parameter and all arithmetic of the network."""

import pytest
from networks_tools import make

from radgen.networks.cost import block_table
from radgen.networks.drawing import boxes


def test_boxes_of_the_figure_add_up_to_the_network():
    model = make("VGG16UNet-radgen-1")
    table = block_table(model)
    assert table.parameters.sum() == sum(p.numel() for p in model.parameters())
    assert boxes(table).parameters.sum() == table.parameters.sum()
    assert boxes(table).gflop.sum() == pytest.approx(table.gflop.sum())
