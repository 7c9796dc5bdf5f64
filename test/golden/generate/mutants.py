"""The mistakes that implementers of FLUX make, each as a change of the right network or its inputs.

A mutant takes (module, inputs) and gives the pair to run instead, or None where the checkpoint has
nothing that could be got wrong this way.
"""

import copy

import torch
from diffusers.models.activations import GELU
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import Timesteps
from diffusers.models.normalization import (
    AdaLayerNormContinuous,
    AdaLayerNormZero,
    AdaLayerNormZeroSingle,
)
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from transformers.activations import QuickGELUActivation
from transformers.models.t5.modeling_t5 import T5Attention


def _changed(kind, change):
    """A mutant that applies `change` to every submodule of `kind` of a copy."""

    def mutate(module, inputs):
        module = copy.deepcopy(module)
        found = [part for part in module.modules() if isinstance(part, kind)]
        for part in found:
            change(part)
        return (module, inputs) if found else None

    return mutate


def _inputs(change):
    def mutate(module, inputs):
        changed = change(inputs)
        return None if changed is None else (module, inputs | changed)

    return mutate


# --- transformer -------------------------------------------------------------------------------


def _swap_halves(part) -> None:
    """Modulation read as (scale, shift) instead of (shift, scale), or the other way round."""
    width = part.linear.out_features // (
        6
        if isinstance(part, AdaLayerNormZero)
        else 3
        if isinstance(part, AdaLayerNormZeroSingle)
        else 2
    )
    order = torch.arange(part.linear.out_features)
    order[: 2 * width] = torch.cat([order[width : 2 * width], order[:width]])
    part.linear.weight.data = part.linear.weight.data[order]
    part.linear.bias.data = part.linear.bias.data[order]


def _sine_first(part) -> None:
    part.flip_sin_to_cos = False


def _wider_epsilon(part) -> None:
    part.eps = 1e-5


def _no_rope(module, inputs):
    module = copy.deepcopy(module)
    module.pos_embed.forward = lambda ids: (
        torch.ones(len(ids), module.config.attention_head_dim),
        torch.zeros(len(ids), module.config.attention_head_dim),
    )
    return module, inputs


def _halved_rope(module, inputs):
    """Pairs (i, i + d/2) instead of neighbours: the same as permuting the head's dimensions."""
    module = copy.deepcopy(module)
    right = module.pos_embed.forward

    def wrong(ids):
        def halves(table):
            return torch.cat([table[:, ::2], table[:, 1::2]], dim=1)

        cos, sin = right(ids)
        return halves(cos), halves(sin)

    module.pos_embed.forward = wrong
    return module, inputs


def _mlp_before_attention(part) -> None:
    split = part.proj_out.in_features - part.mlp_hidden_dim
    weight = part.proj_out.weight.data
    part.proj_out.weight.data = torch.cat([weight[:, split:], weight[:, :split]], dim=1)


def _without_guidance(module, inputs):
    if "guidance" not in inputs:
        return None
    return module, inputs | dict(guidance=torch.zeros_like(inputs["guidance"]))


def _no_qk_norm(module, inputs):
    class Wrong(FluxAttnProcessor):
        def __call__(
            self,
            attn,
            hidden_states,
            encoder_hidden_states=None,
            attention_mask=None,
            image_rotary_emb=None,
        ):
            norms = [attn.norm_q, attn.norm_k]
            attn.norm_q = attn.norm_k = torch.nn.Identity()
            try:
                return super().__call__(
                    attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb
                )
            finally:
                attn.norm_q, attn.norm_k = norms

    module = copy.deepcopy(module)
    for block in [*module.transformer_blocks, *module.single_transformer_blocks]:
        block.attn.set_processor(Wrong())
    return module, inputs


def _in_single_blocks(change):
    def mutate(module, inputs):
        if len(module.single_transformer_blocks) == 0:
            return None
        module = copy.deepcopy(module)
        for block in module.single_transformer_blocks:
            change(block)
        return module, inputs

    return mutate


