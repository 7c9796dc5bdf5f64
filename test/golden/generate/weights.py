"""Random weights whose outputs depend visibly on every input.

A network initialised the usual way (std 0.02) hardly listens to the prompt, the timestep or the
positions, and a wrong implementation would still match it. So: linear layers keep the variance of
what enters them (std = gain / sqrt(fan in)), norms lie around 1 +- 0.2, biases are not zero, and
attention logits get a standard deviation of 1 to 2.
"""

import math
import re

import torch

# First match wins. "fan": gain / sqrt(fan in); "norm": 1 + spread; "sharp": 1.5 + spread;
# "plain": standard deviation.
COMMON = [
    (r"norm.*\.linear\.weight$", "fan", 0.6),  # modulation: shift, scale and gate of order 0.5
    (r"norm.*\.linear\.bias$", "plain", 0.35),
    (r"(time_text_embed|timestep_embedder).*linear_1\.weight$", "fan", 1.6),
    (r"time_text_embed.*linear_2\.weight$", "fan", 1.6),
    (r"attn\.(to_v|add_v_proj)\.weight$", "fan", 2.5),  # attention averages: keep what it reads
    (r"attn\.(to_out\.0|to_add_out)\.weight$", "fan", 1.8),
    (r"attn\.norm_(added_)?[qk]\.weight$", "sharp", 0.2),
    (r"(ff|ff_context)\.net\.0\.proj\.weight$|proj_mlp\.weight$", "fan", 2.0),
    (r"(ff|ff_context)\.net\.2\.weight$|single.*proj_out\.weight$", "fan", 3.0),
    (r"relative_attention_bias\.weight$", "plain", 1.0),
    (r"(shared|embed_tokens)\.weight$", "plain", 1.0),
    (r"token_embedding\.weight$", "plain", 0.6),
    (r"position_embedding\.weight$", "plain", 0.4),
    (r"SelfAttention\.(q|k)\.weight$", "fan", 0.6),  # T5 does not divide its logits by sqrt(d_kv)
    (r"self_attn\.(q|k)_proj\.weight$", "fan", 1.4),
    (r"conv_out\.weight$", "fan", 0.55),  # pictures mostly inside -1..1
    (r"(norm|layer_norm|group_norm|layrnorm)[^.]*\.weight$", "norm", 0.2),
    (r"\.bias$", "plain", 0.15),
    (r"\.weight$", "fan", 1.15),
]


def fill(module: torch.nn.Module, seed: int, gains: dict[str, float]) -> None:
    """Draws every parameter of `module`, in the order of its names, from one generator."""
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(_scaled(name, draw, gains))


def _scaled(name: str, draw: torch.Tensor, gains: dict[str, float]) -> torch.Tensor:
    fan_in = math.prod(draw.shape[1:]) if draw.dim() > 1 else 1
    for pattern, gain in gains.items():
        if re.search(pattern, name):
            return draw * gain / math.sqrt(fan_in)
    for pattern, kind, size in COMMON:
        if not re.search(pattern, name):
            continue
        if kind in ("norm", "sharp"):
            return (1.5 if kind == "sharp" else 1) + size * draw
        return draw * (size / math.sqrt(fan_in) if kind == "fan" else size)
    raise ValueError(f"no rule says how to draw {name}")
