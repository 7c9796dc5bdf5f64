"""The card's scores: loads the finished folder with FluxPipeline, draws held-out captions,
measures them.

    python score_pipeline.py ../            writes ../scores.json and ../samples.png

One try per caption, no picking. The gate: all five attributes right in at least 97% at 64x64 and
90% at 96x96 and 96x64, with 20 steps, guidance 3.5 and the model's default T5 length.
"""
import json
import os
import sys
import time

import numpy as np
import torch
from diffusers import FluxPipeline

import contact_sheet
from sampler import captioned_scenes
from score import judge, report
from world import BACKGROUNDS, COLORS, SHAPES, Scenes

HERE = os.path.dirname(os.path.abspath(__file__))
BATCH_TOKENS = 8192
GATE = {"64x64": 0.97, "96x96": 0.90, "96x64": 0.90}
NEGATIVE_COUNT = 100


class Artist:
    """FluxPipeline with one seed per picture, so that a picture does not depend on its batch."""

    def __init__(self, folder):
        self.pipeline = FluxPipeline.from_pretrained(folder)
        self.pipeline.set_progress_bar_config(disable=True)
        self.text_length = self.pipeline.tokenizer_2.model_max_length

    def draw(self, prompts, size=(64, 64), steps=20, guidance=3.5, text_length=None, seed=0,
             true_cfg=1.0, negatives=None):
        """size is (height, width) -> uint8 [n, height, width, 3]."""
        text_length = text_length or self.text_length
        rows = max(4, BATCH_TOKENS // (text_length + size[0] * size[1] // 256))
        pictures = []
        for start in range(0, len(prompts), rows):
            part = prompts[start:start + rows]
            options = {}
            if negatives is not None:
                options["negative_prompt"] = negatives[start:start + rows]
            generators = [torch.Generator().manual_seed(seed + start + index)
                          for index in range(len(part))]
            pictures.append(self.pipeline(
                part, height=size[0], width=size[1], num_inference_steps=steps,
                guidance_scale=guidance, max_sequence_length=text_length, output_type="np",
                true_cfg_scale=true_cfg, generator=generators, **options).images)
        return (np.concatenate(pictures) * 255 + 0.5).astype(np.uint8)


def score_settings(artist, count):
    """(name, how many captions, arguments of draw); sizes are named height x width."""
    half = count // 2
    return [
        ("64x64", count, {}),
        ("96x96", count, dict(size=(96, 96))),
        ("96x64", count, dict(size=(96, 64))),
        ("64x96", count, dict(size=(64, 96))),
        ("128x128", count, dict(size=(128, 128))),
        ("64x64, T5 length 16", half, dict(text_length=16)),
        ("64x64, T5 length 64", half, dict(text_length=64)),
        ("64x64, T5 length 512", half, dict(text_length=512)),
        ("64x64, guidance 1", half, dict(guidance=1.0)),
        ("64x64, guidance 5", half, dict(guidance=5.0)),
        ("64x64, 8 steps", half, dict(steps=8)),
        ("64x64, 4 steps", half, dict(steps=4)),
        ("64x64, guidance 1, true CFG 3, empty negative", half,
         dict(guidance=1.0, true_cfg=3.0, negatives=[""] * half)),
    ]


def guidance_strength(artist, count=30):
    """Mean change of a pixel (0..255) against the same seed at guidance 1: grows with guidance."""
    _, prompts = captioned_scenes(count)
    plain = artist.draw(prompts, guidance=1.0).astype(float)

    def change(guidance):
        return float(np.abs(artist.draw(prompts, guidance=guidance) - plain).mean())

    return {f"guidance {guidance}": round(change(guidance), 2) for guidance in (2.0, 3.5, 5.0)}


def negative_prompt_effect(artist, true_cfg=3.0):
    """Share of white backgrounds when none is asked for, with and without a negative prompt."""
    names = [(COLORS[i % 6], SHAPES[i % len(SHAPES)]) for i in range(NEGATIVE_COUNT)]
    prompts = [f"a large {color} {shape} in the center" for color, shape in names]
    negatives = [f"{prompt} on a white background" for prompt in prompts]
    zeros = np.zeros(NEGATIVE_COUNT, int)
    white = Scenes(
        np.array([SHAPES.index(shape) for _, shape in names]),
        np.array([COLORS.index(color) for color, _ in names]),
        zeros + BACKGROUNDS.index("white"), zeros + 1, zeros + 4, zeros, zeros, zeros)

    def white_share(**options):
        pictures = artist.draw(prompts, guidance=1.0, seed=500, **options)
        verdicts = [judge(picture, white, index) for index, picture in enumerate(pictures)]
        shown = [v["color"] and v["shape"] for v in verdicts]
        return dict(white=round(float(np.mean([v["background"] for v in verdicts])), 3),
                    color_and_shape=round(float(np.mean(shown)), 3))

    return {"without negative prompt": white_share(),
            "empty negative prompt, true CFG 3": white_share(
                true_cfg=true_cfg, negatives=[""] * NEGATIVE_COUNT),
            "negative prompt names white, true CFG 3": white_share(
                true_cfg=true_cfg, negatives=negatives)}


def write_report(folder, count=200):
    """Writes <folder>/scores.json and <folder>/samples.png."""
    artist, scores = Artist(folder), {}
    for name, number, options in score_settings(artist, count):
        started = time.time()
        scenes, prompts = captioned_scenes(number)
        result = report(artist.draw(prompts, **options), scenes)
        scores[name] = dict(captions=number, **result)
        print(f"{name}: {scores[name]} {time.time() - started:.0f}s", flush=True)
    strength, negative = guidance_strength(artist), negative_prompt_effect(artist)
    print(f"guidance: {strength}\nnegative prompts: {negative}", flush=True)
    everything = dict(default_text_length=artist.text_length, scores=scores,
                      guidance_pixel_change=strength, negative_prompts=negative,
                      negative_prompt_captions=NEGATIVE_COUNT)
    with open(os.path.join(folder, "scores.json"), "w", encoding="utf-8") as file:
        json.dump(everything, file, indent=1)
        file.write("\n")
    contact_sheet.draw(artist, os.path.join(folder, "samples.png"))
    for name, least in GATE.items():
        verdict = "reached" if scores[name]["all"] >= least else "MISSED"
        print(f"gate {name}: {scores[name]['all']} of {least}: {verdict}", flush=True)


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(HERE)
    torch.set_num_threads(2)
    write_report(folder, count=int(sys.argv[2]) if len(sys.argv) > 2 else 200)
