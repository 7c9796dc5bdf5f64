"""Small vocabularies in the files that FLUX.1 ships: vocab.json + merges.txt, tokenizer.json."""

import io
import json
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WORDS = """
a an the of in on at with and or is are cat dog fox owl red green blue yellow orange purple
black white large small tiny big circle square triangle star heart tree house mountain river sea
sky night day sun moon light dark photo painting drawing portrait oil watercolor sketch detailed
realistic cinematic studio holding sitting standing running flying under over left right top
bottom corner background foreground color style hello world sign says text red's don't we're
i'll you've he'd quality blurry ugly noise robot astronaut horse city street rain snow fire
water glass wooden
""".split()


def write_clip(folder: Path, merges: int, specials: str, pad: str) -> int:
    """Writes the tokenizer folder and returns the id of <|endoftext|>."""
    folder.mkdir(parents=True, exist_ok=True)
    learned = _learn_merges(merges)
    letters = list(_byte_letters().values())
    words = [left + right for left, right in learned]
    special = ["<|startoftext|>", "<|endoftext|>"]
    plain = letters + [letter + "</w>" for letter in letters]
    # "middle": words lie above eos, so that the highest id is not the end of the text.
    pieces = plain + words + special if specials == "last" else plain + special + words
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    _write_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2"] + [f"{left} {right}" for left, right in learned]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokens = dict(
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        pad_token=pad,
    )
    _write_json(folder / "special_tokens_map.json", tokens)
    _write_json(
        folder / "tokenizer_config.json",
        tokens
        | dict(
            tokenizer_class="CLIPTokenizer",
            model_max_length=77,
            add_prefix_space=False,
            do_lower_case=True,
            errors="replace",
            clean_up_tokenization_spaces=True,
        ),
    )
    return vocabulary["<|endoftext|>"]


def write_t5(
    folder: Path, normalizer: str | None, words: bool, extra_ids: int, max_length: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pieces = _unigram_pieces(words, extra_ids)
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    if normalizer == "charsmap":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(_nmt_nfkc_charsmap())])
    if normalizer == "nfkc":
        tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = metaspace if normalizer == "nfkc" else split
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    sentinels = [f"<extra_id_{index}>" for index in range(extra_ids)]
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"] + sentinels)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    tokens = dict(eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    _write_json(
        folder / "special_tokens_map.json", tokens | dict(additional_special_tokens=sentinels)
    )
    _write_json(
        folder / "tokenizer_config.json",
        tokens
        | dict(
            tokenizer_class="T5Tokenizer",
            model_max_length=max_length,
            extra_ids=extra_ids,
            additional_special_tokens=sentinels,
            clean_up_tokenization_spaces=True,
        ),
    )


def t5_size(folder: Path) -> int:
    return len(
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    )


def clip_size(folder: Path) -> int:
    return len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))


def _byte_letters() -> dict[int, str]:
    """CLIP's (and GPT-2's) printable letter for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    rest = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(256 + index) for index, byte in enumerate(rest)}


def _learn_merges(count: int) -> list[tuple[str, str]]:
    """Byte pair encoding over WORDS; ties go to the pair that sorts first."""
    words = [[*word[:-1], word[-1] + "</w>"] for word in WORDS if "'" not in word]
    learned = []
    for _ in range(count):
        pairs = Counter(pair for word in words for pair in zip(word, word[1:]))
        if not pairs:
            raise ValueError(f"{len(learned)} merges exhaust the words; {count} were asked for")
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learned.append(best)
        words = [_merged(word, best) for word in words]
    return learned


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged, index = [], 0
    while index < len(word):
        if tuple(word[index : index + 2]) == pair:
            merged.append(word[index] + word[index + 1])
            index += 2
        else:
            merged.append(word[index])
            index += 1
    return merged


def _unigram_pieces(words: bool, extra_ids: int) -> list[tuple[str, float]]:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.5)]
    if words:
        known = [word for word in WORDS if "'" not in word]
        pieces += [("▁" + word, -4.0 - 0.03 * index) for index, word in enumerate(known)]
        pieces += [("▁" + word.capitalize(), -7.0 - 0.01 * i) for i, word in enumerate(known[:30])]
    parts = [
        "ing",
        "ed",
        "er",
        "s",
        "es",
        "th",
        "an",
        "re",
        "ight",
        "ound",
        "é",
        "ü",
        "ß",
        "猫",
        "犬",
        "😀",
    ]
    pieces += [(part, -6.0 - 0.05 * index) for index, part in enumerate(parts)]
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'-:;\"()/"
    pieces += [
        (letter, -8.0 - 0.02 * index) for index, letter in enumerate(letters) if letter != "s"
    ]
    # T5's own order: the last sentinel first.
    return pieces + [(f"<extra_id_{index}>", 0.0) for index in range(extra_ids - 1, -1, -1)]


def _nmt_nfkc_charsmap() -> bytes:
    """SentencePiece's table of the rule that T5 was trained with, taken from a throwaway model."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 20),
        model_writer=model,
        vocab_size=60,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        num_threads=1,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    charsmap = proto.normalizer_spec.precompiled_charsmap
    if not charsmap:
        raise ValueError("sentencepiece wrote no charsmap for nmt_nfkc")
    return charsmap


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
