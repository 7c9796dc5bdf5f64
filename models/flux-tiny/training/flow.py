"""Flow matching: trains the transformer's velocity on the fixed latents, with resumable state.

Loss: mean squared error of v = noise - latents at x = latents + sigma * noise_part, sigma logit-
normal and shifted as FLUX shifts it. One caption in ten is emptied, for the guidance that is
distilled later. Every step costs about the same number of tokens, so the mixes below are shares
of the time.
"""
import copy
import os
import random
import time

import torch

import transformer
from conditioning import Conditioner, TextLength
from latents import LinearLatents
from muon import Muon
from sampler import evaluate, predict, shifted

BATCH_TOKENS = 256 * 32
EMPTY_SHARE = 0.1
GUIDANCE_RANGE = (1.0, 6.0)
CHECKPOINT_EVERY_S = 180
EVALUATE_EVERY_S = 900
LOG_EVERY_STEPS = 50
COMPILED_TEXT_TOKENS_MAX = 16    # longer ones are too rare to pay for a compilation

# (from this share of the time on, {choice: share of the steps})
SIZE_MIX = [
    (0.00, {(64, 64): 1.0}),
    (0.08, {(64, 64): 0.66, (96, 96): 0.14, (96, 64): 0.10, (64, 96): 0.10}),
    (0.25, {(64, 64): 0.36, (96, 96): 0.32, (96, 64): 0.14, (64, 96): 0.12, (128, 128): 0.06}),
]
TEXT_MIX = [
    (0.00, {TextLength(16): 1.0}),
    (0.06, {TextLength(16): 0.56, TextLength(64, True): 0.16, TextLength(128, True): 0.22,
            TextLength(512, True): 0.06}),
    (0.60, {TextLength(16): 0.36, TextLength(64, True): 0.20, TextLength(128, True): 0.28,
            TextLength(512, True): 0.10, TextLength(128): 0.04, TextLength(512): 0.02}),
]


def mix_at(mixes, progress):
    return [mix for start, mix in mixes if progress >= start][-1]


def choose(mix, rng):
    return rng.choices(list(mix), list(mix.values()))[0]


def save_atomically(value, path):
    torch.save(value, path + ".partial")
    os.replace(path + ".partial", path)


