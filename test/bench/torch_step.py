"""One denoising step by diffusers and torch per line on stdin, answered by its wall and CPU seconds.

    python torch_step.py MODEL SIDE TEXT_LENGTH
"""

import json
import sys
import time

import torch
from diffusers import FluxTransformer2DModel

folder, side, text_length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
model = FluxTransformer2DModel.from_pretrained(f"{folder}/transformer").eval()
tokens = (side // 16) ** 2
positions = torch.zeros(tokens, 3)
positions[:, 1] = torch.arange(side // 16).repeat_interleave(side // 16)
positions[:, 2] = torch.arange(side // 16).repeat(side // 16)
inputs = dict(
    hidden_states=torch.randn(1, tokens, model.config.in_channels),
    encoder_hidden_states=torch.randn(1, text_length, model.config.joint_attention_dim),
    pooled_projections=torch.randn(1, model.config.pooled_projection_dim),
    timestep=torch.tensor([0.5]),
    guidance=torch.tensor([3.5]),
    img_ids=positions,
    txt_ids=torch.zeros(text_length, 3),
)
with torch.inference_mode():
    for line in sys.stdin:
        if not line.strip():
            break
        cpu, wall = time.process_time(), time.perf_counter()
        model(**inputs)
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"seconds": seconds, "cpuSeconds": cpu_seconds}), flush=True)
