"""Guidance distillation: teaches the transformer to read the guidance input, as FLUX.1-dev was
taught.

The averaged flow model is the frozen teacher. Target: v_empty + g (v_prompt - v_empty), with g
drawn from 1 to 6 and given to the student; afterwards one forward pass does what classifier-free
guidance needs two for.
"""
import copy

import torch

from flow import TEXT_MIX, Trainer, mix_at
from sampler import predict

# The larger sizes need guidance most: 64x64 is all but right without.
SIZES = {(64, 64): 0.22, (96, 96): 0.38, (96, 64): 0.17, (64, 96): 0.17, (128, 128): 0.06}


def train(work, duration_s, seed):
    trainer = Trainer("distill", work, seed + 2, duration_s, adam_rate=1e-3, muon_rate=0.01,
                      average_decay=0.99, hold=0.3)
    taught = torch.load(f"{work}/flow.pt")["weights"]
    teacher = copy.deepcopy(trainer.model).requires_grad_(False)
    teacher.load_state_dict(taught)
    if not trainer.resume():
        trainer.start_from(taught)

    @torch.no_grad()
    def guided_velocity(noisy, conditioning, sigma, guidance, velocity, length, rotary, compiled):
        conditioner = trainer.conditioner
        empty = conditioner(*conditioner.empty(len(noisy)), length)
        with_prompt = predict(teacher, noisy, conditioning, sigma, guidance, rotary, compiled)
        without = predict(teacher, noisy, empty, sigma, guidance, rotary, compiled)
        return without + guidance[:, None, None] * (with_prompt - without)

    trainer.run([(0.0, SIZES)], [(0.0, mix_at(TEXT_MIX, 1.0))], guided_velocity)