class Trainer:
    """One transformer, its average, its optimizers and the clock: what a kill must not lose."""

    def __init__(self, name, work, seed, duration_s, adam_rate, muon_rate, average_decay, hold):
        self.name, self.work, self.duration_s, self.hold = name, work, duration_s, hold
        self.adam_rate, self.average_decay = adam_rate, average_decay
        torch.manual_seed(seed)
        self.choices = random.Random(seed)
        self.conditioner, self.linear = Conditioner(work), LinearLatents.load(work)
        self.pictures = torch.load(f"{work}/pictures.pt")
        self.model = transformer.new_transformer()
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        matrices, rest = [], []
        for parameter_name, parameter in self.model.named_parameters():
            is_matrix = parameter.ndim == 2 and "blocks" in parameter_name
            (matrices if is_matrix else rest).append(parameter)
        self.rest, self.muon = rest, Muon(matrices, muon_rate)
        self.adam = torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0,
                                      fused=True)
        self.rotary, self.steps, self.samples, self.elapsed_s, self.mean_loss = {}, 0, 0, 0.0, None

    @property
    def progress(self):
        return self.elapsed_s / self.duration_s

    def start_from(self, weights):
        self.model.load_state_dict(weights)
        self.average.load_state_dict(weights)

    def state_path(self):
        return f"{self.work}/{self.name}.state.pt"

    def save_state(self):
        save_atomically(dict(
            model=self.model.state_dict(), average=self.average.state_dict(),
            adam=self.adam.state_dict(), muon=self.muon.state_dict(), steps=self.steps,
            samples=self.samples, elapsed_s=self.elapsed_s, mean_loss=self.mean_loss,
            random=torch.get_rng_state(), choices=self.choices.getstate()), self.state_path())

    def resume(self):
        """Continues a killed run; True if there was one."""
        if not os.path.exists(self.state_path()):
            return False
        state = torch.load(self.state_path(), weights_only=False)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.adam.load_state_dict(state["adam"])
        self.muon.load_state_dict(state["muon"])
        self.steps, self.samples = state["steps"], state["samples"]
        self.elapsed_s, self.mean_loss = state["elapsed_s"], state["mean_loss"]
        torch.set_rng_state(state["random"])
        self.choices.setstate(state["choices"])
        print(f"{self.name}: resumed at step {self.steps}, {self.elapsed_s:.0f}s", flush=True)
        return True

    def rotary_for(self, size, length):
        key = (size, length.tokens)
        if key not in self.rotary:
            self.rotary[key] = transformer.rotary_table(length.tokens, size[0] // 16, size[1] // 16)
        return self.rotary[key]

    def draw_batch(self, size, length):
        """Latents [n, tokens, 64], T5 ids and CLIP ids of random pictures of one size."""
        part = self.pictures[size]
        image_tokens = part["tokens"].shape[1]
        count = max(8, BATCH_TOKENS // (image_tokens + length.tokens) // 8 * 8)
        picked = torch.randint(0, len(part["tokens"]), (count,))
        worded = torch.randint(0, part["t5"].shape[1], (count,))
        return (part["tokens"][picked].float(), part["t5"][picked, worded].long(),
                part["clip"][picked, worded].long())

    def loss(self, size, length, target_of):
        """(mean squared error, samples) of one batch; target_of names the velocity to learn:

        target_of(noisy, conditioning, sigma, guidance, velocity, length, rotary, compiled)
        """
        latents, t5_ids, clip_ids = self.draw_batch(size, length)
        count, image_tokens, _ = latents.shape
        emptied = torch.rand(count) < EMPTY_SHARE
        t5_ids[emptied], clip_ids[emptied] = self.conditioner.empty_t5, self.conditioner.empty_clip
        sigma = shifted(torch.sigmoid(torch.randn(count)), image_tokens)
        noise = torch.randn_like(latents)
        noisy = latents + sigma[:, None, None] * (noise - latents)
        low, high = GUIDANCE_RANGE
        guidance = low + (high - low) * torch.rand(count)
        rotary = self.rotary_for(size, length)
        compiled = length.tokens <= COMPILED_TEXT_TOKENS_MAX
        conditioning = self.conditioner(t5_ids, clip_ids, length)
        target = target_of(noisy, conditioning, sigma, guidance, noise - latents, length, rotary,
                           compiled)
        velocity = predict(self.model, noisy, conditioning, sigma, guidance, rotary, compiled)
        return (velocity - target).square().mean(), count

    def rate_factor(self):
        """Warm-up, constant, then linear to almost zero."""
        falling = 1 - (self.progress - self.hold) / (1 - self.hold)
        return min(1, (self.steps + 1) / 150) * min(1, max(0.02, falling))

    def step(self, size, length, target_of):
        loss, count = self.loss(size, length, target_of)
        for parameter in self.model.parameters():
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.rest, 1.0)
        factor = self.rate_factor()
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * factor
        self.adam.step()
        self.muon.step(factor)
        self.steps, self.samples = self.steps + 1, self.samples + count
        kept = min(self.average_decay, self.steps / (self.steps + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()),
                                 1 - kept)
        value = loss.item()
        self.mean_loss = value if self.mean_loss is None else 0.98 * self.mean_loss + 0.02 * value

    def report(self, true_cfg=1):
        for size, padded in (((64, 64), 64), ((64, 64), 128), ((96, 96), 64), ((96, 64), 64),
                             ((128, 128), 64)):
            result = evaluate(self.average, self.conditioner, self.linear, size, padded,
                              true_cfg=true_cfg)
            print(f"  {size} T5 {padded} cfg {true_cfg}: {result}", flush=True)

    def run(self, sizes, texts, target_of):
        """Trains until the time is used up, then writes <name>.pt: the averaged weights."""
        next_state = self.elapsed_s + CHECKPOINT_EVERY_S
        next_report = self.elapsed_s + EVALUATE_EVERY_S
        while self.progress < 1:
            began = time.time()
            size = choose(mix_at(sizes, self.progress), self.choices)
            length = choose(mix_at(texts, self.progress), self.choices)
            self.step(size, length, target_of)
            spent = time.time() - began
            self.elapsed_s += spent
            if spent > 10:
                print(f"  {size} {length} took {spent:.0f}s (compiled)", flush=True)
            if self.steps % LOG_EVERY_STEPS == 0:
                print(f"{self.name} step {self.steps} {self.elapsed_s:.0f}s samples {self.samples} "
                      f"loss {self.mean_loss:.4f}", flush=True)
            if self.elapsed_s > next_state:
                self.save_state()
                next_state = self.elapsed_s + CHECKPOINT_EVERY_S
            if self.elapsed_s > next_report:
                self.report()
                next_report = self.elapsed_s + EVALUATE_EVERY_S
        self.save_state()
        save_atomically(dict(weights=self.average.state_dict(), steps=self.steps,
                             samples=self.samples, elapsed_s=self.elapsed_s),
                        f"{self.work}/{self.name}.pt")
        self.report()


def plain_velocity(noisy, conditioning, sigma, guidance, velocity, length, rotary, compiled):
    """Flow matching's own target: the guidance input is random here and teaches nothing."""
    return velocity


def train(work, duration_s, seed):
    trainer = Trainer("flow", work, seed + 1, duration_s, adam_rate=2e-3, muon_rate=0.02,
                      average_decay=0.998, hold=0.45)
    trainer.resume()
    trainer.run(SIZE_MIX, TEXT_MIX, plain_velocity)
