"""The six small checkpoints: each differs from the others in all that can differ in the field.

Widths are tiny, but no dimension is "nice" everywhere: T5's inner width is not its model width,
head counts are odd, the latent grid is not square, and the norm groups do not divide by 32.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Checkpoint:
    """One diffusers folder: the arguments of its parts, and how its files are written."""

    name: str
    seed: int
    dtype: str  # of the stored weights: float32, bfloat16, float16
    transformer: dict
    clip: dict
    t5: dict
    vae: dict
    scheduler: dict
    clip_vocabulary: dict
    t5_vocabulary: dict
    notes: str
    shard_bytes: int | None = None
    t5_shard_bytes: int | None = None
    clip_prefix: bool = False  # write `text_model.` before each CLIP tensor, as transformers 4 did
    resaved: bool = False  # written by FluxPipeline.save_pretrained, tokenizers included
    t5_both_embeddings: bool = False  # write shared.weight and encoder.embed_tokens.weight
    drop: dict = field(default_factory=dict)  # config keys left out, so that defaults count
    gains: dict = field(
        default_factory=dict
    )  # weight name pattern -> gain, before the common rules


def vae(widths: list[int], **more) -> dict:
    levels = len(widths)
    return (
        dict(
            in_channels=3,
            out_channels=3,
            down_block_types=["DownEncoderBlock2D"] * levels,
            up_block_types=["UpDecoderBlock2D"] * levels,
            block_out_channels=widths,
            sample_size=64,
            act_fn="silu",
        )
        | more
    )


DEV_LIKE = Checkpoint(
    name="dev-like",
    seed=101,
    dtype="float32",
    notes=("F32 single files; guidance; dynamic shift; CLIP pooled at argmax; charsmap of T5"),
    transformer=dict(
        in_channels=64,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=40,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=[8, 12, 12],
    ),
    clip=dict(
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="quick_gelu",
        eos_token_id=2,
        bos_token_id=0,
        projection_dim=32,
        layer_norm_eps=1e-5,
    ),
    t5=dict(
        d_model=40,
        d_kv=16,
        d_ff=72,
        num_layers=2,
        num_heads=3,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=1e-6,
    ),
    vae=vae(
        [8, 8, 12, 16],
        layers_per_block=2,
        norm_num_groups=4,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=True,
        force_upcast=True,
    ),
    scheduler=dict(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    ),
    clip_vocabulary=dict(merges=150, specials="last", pad="<|endoftext|>"),
    t5_vocabulary=dict(normalizer="charsmap", words=True, extra_ids=100, max_length=512),
    # One block's queries are small before their norm, so that the norm's epsilon shows.
    gains={
        r"transformer_blocks\.0\.attn\.(to_q|add_k_proj)\.weight": 0.008,
        r"transformer_blocks\.0\.attn\.(to_q|add_k_proj)\.bias": 0.002,
    },
)

SCHNELL_LIKE = Checkpoint(
    name="schnell-like",
    seed=202,
    dtype="bfloat16",
    notes=(
        "BF16 in shards; no guidance; static shift 1; CLIP pooled at the first eos, old key prefix"
    ),
    transformer=dict(
        in_channels=64,
        num_layers=3,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=24,
        pooled_projection_dim=36,
        guidance_embeds=False,
        axes_dims_rope=[4, 4, 8],
    ),
    clip=dict(
        hidden_size=36,
        intermediate_size=72,
        num_hidden_layers=3,
        num_attention_heads=3,
        hidden_act="gelu",
        projection_dim=36,
        layer_norm_eps=1e-5,
    ),
    t5=dict(
        d_model=24,
        d_kv=8,
        d_ff=48,
        num_layers=3,
        num_heads=5,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=40,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=1e-6,
    ),
    vae=vae(
        [8, 8, 16, 16],
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=16,
        scaling_factor=0.7,
        shift_factor=-0.21,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=True,
        force_upcast=True,
    ),
    scheduler=dict(
        num_train_timesteps=1000,
        shift=1.0,
        use_dynamic_shifting=False,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    ),
    clip_vocabulary=dict(merges=80, specials="middle", pad="<|endoftext|>"),
    t5_vocabulary=dict(normalizer=None, words=True, extra_ids=0, max_length=512),
    shard_bytes=160_000,
    t5_shard_bytes=20_000,
    clip_prefix=True,
)

FILL_LIKE = Checkpoint(
    name="fill-like",
    seed=303,
    dtype="float16",
    notes=("F16; 384 channels in, 64 out; VAE of 3 levels with both quant convolutions"),
    transformer=dict(
        in_channels=384,
        out_channels=64,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=24,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=24,
        guidance_embeds=True,
        axes_dims_rope=[4, 8, 12],
    ),
    clip=dict(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=1,
        num_attention_heads=4,
        hidden_act="quick_gelu",
        projection_dim=24,
        layer_norm_eps=1e-6,
    ),
    t5=dict(
        d_model=16,
        d_kv=12,
        d_ff=40,
        num_layers=1,
        num_heads=2,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
        feed_forward_proj="gated-silu",
        layer_norm_epsilon=1e-5,
    ),
    vae=vae(
        [8, 16, 16],
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=16,
        scaling_factor=0.5,
        shift_factor=0.05,
        use_quant_conv=True,
        use_post_quant_conv=True,
        mid_block_add_attention=True,
        force_upcast=False,
    ),
    scheduler=dict(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.4,
        max_shift=1.4,
        base_image_seq_len=64,
        max_image_seq_len=1024,
    ),
    clip_vocabulary=dict(merges=40, specials="last", pad="<|endoftext|>"),
    t5_vocabulary=dict(normalizer=None, words=False, extra_ids=0, max_length=128),
    t5_both_embeddings=True,
    drop=dict(vae=["use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"]),
    # The embedder's output is small, so that the first LayerNorm's epsilon shows.
    gains={r"^(x|context)_embedder\.weight": 0.012, r"^(x|context)_embedder\.bias": 0.004},
)

CONTROL_LIKE = Checkpoint(
    name="control-like",
    seed=404,
    dtype="bfloat16",
    notes=(
        "128 channels in, 64 out; axes left out of the config; T5 with relu; VAE without attention"
    ),
    transformer=dict(
        in_channels=128,
        out_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=128,
        num_attention_heads=1,
        joint_attention_dim=20,
        pooled_projection_dim=20,
        guidance_embeds=True,
    ),
    clip=dict(
        hidden_size=20,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        hidden_act="quick_gelu",
        projection_dim=20,
        layer_norm_eps=1e-5,
    ),
    t5=dict(
        d_model=20,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=64,
        feed_forward_proj="relu",
        layer_norm_epsilon=1e-6,
    ),
    vae=vae(
        [4, 8, 12, 16],
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=16,
        scaling_factor=0.9,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        force_upcast=True,
    ),
    scheduler=dict(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=False),
    clip_vocabulary=dict(merges=40, specials="last", pad="<|endoftext|>"),
    t5_vocabulary=dict(normalizer=None, words=False, extra_ids=0, max_length=512),
    drop=dict(transformer=["axes_dims_rope"]),
)

ODD_LIKE = Checkpoint(
    name="odd-like",
    seed=505,
    dtype="float16",
    notes="everything unusual: 8 latent channels, VAE of 2 levels, pad '!', static shift 3",
    transformer=dict(
        in_channels=32,
        num_layers=1,
        num_single_layers=3,
        attention_head_dim=20,
        num_attention_heads=2,
        joint_attention_dim=28,
        pooled_projection_dim=24,
        guidance_embeds=False,
        axes_dims_rope=[4, 10, 6],
    ),
    clip=dict(
        hidden_size=24,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="gelu",
        projection_dim=16,
        layer_norm_eps=1e-5,
    ),
    t5=dict(
        d_model=28,
        d_kv=10,
        d_ff=36,
        num_layers=2,
        num_heads=2,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=1e-6,
    ),
    vae=vae(
        [8, 16],
        layers_per_block=2,
        norm_num_groups=8,
        latent_channels=8,
        scaling_factor=1.3,
        shift_factor=0.02,
        use_quant_conv=False,
        use_post_quant_conv=True,
        mid_block_add_attention=False,
        force_upcast=True,
    ),
    scheduler=dict(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=False),
    clip_vocabulary=dict(merges=60, specials="last", pad="!"),
    t5_vocabulary=dict(normalizer="nfkc", words=True, extra_ids=0, max_length=64),
    drop=dict(transformer=["guidance_embeds"]),
    gains={
        r"^(encoder|decoder)\.conv_in\.weight": 0.01,
        r"^(encoder|decoder)\.conv_in\.bias": 0.002,
    },
)

SAVED_LIKE = Checkpoint(
    name="saved-like",
    seed=606,
    dtype="float32",
    notes=("saved by transformers 5 (CLIP as tokenizer.json); no single blocks; VAE of 1 level"),
    transformer=dict(
        in_channels=16,
        num_layers=2,
        num_single_layers=0,
        attention_head_dim=10,
        num_attention_heads=3,
        joint_attention_dim=22,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=[2, 4, 4],
    ),
    clip=dict(
        hidden_size=16,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="gelu_new",
        eos_token_id=2,
        projection_dim=16,
        layer_norm_eps=1e-5,
    ),
    t5=dict(
        d_model=22,
        d_kv=13,
        d_ff=37,
        num_layers=2,
        num_heads=3,
        relative_attention_num_buckets=20,
        relative_attention_max_distance=300,
        feed_forward_proj="gated-relu",
        layer_norm_epsilon=1e-6,
    ),
    vae=vae(
        [8],
        layers_per_block=1,
        norm_num_groups=1,
        latent_channels=4,
        scaling_factor=1.5035,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=True,
        force_upcast=True,
    ),
    scheduler=dict(
        num_train_timesteps=1000,
        use_dynamic_shifting=True,
        time_shift_type="linear",
        shift_terminal=0.05,
    ),
    clip_vocabulary=dict(merges=50, specials="last", pad="<|endoftext|>"),
    t5_vocabulary=dict(normalizer=None, words=True, extra_ids=3, max_length=64),
    resaved=True,
)

CHECKPOINTS = [DEV_LIKE, SCHNELL_LIKE, FILL_LIKE, CONTROL_LIKE, ODD_LIKE, SAVED_LIKE]
