"""Writes the diffusers folder from what the stages left in the work folder."""
import os
import shutil

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

import text_encoders
import tokenizer_files
import transformer
import vae

COMPONENTS = ("transformer", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae",
              "scheduler")
FOLDER_BYTES_MAX = 20_000_000


def new_scheduler():
    """FLUX.1-dev's schedule."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15,
        base_image_seq_len=256, max_image_seq_len=4096)


def averaged_weights(work, checkpoint):
    """The weights of a finished stage (flow.pt, distill.pt) or of one in training (*.state.pt)."""
    stored = torch.load(f"{work}/{checkpoint}", weights_only=False)
    return stored["weights"] if "weights" in stored else stored["average"]


def write_folder(work, out, checkpoint):
    model = transformer.new_transformer()
    model.load_state_dict(averaged_weights(work, checkpoint))
    clip_tokenizer, t5_tokenizer = tokenizer_files.load(work)
    clip, t5 = text_encoders.load_encoders(work)
    pipeline = FluxPipeline(new_scheduler(), vae.load(work), clip, clip_tokenizer, t5, t5_tokenizer,
                            model)
    for name in COMPONENTS:
        shutil.rmtree(os.path.join(out, name), ignore_errors=True)
    pipeline.save_pretrained(out)
    # transformers writes CLIP as tokenizer.json only; FLUX.1 ships vocab.json and merges.txt.
    for name in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(os.path.join(out, name))
        shutil.copytree(os.path.join(work, name), os.path.join(out, name))
    size = sum(os.path.getsize(os.path.join(folder, file)) for name in COMPONENTS
               for folder, _, files in os.walk(os.path.join(out, name)) for file in files)
    print(f"{out}: {size / 1e6:.2f} MB", flush=True)
    assert size <= FOLDER_BYTES_MAX, f"the folder has {size} bytes, at most {FOLDER_BYTES_MAX}"
