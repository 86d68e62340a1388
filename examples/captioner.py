"""A captioner that reads image tokens: a small Llama of transformers, codes first, then words.

    python examples/captioner.py

ends in runs/examples/captions.png: scenes that training never showed, and what it says of them.
"""

from pathlib import Path

import torch
import tyro
from prepared import ROOT, STEPS, scenes, with_codes
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import calotype
from calotype.pages.sheet import write_sheet
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

END = "<end>"
BATCH = 32


def words_of(captions: list[str]) -> Tokenizer:
    """A tokenizer of whole words."""
    words = Tokenizer(models.WordLevel(unk_token=END))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(captions, trainers.WordLevelTrainer(special_tokens=[END]))
    return words


def sequences(
    ids: Tensor, captions: list[str], words: Tokenizer, codes: int
) -> tuple[Tensor, Tensor]:
    """Codes, then words, ended and padded by END; labels are of words alone."""
    encoded = [torch.tensor([*each.ids, 0]) for each in words.encode_batch(captions)]
    said = torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True, padding_value=-100)
    tokens = torch.cat([ids, said.clamp_min(0) + codes], 1)
    heard = torch.full_like(ids, -100)
    return tokens, torch.cat([heard, torch.where(said < 0, said, said + codes)], 1)


def main(root: Path = ROOT, steps: int = STEPS, captioning: int = 300, count: int = 4000) -> Path:
    """Train a tokenizer, if there is none, and a captioner over its codes."""
    tokenizer = calotype.load(with_codes(root, steps)).eval()
    codes = tokenizer.bottleneck.codes
    images, captions, _ = scenes(count)
    with torch.no_grad():
        ids = torch.cat(
            [tokenizer.encode_ids(part).flatten(1) for part in images.split(100)]
        ).long()
    words = words_of(captions)
    tokens, labels = sequences(ids, captions, words, codes)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=codes + words.get_vocab_size(), hidden_size=96, intermediate_size=256,
        num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=tokens.shape[1] + 40,
        bos_token_id=None, eos_token_id=codes, pad_token_id=codes,
    ))  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, captioning)
    for step in range(captioning):
        rows = torch.randint(len(tokens), (BATCH,))
        loss = model(input_ids=tokens[rows], labels=labels[rows]).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"{step}/{captioning}  loss {loss.item():.3f}", flush=True)
    unseen, _, _ = scenes(16, "held-out")
    prompts = tokenizer.encode_ids(unseen).flatten(1).long()
    found = model.generate(prompts, max_new_tokens=30, do_sample=False, pad_token_id=codes,
                           attention_mask=torch.ones_like(prompts))  # fmt: skip
    said = [words.decode([max(0, token - codes) for token in row.tolist()])
            for row in found[:, prompts.shape[1] :]]  # fmt: skip
    write_sheet(root / "captions.png", unseen, said, columns=4, side=192)
    print(*said, sep="\n")
    return root / "captions.png"


if __name__ == "__main__":
    tyro.cli(main)