def _exact_gelu(module, inputs):
    module = copy.deepcopy(module)
    for part in module.modules():
        if isinstance(part, GELU):
            part.approximate = "none"
    for block in module.single_transformer_blocks:
        block.act_mlp = torch.nn.GELU()
    return module, inputs


def _scaled_timestep(factor: float):
    return _inputs(lambda inputs: dict(timestep=inputs["timestep"] * factor))


def _swapped_axes(inputs):
    return dict(img_ids=inputs["img_ids"][:, [0, 2, 1]])


TRANSFORMER = {
    "sine before cosine": _changed(Timesteps, _sine_first),
    "exact gelu": _exact_gelu,
    "guidance dropped": _without_guidance,
    "timestep not times 1000": _scaled_timestep(0.001),
    "timestep of the next step": _scaled_timestep(0.99),
    "scale and shift swapped, double": _changed(AdaLayerNormZero, _swap_halves),
    "scale and shift swapped, single": _changed(AdaLayerNormZeroSingle, _swap_halves),
    "scale and shift swapped, last norm": _changed(AdaLayerNormContinuous, _swap_halves),
    "no positions": _no_rope,
    "rows and columns swapped": _inputs(_swapped_axes),
    "pairs of positions half a head apart": _halved_rope,
    "q and k not normalised": _no_qk_norm,
    "single: mlp before attention": _in_single_blocks(_mlp_before_attention),
}
# Only where the checkpoint was made so that it shows: see geometry.py.
EPSILONS = {
    "q, k: epsilon 1e-5": _changed(torch.nn.RMSNorm, _wider_epsilon),
    "layer norm: epsilon 1e-5": _changed(torch.nn.LayerNorm, _wider_epsilon),
}


# --- text --------------------------------------------------------------------------------------


