"""Pre-trains both text encoders on linear attribute heads; they are frozen afterwards.

FLUX reads CLIP's pooled vector and every T5 token, padding included and unmasked. So CLIP must
tell every attribute from its pooled vector, and T5 must tell every attribute from EVERY token, at
any padded length: then the transformer finds the prompt wherever it looks.
"""
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

import tokenizer_files
from captions import UNSAID, caption
from world import CLASS_COUNTS, sample_scenes

WIDTH = 64
T5_TOKENS = 16      # the longest caption with its end token
CLIP_TOKENS = 18    # the longest caption with its start and end tokens
BATCH = 128
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.1     # at 0.01 T5 reads only .95 of the colours of held-out combinations
TRAINED_LENGTHS = [16] * 6 + [20, 24, 32, 48, 64, 64, 128]
CHECKED_LENGTHS = [16, 64, 128, 512]


def new_encoders(clip_vocabulary, t5_vocabulary):
    clip = CLIPTextModel(CLIPTextConfig(
        vocab_size=clip_vocabulary, hidden_size=WIDTH, intermediate_size=128, projection_dim=WIDTH,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=77,
        hidden_act="quick_gelu", bos_token_id=0, eos_token_id=2, pad_token_id=1))
    for parameter in clip.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.08)
    t5 = T5EncoderModel(T5Config(
        vocab_size=t5_vocabulary, d_model=WIDTH, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, relative_attention_num_buckets=32,
        relative_attention_max_distance=128, is_encoder_decoder=False, use_cache=False,
        pad_token_id=0, eos_token_id=1))
    # A strong start for the relative bias: words notice their neighbours from the first step.
    attention = t5.encoder.block[0].layer[0].SelfAttention
    torch.nn.init.normal_(attention.relative_attention_bias.weight, std=1.0)
    return clip, t5


def load_encoders(work):
    """(CLIP, T5) as trained, frozen."""
    clip = CLIPTextModel.from_pretrained(f"{work}/text_encoder")
    t5 = T5EncoderModel.from_pretrained(f"{work}/text_encoder_2")
    return clip.eval().requires_grad_(False), t5.eval().requires_grad_(False)


def pad_rows(rows, length, value):
    """Lists of ids -> int64 [n, length]."""
    padded = torch.full((len(rows), length), value)
    for index, row in enumerate(rows):
        assert len(row) <= length, f"a caption has {len(row)} tokens, the limit is {length}"
        padded[index, :len(row)] = torch.tensor(row)
    return padded


def tokenize(tokenizers, texts, t5_length=T5_TOKENS, clip_length=CLIP_TOKENS):
    """(T5 ids [n, t5_length], CLIP ids [n, clip_length]).

    CLIP is causal and pooled at its first end token, so a shorter padding than 77 pools the same.
    """
    clip, t5 = tokenizers
    return (pad_rows(t5(texts).input_ids, t5_length, t5.pad_token_id),
            pad_rows(clip(texts).input_ids, clip_length, clip.pad_token_id))


class AttributeHeads(torch.nn.Module):
    """One linear read-out per encoder; thrown away after this stage."""

    def __init__(self):
        super().__init__()
        self.t5 = torch.nn.Linear(WIDTH, sum(CLASS_COUNTS))
        self.clip = torch.nn.Linear(WIDTH, sum(CLASS_COUNTS))

    def loss(self, t5_states, pooled, stated):
        """Cross-entropy of the stated attributes; accuracy of each attribute per encoder."""
        total, accuracies = 0.0, []
        for states, head in ((t5_states, self.t5), (pooled[:, None], self.clip)):
            for index, logits in enumerate(head(states).split(CLASS_COUNTS, -1)):
                wanted = stated[:, index, None].expand(logits.shape[:2])
                count = max(1, (wanted != UNSAID).sum().item())
                total = total + F.cross_entropy(logits.transpose(1, 2), wanted, reduction="sum",
                                                ignore_index=UNSAID) / count
                right = (logits.argmax(-1) == wanted) & (wanted != UNSAID)
                accuracies.append(round(right.sum().item() / count, 3))
        return total, accuracies


def train(work, steps, seed):
    torch.manual_seed(seed)
    numbers, words = np.random.default_rng(seed + 1), random.Random(seed + 1)
    tokenizers = tokenizer_files.load(work)
    clip, t5 = new_encoders(len(tokenizers[0]), len(tokenizers[1]))
    heads = AttributeHeads()
    parameters = [*clip.parameters(), *t5.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.98),
                                  weight_decay=WEIGHT_DECAY)

    def batch_loss(count, t5_length, held_out=False):
        scenes = sample_scenes(count, numbers, held_out)
        texts, stated = zip(*(caption(scenes, index, words) for index in range(count)))
        t5_ids, clip_ids = tokenize(tokenizers, list(texts), t5_length)
        return heads.loss(t5(t5_ids).last_hidden_state, clip(clip_ids).pooler_output,
                          torch.tensor(np.array(stated)))

    started = time.time()
    for step in range(steps):
        rate = min(1, (step + 1) / 50) * min(1, (steps - step) / (steps * 0.5))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
        loss, _ = batch_loss(BATCH, words.choice(TRAINED_LENGTHS))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            elapsed_s = time.time() - started
            print(f"text step {step + 1} {elapsed_s:.0f}s loss {loss.item():.3f}", flush=True)

    with torch.no_grad():
        for length in CHECKED_LENGTHS:
            _, accuracies = batch_loss(256, length, held_out=True)
            print(f"held out, padded to {length}: T5 {accuracies[:5]} CLIP {accuracies[5:]}",
                  flush=True)
    clip.save_pretrained(f"{work}/text_encoder")
    t5.save_pretrained(f"{work}/text_encoder_2")
