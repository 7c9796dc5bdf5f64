"""Fixed latents before there is a VAE: a linear map of 8x8 pixel patches, and the training file in
them.

The map is a principal component analysis to 16 channels, each divided by (standard
deviation)^0.75, so that the transformer's velocity loss sees detail and not only the mean colour.
Because it is known before training, the transformer and the VAE can be trained side by side, both
against it.
"""
import random
import time

import numpy as np
import torch

import tokenizer_files
from captions import caption
from text_encoders import tokenize
from world import render, sample_scenes

PATCH = 8
CHANNELS = 16
FLATTEN = 0.75
CAPTIONS_PER_PICTURE = 3
CHUNK = 2000
# (height, width) in px and the pictures drawn of each.
PICTURES = {(64, 64): 80_000, (96, 96): 32_000, (96, 64): 24_000, (64, 96): 24_000,
            (128, 128): 16_000}


def to_patches(pictures):
    """uint8 [n, H, W, 3] -> float [n, H/8, W/8, 192] in -1..1."""
    count, height, width, _ = pictures.shape
    pixels = torch.from_numpy(pictures).float() / 127.5 - 1
    pixels = pixels.view(count, height // PATCH, PATCH, width // PATCH, PATCH, 3)
    return pixels.permute(0, 1, 3, 2, 4, 5).reshape(count, height // PATCH, width // PATCH, -1)


def from_patches(patches):
    """float [n, h, w, 192] -> uint8 [n, 8h, 8w, 3]."""
    count, rows, cols, _ = patches.shape
    pixels = patches.view(count, rows, cols, PATCH, PATCH, 3).permute(0, 1, 3, 2, 4, 5)
    pixels = pixels.reshape(count, rows * PATCH, cols * PATCH, 3).clamp(-1, 1)
    return ((pixels + 1) * 127.5).byte().numpy()


def pack(latents):
    """[n, h, w, 16] -> FLUX's packed tokens [n, (h/2)(w/2), 64], channel slowest inside a token."""
    count, rows, cols, channels = latents.shape
    tokens = latents.view(count, rows // 2, 2, cols // 2, 2, channels).permute(0, 1, 3, 5, 2, 4)
    return tokens.reshape(count, -1, channels * 4)


def unpack(tokens, rows, cols):
    """The reverse of pack; rows and cols count latents, not tokens."""
    latents = tokens.view(-1, rows // 2, cols // 2, CHANNELS, 2, 2).permute(0, 1, 4, 2, 5, 3)
    return latents.reshape(-1, rows, cols, CHANNELS)


class LinearLatents:
    """mean [192], encoder [192, 16], decoder [16, 192]."""

    def __init__(self, mean, encoder, decoder):
        self.mean, self.encoder, self.decoder = mean, encoder, decoder

    @classmethod
    def fit(cls, pictures):
        patches = to_patches(pictures).reshape(-1, PATCH * PATCH * 3)
        mean = patches.mean(0)
        centered = patches - mean
        values, vectors = torch.linalg.eigh(centered.T @ centered / len(centered))
        deviation, basis = values.flip(0)[:CHANNELS].sqrt(), vectors.flip(1)[:, :CHANNELS]
        scale = deviation ** -FLATTEN
        scale = scale / (deviation * scale).square().mean().sqrt()
        error = (centered @ basis @ basis.T - centered).square().mean()
        decibel = 10 * torch.log10(4 / error).item()
        print(f"latents: linear reconstruction {decibel:.2f} dB", flush=True)
        return cls(mean, basis * scale, (basis / scale).T.contiguous())

    @classmethod
    def load(cls, work):
        stored = torch.load(f"{work}/latents.pt")
        return cls(stored["mean"], stored["encoder"], stored["decoder"])

    def save(self, work):
        stored = dict(mean=self.mean, encoder=self.encoder, decoder=self.decoder)
        torch.save(stored, f"{work}/latents.pt")

    def encode(self, pictures):
        """uint8 [n, H, W, 3] -> [n, H/8, W/8, 16]."""
        return (to_patches(pictures) - self.mean) @ self.encoder

    def decode_tokens(self, tokens, height, width):
        """Packed tokens -> uint8 [n, height, width, 3]."""
        latents = unpack(tokens, height // PATCH, width // PATCH)
        return from_patches(latents @ self.decoder + self.mean)


def _training_part(latents, tokenizers, size, count, numbers, words):
    tokens, t5_ids, clip_ids = [], [], []
    for _ in range(0, count, CHUNK):
        scenes = sample_scenes(CHUNK, numbers)
        texts = [caption(scenes, index, words)[0]
                 for index in range(CHUNK) for _ in range(CAPTIONS_PER_PICTURE)]
        t5, clip = tokenize(tokenizers, texts)
        tokens.append(pack(latents.encode(render(scenes, *size))).half())
        t5_ids.append(t5.short().view(CHUNK, CAPTIONS_PER_PICTURE, -1))
        clip_ids.append(clip.short().view(CHUNK, CAPTIONS_PER_PICTURE, -1))
    return dict(tokens=torch.cat(tokens), t5=torch.cat(t5_ids), clip=torch.cat(clip_ids))


def build(work, seed):
    """Writes latents.pt (the map) and pictures.pt: size -> tokens, T5 ids and CLIP ids."""
    numbers, words = np.random.default_rng(seed + 5), random.Random(seed + 5)
    latents = LinearLatents.fit(render(sample_scenes(6000, numbers)))
    latents.save(work)
    tokenizers, parts, started = tokenizer_files.load(work), {}, time.time()
    for size, count in PICTURES.items():
        parts[size] = _training_part(latents, tokenizers, size, count, numbers, words)
        print(f"latents of {count} pictures {size}: {time.time() - started:.0f}s", flush=True)
    torch.save(parts, f"{work}/pictures.pt")