class _LastToken(torch.nn.Module):
    """Pools at the last of the 77 tokens, which is padding for short prompts."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, **named):
        out = self.model(ids, **named)
        out.pooler_output = out.last_hidden_state[:, -1]
        return out


class _Position(torch.nn.Module):
    def __init__(self, model, choose):
        super().__init__()
        self.model = model
        self.choose = choose

    def forward(self, ids, **named):
        out = self.model(ids, **named)
        out.pooler_output = out.last_hidden_state[torch.arange(len(ids)), self.choose(ids)]
        return out


def _pool_by_other_rule(module, inputs):
    if module.eos_token_id == 2:  # right: the highest id
        return _Position(module, lambda ids: (ids == 2).int().argmax(-1)), inputs
    if int(inputs["input_ids"].max()) == module.eos_token_id:
        return None  # eos is the highest id here: both rules agree
    return _Position(module, lambda ids: ids.int().argmax(-1)), inputs


def _both_ways(module, inputs):
    """Attention without the causal mask."""
    module = copy.deepcopy(module)
    module.encoder.forward = _unmasked(module.encoder.forward)
    for layer in module.encoder.layers:
        layer.self_attn.is_causal = False
        layer.self_attn.forward = _unmasked(layer.self_attn.forward)
    return module, inputs


def _unmasked(forward):
    def call(*arguments, **named):
        named["attention_mask"] = None
        if "is_causal" in named:
            named["is_causal"] = False
        return forward(*arguments, **named)

    return call


def _other_activation(module, inputs):
    module = copy.deepcopy(module)
    quick = module.config.hidden_act == "quick_gelu"
    for layer in module.encoder.layers:
        layer.mlp.activation_fn = torch.nn.GELU() if quick else QuickGELUActivation()
    return module, inputs


def _without_final_norm(module, inputs):
    module = copy.deepcopy(module)
    module.final_layer_norm = torch.nn.Identity()
    return module, inputs


CLIP = {
    "pooled at the last token": lambda module, inputs: (_LastToken(module), inputs),
    "pooled by the other rule": _pool_by_other_rule,
    "no causal mask": _both_ways,
    "other activation": _other_activation,
    "no final norm": _without_final_norm,
}


def _scaled_logits(part) -> None:
    part.scaling = part.key_value_proj_dim**-0.5


def _shorter_distance(part) -> None:
    part.relative_attention_max_distance += 7


def _one_direction(part) -> None:
    part.is_decoder = True


def _exact_t5_gelu(module, inputs):
    if module.config.dense_act_fn != "gelu_new":
        return None
    module = copy.deepcopy(module)
    for block in module.encoder.block:
        block.layer[1].DenseReluDense.act = torch.nn.GELU()
    return module, inputs


class _PaddingMasked(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, **named):
        return self.model(ids, attention_mask=(ids != 0).long(), **named)


def _without_t5_norm(module, inputs):
    module = copy.deepcopy(module)
    module.encoder.final_layer_norm = torch.nn.Identity()
    return module, inputs


T5 = {
    "logits divided by sqrt(d_kv)": _changed(T5Attention, _scaled_logits),
    "other max distance": _changed(T5Attention, _shorter_distance),
    "buckets of one direction": _changed(T5Attention, _one_direction),
    "exact gelu": _exact_t5_gelu,
    "padding masked": lambda module, inputs: (_PaddingMasked(module), inputs),
    "no final norm": _without_t5_norm,
}


# --- autoencoder -------------------------------------------------------------------------------


def _config(**changes):
    def mutate(module, inputs):
        if all(module.config[key] == value for key, value in changes.items()):
            return None
        module = copy.deepcopy(module)
        module.register_to_config(**changes)
        return module, inputs

    return mutate


def _without_attention(module, inputs):
    module = copy.deepcopy(module)
    found = False
    for half in (module.encoder, module.decoder):
        if any(isinstance(part, Attention) for part in half.mid_block.attentions or []):
            half.mid_block.attentions = torch.nn.ModuleList(
                [None for _ in half.mid_block.attentions]
            )
            found = True
    return (module, inputs) if found else None


def _without(name: str):
    def mutate(module, inputs):
        if getattr(module, name) is None:
            return None
        module = copy.deepcopy(module)
        setattr(module, name, None)
        return module, inputs

    return mutate


def _even_padding(module, inputs):
    """Downsampling padded on all sides instead of right and bottom only."""
    if len(module.encoder.down_blocks) == 1:
        return None
    module = copy.deepcopy(module)
    for block in module.encoder.down_blocks:
        for sampler in block.downsamplers or []:
            sampler.padding = 1
            sampler.conv.padding = (1, 1)
    return module, inputs


def _smooth_upsampling(module, inputs):
    if len(module.decoder.up_blocks) == 1:
        return None
    module = copy.deepcopy(module)
    for block in module.decoder.up_blocks:
        for sampler in block.upsamplers or []:
            sampler.interpolate = False
            sampler.conv = torch.nn.Sequential(
                torch.nn.Upsample(scale_factor=2, mode="bilinear"), sampler.conv
            )
    return module, inputs


DECODER = {
    "scaling factor left out": _config(scaling_factor=1.0),
    "shift factor left out": _config(shift_factor=0.0),
    "no attention": _without_attention,
    "post_quant_conv left out": _without("post_quant_conv"),
    "bilinear upsampling": _smooth_upsampling,
}
ENCODER = {
    "no attention": _without_attention,
    "quant_conv left out": _without("quant_conv"),
    "padded on all sides": _even_padding,
}
GROUP_EPSILON = {"group norm: epsilon 1e-5": _changed(torch.nn.GroupNorm, _wider_epsilon)}

MUTANTS = {
    "transformer": TRANSFORMER | EPSILONS,
    "text_encoder": CLIP,
    "text_encoder_2": T5,
    "vae.decoder": DECODER | GROUP_EPSILON,
    "vae.encoder": ENCODER | GROUP_EPSILON,
}
