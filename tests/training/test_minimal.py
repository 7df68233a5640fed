"""The loop of the essay and the hardened `train` give the same weights, to the bit."""

from dataclasses import replace

import pytest
import torch
from diffusers.training_utils import EMAModel

from radgen.core.devices import set_seed
from radgen.training.batches import initial_model, make_batches
from radgen.training.minimal import train_steps
from radgen.training.run import schedule_of
from radgen.training.train import train
from training_tools import last_weights


@pytest.mark.parametrize("recipe", ["radgen", "paper"])
def test_minimal_loop_and_train_end_with_the_same_bits(cfg, recipe):
    run = train(replace(cfg, recipe=recipe, steps=10, valid_every=0, log_every=1))
    batches = make_batches(run.config, run.prepared)
    set_seed(run.config.seed)
    model = initial_model(run.config, batches.store.width).to(memory_format=torch.channels_last)
    ema = EMAModel(model.parameters(), decay=run.config.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    optimizer = torch.optim.AdamW(model.parameters())
    losses = []
    for _, loss in train_steps(model, schedule_of(run.config), batches, optimizer, total=10):
        ema.step(model.parameters())
        losses.append(loss)
    assert run.metrics().loss.tolist() == pytest.approx(losses, abs=1e-6)
    for name, weight in last_weights(run).items():
        assert torch.equal(model.state_dict()[name], weight), name
    ema.copy_to(model.parameters())
    averages = last_weights(run, "ema")
    for name, weight in model.named_parameters():
        assert torch.equal(weight, averages[name]), name
