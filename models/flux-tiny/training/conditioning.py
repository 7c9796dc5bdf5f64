"""Turns token ids into what the transformer reads: T5 states, CLIP's pooled vector and a key bias.

FLUX attends to every padding token, so how much a prompt weighs depends on the padded length, and
a model that was trained at one length fails at another. Training at 512 tokens is far too dear
for two cores. Sampled padding is the way out: T5 runs at a longer length, the caption's own
tokens are kept, and the remaining slots take random padding tokens. Each stands for all the
padding it was drawn from: adding log(how many it stands for) to its attention logit gives it that
weight in every softmax. Then 512 text tokens cost the transformer as much as 16.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F

import text_encoders
import tokenizer_files

SLOTS = text_encoders.T5_TOKENS
T5_TOKENS_PER_CALL = 16_384
# T5 tells positions apart up to this distance only: padding further on adds nothing new.
T5_DISTANCE_MAX = 128


@dataclass(frozen=True)
class TextLength:
    """The length T5 is padded to, and whether the padding is sampled down to SLOTS tokens."""
    padded: int
    sampled: bool = False

    @property
    def tokens(self):
        """Text tokens that the transformer reads."""
        return SLOTS if self.sampled else self.padded


@dataclass
class Conditioning:
    """text [n, tokens, 64], pooled [n, 64], text_bias [n, tokens]: zero unless sampled."""
    text: torch.Tensor
    pooled: torch.Tensor
    text_bias: torch.Tensor

    def key_bias(self, image_tokens):
        """[n, 1, 1, text tokens + image tokens]."""
        return F.pad(self.text_bias, (0, image_tokens))[:, None, None]


class Conditioner:
    """Both frozen encoders and their tokenizers."""

    def __init__(self, work):
        self.tokenizers = tokenizer_files.load(work)
        self.clip, self.t5 = text_encoders.load_encoders(work)
        self.empty_t5, self.empty_clip = text_encoders.tokenize(self.tokenizers, [""])

    def tokenize(self, texts):
        return text_encoders.tokenize(self.tokenizers, texts)

    def empty(self, count):
        """Ids of the empty prompt, the unconditional half of guidance."""
        return self.empty_t5.expand(count, -1), self.empty_clip.expand(count, -1)

    @torch.no_grad()
    def __call__(self, t5_ids, clip_ids, length):
        """t5_ids [n, SLOTS], clip_ids [n, CLIP_TOKENS], length a TextLength."""
        run = min(length.padded, T5_DISTANCE_MAX) if length.sampled else length.padded
        padded = F.pad(t5_ids, (0, run - t5_ids.shape[1]))
        rows = max(1, T5_TOKENS_PER_CALL // run)
        states = torch.cat([self.t5(part).last_hidden_state for part in padded.split(rows)])
        pooled = self.clip(clip_ids).pooler_output
        if not length.sampled:
            return Conditioning(states, pooled, torch.zeros(states.shape[:2]))
        return Conditioning(*_sample_padding(states, t5_ids, pooled, length.padded))


def _sample_padding(states, t5_ids, pooled, padded):
    """states [n, run, 64] -> SLOTS tokens each, with a bias that stands for all the padding."""
    count, run, width = states.shape
    own = (t5_ids != 0).sum(1, keepdim=True)                          # tokens of the caption itself
    slots = torch.arange(SLOTS).expand(count, -1)
    is_padding = slots >= own
    drawn = own + (torch.rand(count, SLOTS) * (run - own)).long()     # uniform in own .. run - 1
    index = torch.where(is_padding, drawn, slots)
    text = states.gather(1, index[..., None].expand(-1, -1, width))
    stands_for = (padded - own).float() / (SLOTS - own).clamp(min=1)
    bias = torch.where(is_padding, stands_for.log(), torch.zeros(()))
    return text, pooled, bias
