"""Pictures from a transformer in training: FLUX's sigmas, Euler steps, linear decoding, and their
score.

It stands in for FluxPipeline between checkpoints, when there is no VAE yet; the card's scores
come from FluxPipeline itself (score_pipeline.py).
"""
import math
import random

import numpy as np
import torch

import transformer
from captions import caption
from conditioning import TextLength
from score import report
from world import sample_scenes

EVALUATION_SEED = 77
BATCH_TOKENS = 8192


def shift(image_tokens):
    """exp(mu) of FLUX's dynamic shift: base .5 at 256 tokens, 1.15 at 4096, linear in between."""
    slope = (1.15 - 0.5) / (4096 - 256)
    return math.exp(image_tokens * slope + 0.5 - 256 * slope)


def shifted(sigma, image_tokens):
    factor = shift(image_tokens)
    return factor * sigma / (1 + (factor - 1) * sigma)


def captioned_scenes(count, seed=EVALUATION_SEED):
    """Held-out scenes and captions that state every attribute."""
    scenes = sample_scenes(count, np.random.default_rng(seed), held_out=True)
    words = random.Random(seed)
    return scenes, [caption(scenes, index, words, complete=True)[0] for index in range(count)]


def predict(model, latents, conditioning, sigma, guidance, rotary, compiled=False):
    bias = conditioning.key_bias(latents.shape[1])
    with torch.autocast("cpu", torch.bfloat16):
        return transformer.forward(model, latents, conditioning.text, conditioning.pooled, sigma,
                                   guidance, rotary, bias, compiled)


@torch.no_grad()
def sample_tokens(model, conditioning, empty, size, steps, guidance, true_cfg):
    """Euler from noise: packed latents [n, tokens, 64]. `empty` may be None at true_cfg 1."""
    count, rows, cols = len(conditioning.pooled), size[0] // 16, size[1] // 16
    rotary = transformer.rotary_table(conditioning.text.shape[1], rows, cols)
    noise = torch.Generator().manual_seed(EVALUATION_SEED)
    latents = torch.randn(count, rows * cols, 64, generator=noise)
    sigmas = shifted(torch.linspace(1, 1 / steps, steps), rows * cols).tolist() + [0.0]
    guidance = torch.full((count,), float(guidance))
    for now, after in zip(sigmas, sigmas[1:]):
        sigma = torch.full((count,), now)
        velocity = predict(model, latents, conditioning, sigma, guidance, rotary)
        if true_cfg != 1:
            negative = predict(model, latents, empty, sigma, guidance, rotary)
            velocity = negative + true_cfg * (velocity - negative)
        latents = latents + (after - now) * velocity
    return latents


def evaluate(model, conditioner, linear, size, padded=64, count=60, steps=20, guidance=3.5,
             true_cfg=1):
    """Score of `count` held-out captions at one size and T5 length, decoded by the linear map."""
    scenes, texts = captioned_scenes(count)
    t5_ids, clip_ids = conditioner.tokenize(texts)
    length, pictures = TextLength(padded), []
    rows = max(4, BATCH_TOKENS // (padded + size[0] * size[1] // 256))
    for t5_part, clip_part in zip(t5_ids.split(rows), clip_ids.split(rows)):
        conditioning = conditioner(t5_part, clip_part, length)
        empty = conditioner(*conditioner.empty(len(t5_part)), length) if true_cfg != 1 else None
        tokens = sample_tokens(model, conditioning, empty, size, steps, guidance, true_cfg)
        pictures.append(linear.decode_tokens(tokens, *size))
    return report(np.concatenate(pictures), scenes)
