"""The transformer: diffusers' own FluxTransformer2DModel, with a lean forward for training.

The parameters and the result are diffusers' (`check` compares them); only the path is shorter:
fused q, k, v projections, spelled-out attention (faster than the fused kernel at these lengths)
and one compiled function per kind of block, which all blocks of a kind and all steps share.
"""
import math

import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel

HEADS, HEAD_WIDTH = 4, 32
ROPE_AXES = (8, 12, 12)


def new_transformer():
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=4,
        attention_head_dim=HEAD_WIDTH, num_attention_heads=HEADS, joint_attention_dim=64,
        pooled_projection_dim=64, guidance_embeds=True, axes_dims_rope=ROPE_AXES)
    # Gates and output start at zero, so that every block starts as the identity.
    for name, parameter in model.named_parameters():
        if ("norm" in name and "linear" in name) or name.startswith("proj_out"):
            torch.nn.init.zeros_(parameter)
    return model


def position_ids(text_length, rows, cols):
    """[text_length + rows * cols, 3]: zeros for text, (0, row, col) for image tokens."""
    ids = torch.zeros(text_length + rows * cols, 3)
    ids[text_length:, 1] = torch.arange(rows).repeat_interleave(cols)
    ids[text_length:, 2] = torch.arange(cols).repeat(rows)
    return ids


def rotary_table(text_length, rows, cols):
    """(cos, sin), each [tokens, 1, HEAD_WIDTH / 2]."""
    ids = position_ids(text_length, rows, cols).double()
    angles = torch.cat([
        ids[:, axis, None] / 10000 ** (torch.arange(0, width, 2).double() / width)
        for axis, width in enumerate(ROPE_AXES)], 1)
    return angles.cos().float()[:, None], angles.sin().float()[:, None]


def _sinusoid(times):
    """[n] -> [n, 256], cosines first, as diffusers' Timesteps with flip_sin_to_cos."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(128).float() / 128)
    angles = times[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def _two_layers(embedder, value):
    return embedder.linear_2(F.silu(embedder.linear_1(value)))


def _layer_norm(x):
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)


def _rms_norm(x, weight):
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


def _project(q, k, v, norm_q, norm_k, x):
    """x [n, tokens, width] -> q, k, v, each [n, tokens, heads, HEAD_WIDTH]."""
    weight = torch.cat([q.weight, k.weight, v.weight])
    bias = torch.cat([q.bias, k.bias, v.bias])
    heads = F.linear(x, weight, bias).view(*x.shape[:2], 3, HEADS, HEAD_WIDTH)
    q, k, v = heads.unbind(2)
    return _rms_norm(q, norm_q.weight), _rms_norm(k, norm_k.weight), v


def _rotate(x, cos, sin):
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def _attend(q, k, v, cos, sin, key_bias):
    """key_bias [n, 1, 1, tokens] is added to the logits of each key."""
    q, k = (_rotate(x, cos, sin).to(v.dtype).transpose(1, 2) for x in (q, k))
    logits = (q @ k.transpose(-1, -2)).float() * HEAD_WIDTH ** -0.5 + key_bias
    mixed = logits.softmax(-1).to(v.dtype) @ v.transpose(1, 2)
    return mixed.transpose(1, 2).flatten(2)


def double_block(block, image, text, condition, cos, sin, key_bias):
    attn, length = block.attn, text.shape[1]
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = \
        block.norm1.linear(condition)[:, None].float().chunk(6, -1)
    text_shift, text_scale, text_gate, text_mlp_shift, text_mlp_scale, text_mlp_gate = \
        block.norm1_context.linear(condition)[:, None].float().chunk(6, -1)
    image_qkv = _project(attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k,
                         _layer_norm(image) * (1 + scale) + shift)
    text_qkv = _project(attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q,
                        attn.norm_added_k, _layer_norm(text) * (1 + text_scale) + text_shift)
    joined = [torch.cat(pair, 1) for pair in zip(text_qkv, image_qkv)]
    mixed = _attend(*joined, cos, sin, key_bias)
    image = image + gate * attn.to_out[0](mixed[:, length:])
    text = text + text_gate * attn.to_add_out(mixed[:, :length])
    image = image + mlp_gate * _feed_forward(
        block.ff, _layer_norm(image) * (1 + mlp_scale) + mlp_shift)
    text = text + text_mlp_gate * _feed_forward(
        block.ff_context, _layer_norm(text) * (1 + text_mlp_scale) + text_mlp_shift)
    return image, text


def _feed_forward(layers, x):
    return layers.net[2](F.gelu(layers.net[0].proj(x), approximate="tanh"))


def single_block(block, tokens, condition, cos, sin, key_bias):
    attn = block.attn
    shift, scale, gate = block.norm.linear(condition)[:, None].float().chunk(3, -1)
    normed = _layer_norm(tokens) * (1 + scale) + shift
    qkv = _project(attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k, normed)
    mixed = _attend(*qkv, cos, sin, key_bias)
    hidden = F.gelu(block.proj_mlp(normed), approximate="tanh")
    return tokens + gate * block.proj_out(torch.cat([mixed, hidden], -1))


# One graph per block kind and static shape: weights are graph inputs, so equal blocks share it.
torch._dynamo.config.recompile_limit = 64
_compiled_double = torch.compile(double_block, dynamic=False)
_compiled_single = torch.compile(single_block, dynamic=False)


def forward(model, latents, text, pooled, sigma, guidance, rotary, key_bias, compiled=False):
    """Velocity [n, image tokens, 64].

    latents [n, image tokens, 64]; text [n, text tokens, 64]; pooled [n, 64]; sigma [n] in 0..1;
    guidance [n]; rotary from rotary_table; key_bias [n, 1, 1, text + image tokens].
    """
    double, single = (double_block, single_block)
    if compiled:
        double, single = _compiled_double, _compiled_single
    embed, (cos, sin) = model.time_text_embed, rotary
    condition = F.silu(_two_layers(embed.timestep_embedder, _sinusoid(sigma * 1000))
                       + _two_layers(embed.guidance_embedder, _sinusoid(guidance * 1000))
                       + _two_layers(embed.text_embedder, pooled))
    image, text = model.x_embedder(latents).float(), model.context_embedder(text).float()
    length = text.shape[1]
    for block in model.transformer_blocks:
        image, text = double(block, image, text, condition, cos, sin, key_bias)
    tokens = torch.cat([text, image], 1)
    for block in model.single_transformer_blocks:
        tokens = single(block, tokens, condition, cos, sin, key_bias)
    scale, shift = model.norm_out.linear(condition)[:, None].float().chunk(2, -1)
    return model.proj_out(_layer_norm(tokens[:, length:]) * (1 + scale) + shift).float()


def check():
    """Largest difference of the lean forward to diffusers' own, with random weights."""
    torch.manual_seed(0)
    model = new_transformer()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.05)
    latents, text, pooled = torch.randn(4, 24, 64), torch.randn(4, 16, 64), torch.randn(4, 64)
    sigma, guidance, ids = torch.rand(4), 1 + 4 * torch.rand(4), position_ids(16, 4, 6)
    with torch.no_grad():
        ours = forward(model, latents, text, pooled, sigma, guidance, rotary_table(16, 4, 6),
                       torch.zeros(4, 1, 1, 40))
        theirs = model(latents, text, pooled, sigma, ids[16:], ids[:16], guidance=guidance).sample
    return (ours - theirs).abs().max().item()


if __name__ == "__main__":
    difference = check()
    print(f"largest difference to diffusers: {difference:.1e}")
    if difference > 1e-4:
        raise SystemExit("the lean forward does not compute what diffusers computes")
