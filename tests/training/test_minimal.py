"""The loop of the essay and the hardened `train` give the same weights, to the bit."""

from dataclasses import replace

import pytest
import torch

from radgen.core.devices import set_seed
from radgen.training.averages import average_names, make_average
from radgen.training.batches import initial_model, make_batches
from radgen.training.minimal import train_steps
from radgen.training.optimizers import make_optimizer
from radgen.training.run import schedule_of
from radgen.training.train import train
from training_tools import last_weights


@pytest.mark.parametrize(
    "options",
    [
        dict(recipe="radgen"),
        pytest.param(dict(recipe="paper"), marks=pytest.mark.soak),
        dict(prediction="flow", patch=2),
    ],
    ids=str,
)
def test_minimal_loop_and_train_end_with_the_same_bits(cfg, options):
    run = train(replace(cfg, **options, steps=10, valid_every=0, log_every=1))
    batches = make_batches(run.config, run.prepared)
    set_seed(run.config.seed)
    model = initial_model(run.config, batches.store.width).to(memory_format=torch.channels_last)
    ema = make_average(model, run.config.ema_width, run.config.ema_decay)
    optimizer = make_optimizer(model, run.config.optimizer, run.config.lr)
    losses = []
    for _, loss in train_steps(model, schedule_of(run.config), batches, optimizer, total=10):
        ema.step(model.parameters())
        losses.append(loss)
    assert run.metrics().loss.tolist() == pytest.approx(losses, abs=1e-6)
    for name, weight in last_weights(run).items():
        assert torch.equal(model.state_dict()[name], weight), name
    averages = last_weights(run, "ema")
    names = average_names(ema, [name for name, _ in model.named_parameters()])
    assert set(names) == set(averages)
    for name, value in zip(names, ema.shadow_params):
        assert torch.equal(value, averages[name]), name
