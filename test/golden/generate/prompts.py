"""Prompts that tokenizers disagree about, and what transformers makes of them."""

from pathlib import Path

from transformers import CLIPTokenizer, T5TokenizerFast

LONG = "a large red circle in the top left corner on a yellow background, " * 30

PROMPTS = {
    "empty": "",
    "one space": " ",
    "plain": "a photo of a red cat",
    "upper case": "A PHOTO of a Red CAT",
    "runs of spaces": "  a   photo    of  a cat  ",
    "tab and newline": "a photo\tof\na\r\n cat\n",
    "every kind of blank": "a\u00a0cat\u2003dog\u3000fox"
    "\u000bowl\u000cred\u2028green\u2029blue\u0085sky",
    "contractions": "we're here, i'll go, you've won, he'd stay, it's John's, don't, I'm",
    "upper-case contractions": "WE'RE HERE, I'LL GO, DON'T",
    "curly apostrophe": "it\u2019s a cat\u2019s house",
    "digits": "12345 cats and 3.14 dogs, 1,000,000 owls, 2nd",
    "letters and digits": "abc123def x2y 4k 8mm f1.8",
    "punctuation": "hello, world! (red:1.3) [blue] {green} -- ... ?! @#$%^&*_+=<>/\\|~`",
    "quotes": "a sign that says \"hello world\" and 'red'",
    "hyphens": "black-and-white oil-painting \u2014 dark\u2013light",
    "accents": "caf\u00e9 na\u00efve \u00fcber stra\u00dfe \u00c5ngstr\u00f6m pi\u00f1ata",
    "combining accents": "cafe\u0301 u\u0308ber A\u030angstro\u0308m",
    "accents in capitals": "CAF\u00c9 \u00dcBER STRASSE \u1e9e",
    "dotted capital i": "\u0130stanbul I\u0307",
    "sharp s and ligatures": "\ufb01re \ufb02ag stra\u00dfe \u0132",
    "full width": "\uff21 \uff32\uff25\uff24 \uff43\uff41\uff54 \uff11\uff12\uff13\uff01",
    "superscripts and fractions": "m\u00b2 x\u2075 \u00bd \u2167 \u2460",
    "chinese": "\u4e00\u53ea\u732b\u548c\u72ac",
    "japanese": "\u732b\u3068\u72ac\u3001\u30ab\u30d5\u30a7\u3002",
    "korean": "\uace0\uc591\uc774 \ud55c \ub9c8\ub9ac",
    "korean letters apart": "\u1100\u1169\u110b\u1163\u11bc\u110b\u1175",
    "russian": "\u043a\u0440\u0430\u0441\u043d\u0430\u044f \u041a\u041e\u0428\u041a\u0410",
    "greek": "\u03b3\u03ac\u03c4\u03b1 \u0391\u0392\u0393",
    "greek final sigma": "\u039f\u0394\u039f\u03a3 \u03bf\u03b4\u03cc\u03c2",
    "arabic": "\u0642\u0637\u0629 \u062d\u0645\u0631\u0627\u0621",
    "hebrew with points": "\u05d7\u05b8\u05ea\u05d5\u05bc\u05dc",
    "hindi": "\u0932\u093e\u0932 \u092c\u093f\u0932\u094d\u0932\u0940",
    "thai": "\u0e41\u0e21\u0e27\u0e2a\u0e35\u0e41\u0e14\u0e07",
    "emoji": "a cat \U0001f600 and \U0001f431\U0001f436 fire\U0001f525",
    "joined emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 "
    "\U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd \u2764\ufe0f",
    "mathematics": "\U0001d400\U0001d401 \u2211\u221e \u2260 \u00b1",
    "zero width": "a\u200bcat\u200cdog\ufefffox",
    "soft hyphen": "moun\u00adtain",
    "control characters": "a\u0001cat\u0007dog\u001bfox\u007fowl",
    "nul": "a\u0000cat",
    "special tokens of CLIP": "<|startoftext|>cat<|endoftext|> dog <|ENDOFTEXT|>",
    "special tokens of T5": "a cat </s> and <pad> a dog <unk> <extra_id_0> fox<extra_id_99>",
    "metaspace itself": "a\u2581cat \u2581dog",
    "end-of-word marker": "cat</w> dog </w>",
    "one letter repeated": "a" * 300,
    "spaces only": " " * 40,
    "unknown letters in a row": "\u0416\u0416\u0416 \u0416 a\u0416b",
    "very long": LONG,
    "very long without a blank": "redcatbluedog" * 120,
    "weights of other programs": "((masterpiece:1.2)), <lora:cat:0.8>, a AND b | c, "
    "cat::2 --ar 16:9",
}


def tokenize(name: str, folder: Path, lengths: list[int]) -> list[dict]:
    """Ids as the pipeline asks for them: padded and truncated; untruncated ids as the reference."""
    clip = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    t5 = T5TokenizerFast.from_pretrained(str(folder / "tokenizer_2"))
    cases = [
        dict(
            name=title,
            prompt=prompt,
            clip=dict(
                untruncated=clip(prompt).input_ids,
                padded=_trimmed(_padded(clip, prompt, 77)),
            ),
            t5=dict(
                untruncated=t5(prompt).input_ids,
                padded={str(n): _trimmed(_padded(t5, prompt, n)) for n in lengths},
            ),
        )
        for title, prompt in PROMPTS.items()
    ]
    return [dict(checkpoint=name, maxSequenceLengths=lengths, cases=cases)]


def _padded(tokenizer, prompt: str, length: int) -> list[int]:
    ids = tokenizer(prompt, padding="max_length", max_length=length, truncation=True).input_ids
    if len(ids) != length:
        raise ValueError(f"{len(ids)} ids where {length} were asked for")
    return ids


def _trimmed(ids: list[int]) -> dict:
    """The padding written as a count: `ids`, then `padCount` times `pad`."""
    pad = ids[-1]
    keep = len(ids)
    while keep > 1 and ids[keep - 2] == pad:
        keep -= 1
    return dict(ids=ids[: keep - 1], pad=pad, padCount=len(ids) - keep + 1)
