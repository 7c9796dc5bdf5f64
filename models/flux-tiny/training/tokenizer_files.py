"""Writes both tokenizers in the files FLUX.1 ships: CLIP as byte-level BPE, T5 as a Unigram model.

Every word of the world is one token; anything else falls back to bytes (CLIP) or letters (T5), so
that any prompt can be tokenised. The end-of-text token has CLIP's highest id: transformers finds
the pooled token as the highest id when the text encoder's config says eos_token_id 2, as
FLUX.1-dev's does.
"""
import json
import os
import string

from tokenizers import (Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)
from transformers import CLIPTokenizer, T5TokenizerFast

from captions import EXTRA_WORDS, WORDS

CLIP_LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"
PAD_T5, END_T5, UNKNOWN_T5 = "<pad>", "</s>", "<unk>"


def _write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)


def _byte_characters():
    """The printable character that stands for each byte in byte-level BPE, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


def _learn_merges():
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=2000, min_frequency=2, end_of_word_suffix="</w>",
                                  show_progress=False)
    tokenizer.train_from_iterator([WORDS + EXTRA_WORDS] * 50, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]


def write_clip(folder):
    os.makedirs(folder, exist_ok=True)
    merges, characters = _learn_merges(), _byte_characters()
    pieces = characters + [c + "</w>" for c in characters]
    pieces += [a + b for a, b in merges] + [START, END]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    _write_json(f"{folder}/vocab.json", vocabulary)
    with open(f"{folder}/merges.txt", "w", encoding="utf-8") as file:
        file.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = dict(bos_token=START, eos_token=END, unk_token=END, pad_token=END)
    _write_json(f"{folder}/special_tokens_map.json", special)
    _write_json(f"{folder}/tokenizer_config.json", dict(
        special, tokenizer_class="CLIPTokenizer", model_max_length=CLIP_LENGTH,
        add_prefix_space=False, do_lower_case=True, errors="replace"))


def write_t5(folder, max_length):
    os.makedirs(folder, exist_ok=True)
    words = WORDS + EXTRA_WORDS
    words = dict.fromkeys(words + [word.capitalize() for word in words])
    scored = [(PAD_T5, 0.0), (END_T5, 0.0), (UNKNOWN_T5, 0.0)]
    scored += [("▁" + word, -4.0) for word in words]
    scored += [(",", -5.0), (".", -5.0), ("▁", -6.0)]
    scored += [(c, -9.0) for c in string.ascii_letters + string.digits + "!?'-:;\"()"]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    marks = dict(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(**marks)
    tokenizer.decoder = decoders.Metaspace(**marks)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END_T5}", pair=f"$A {END_T5} $B {END_T5}", special_tokens=[(END_T5, 1)])
    tokenizer.add_special_tokens([PAD_T5, END_T5, UNKNOWN_T5])
    tokenizer.save(f"{folder}/tokenizer.json")
    special = dict(eos_token=END_T5, unk_token=UNKNOWN_T5, pad_token=PAD_T5)
    _write_json(f"{folder}/special_tokens_map.json", special)
    _write_json(f"{folder}/tokenizer_config.json", dict(
        special, tokenizer_class="T5TokenizerFast", model_max_length=max_length, extra_ids=0,
        additional_special_tokens=[]))


def load(work):
    """(CLIP tokenizer, T5 tokenizer) of the work folder."""
    return (CLIPTokenizer.from_pretrained(f"{work}/tokenizer"),
            T5TokenizerFast.from_pretrained(f"{work}/tokenizer_2"))


def build(work, t5_max_length=128):
    write_clip(f"{work}/tokenizer")
    write_t5(f"{work}/tokenizer_2", t5_max_length)
    clip, t5 = load(work)
    for tokenizer in (clip, t5):
        for word in WORDS:
            pieces = tokenizer(word, add_special_tokens=False).input_ids
            assert len(pieces) == 1, f"{word!r} is {len(pieces)} tokens, must be one"
    assert clip.eos_token_id == len(clip) - 1, "CLIP's end of text must have the highest id"
