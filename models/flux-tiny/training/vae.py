"""Trains an AutoencoderKL against the fixed linear latents: first the decoder, then the encoder.

The decoder learns to draw from the linear latents with noise on them (the transformer's are never
exact), the encoder to produce them. One thread is enough. It runs beside the transformer's
training on what time that leaves, so its budget counts CPU time.
"""
import copy
import math
import os
import time

import numpy as np
import torch
from diffusers import AutoencoderKL

from flow import save_atomically
from latents import CHANNELS, LinearLatents
from muon import Muon
from world import render, sample_scenes

SCALING, SHIFT = 0.5, 0.1   # latents of the folder = linear latents / SCALING + SHIFT
BATCH = 16
POOL_PICTURES = 12_000
ADAM_RATE, MUON_RATE = 2e-3, 0.01
LATENT_NOISE_MAX = 0.2
LOG_VARIANCE = -8.0
CHECKPOINT_EVERY_S = 120


def new_vae():
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=CHANNELS,
        block_out_channels=(16, 24, 32, 48), layers_per_block=1, norm_num_groups=4,
        sample_size=64, use_quant_conv=False, use_post_quant_conv=False,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, scaling_factor=SCALING, shift_factor=SHIFT,
        force_upcast=False)


def _channels_first(x):
    return x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _differences(error):
    """Mean error of neighbouring pixels' differences: keeps edges sharp."""
    return (error[..., 1:] - error[..., :-1]).abs().mean() + \
        (error[..., 1:, :] - error[..., :-1, :]).abs().mean()


class Part:
    """One half of the autoencoder in training."""

    def __init__(self, name, work, seed):
        torch.manual_seed(seed)
        self.name, self.work, self.linear = name, work, LinearLatents.load(work)
        self.vae = load(work) if os.path.exists(f"{work}/vae.pt") else new_vae()
        self.net = getattr(self.vae, name).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.net)
        matrices = [p for n, p in self.net.named_parameters()
                    if p.ndim >= 2 and "conv_in" not in n and "conv_out" not in n]
        chosen = set(map(id, matrices))
        rest = [p for p in self.net.parameters() if id(p) not in chosen]
        self.muon = Muon(matrices, MUON_RATE, decay=0.0)
        self.adam = torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0,
                                      fused=True)
        numbers = np.random.default_rng(seed + 31)
        self.pool = render(sample_scenes(POOL_PICTURES, numbers))
        self.checked = render(sample_scenes(64, numbers, held_out=True))
        self.steps, self.cpu_s = 0, 0.0

    def encoded(self, pictures):
        """(pictures [n, 3, H, W] in -1..1, linear latents [n, 16, h, w])."""
        pixels = torch.from_numpy(pictures).float() / 127.5 - 1
        return _channels_first(pixels), _channels_first(self.linear.encode(pictures))

    def loss(self, pictures):
        pixels, latents = self.encoded(pictures)
        with torch.autocast("cpu", torch.bfloat16):
            if self.name == "decoder":
                strength = LATENT_NOISE_MAX * torch.rand(len(latents), 1, 1, 1)
                noisy = latents + strength * torch.randn_like(latents)
                error = self.net(noisy / SCALING + SHIFT).float() - pixels
                return error.abs().mean() + 2 * error.square().mean() + 0.5 * _differences(error)
            moments = self.net(pixels).float()
        mean, log_variance = moments.chunk(2, 1)
        error = (mean - SHIFT) * SCALING - latents
        spread = (log_variance - LOG_VARIANCE).square().mean()
        return error.abs().mean() + error.square().mean() + 0.1 * spread

    @torch.no_grad()
    def quality_db(self):
        """Held-out pictures: PSNR of the decoder, signal to noise of the encoder's latents."""
        pixels, latents = self.encoded(self.checked)
        if self.name == "decoder":
            error = (self.average(latents / SCALING + SHIFT).clamp(-1, 1) - pixels).square().mean()
            return 10 * math.log10(4 / error.item())
        means = (self.average(pixels).chunk(2, 1)[0] - SHIFT) * SCALING
        return 10 * math.log10((latents.var() / (means - latents).square().mean()).item())

    def step(self, progress):
        factor = min(1, (self.steps + 1) / 50) * min(1, max(0.01, 1 - (progress - 0.3) / 0.7))
        for group in self.adam.param_groups:
            group["lr"] = ADAM_RATE * factor
        loss = self.loss(self.pool[torch.randint(0, len(self.pool), (BATCH,)).numpy()])
        self.net.zero_grad()
        loss.backward()
        self.adam.step()
        self.muon.step(factor)
        self.steps += 1
        kept = min(0.995, self.steps / (self.steps + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.net.parameters()),
                                 1 - kept)
        return loss.item()

    def state_path(self):
        return f"{self.work}/vae_{self.name}.state.pt"

    def save(self):
        """The whole autoencoder for a preview, and this half's state to resume from."""
        whole = copy.deepcopy(self.vae)
        getattr(whole, self.name).load_state_dict(self.average.state_dict())
        save_atomically(whole.state_dict(), f"{self.work}/vae.pt")
        save_atomically(dict(net=self.net.state_dict(), average=self.average.state_dict(),
                             adam=self.adam.state_dict(), muon=self.muon.state_dict(),
                             steps=self.steps, cpu_s=self.cpu_s), self.state_path())

    def resume(self):
        if not os.path.exists(self.state_path()):
            return
        state = torch.load(self.state_path(), weights_only=False)
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.adam.load_state_dict(state["adam"])
        self.muon.load_state_dict(state["muon"])
        self.steps, self.cpu_s = state["steps"], state["cpu_s"]


def load(work):
    vae = new_vae()
    vae.load_state_dict(torch.load(f"{work}/vae.pt"))
    return vae


def train(work, name, duration_s, seed):
    """Trains "decoder" or "encoder" for duration_s of CPU time in all; a finished half is kept."""
    part = Part(name, work, seed)
    part.resume()
    next_save = part.cpu_s + CHECKPOINT_EVERY_S
    while part.cpu_s < duration_s:
        began = time.process_time()
        loss = part.step(part.cpu_s / duration_s)
        part.cpu_s += time.process_time() - began
        if part.steps % 200 == 0:
            print(f"vae {name} step {part.steps} {part.cpu_s:.0f}s loss {loss:.4f} "
                  f"{part.quality_db():.2f} dB", flush=True)
        if part.cpu_s > next_save:
            part.save()
            next_save = part.cpu_s + CHECKPOINT_EVERY_S
    part.save()
    print(f"vae {name} finished: {part.quality_db():.2f} dB", flush=True)
