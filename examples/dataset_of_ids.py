"""Pictures as ids in a dataset of Hugging Face's `datasets`, and back: 64 bytes a scene.

    python examples/dataset_of_ids.py

ends in runs/examples/ids.png: scenes, and what comes out of the parquet file.
"""

from pathlib import Path

import numpy as np
import torch
import tyro
from datasets import Array2D, Dataset, Features, Value
from prepared import ROOT, STEPS, scenes, with_codes

import calotype
from calotype.pages.sheet import write_sheet


def main(root: Path = ROOT, steps: int = STEPS, count: int = 500) -> Path:
    """Train a tokenizer, if there is none; write ids and captions, and read them again."""
    tokenizer = calotype.load(with_codes(root, steps)).eval()
    images, captions, _ = scenes(count)
    with torch.no_grad():
        ids = tokenizer.encode_ids(images)
    columns = Features({"ids": Array2D(ids.shape[1:], "uint8"), "caption": Value("string")})
    rows = {"ids": ids.numpy().astype(np.uint8), "caption": captions}  # of 256 codes
    file = root / "ids.parquet"
    Dataset.from_dict(rows, columns).to_parquet(file)

    read = Dataset.from_parquet(str(file), cache_dir=str(root / "cache")).with_format("torch")
    back = read[:]["ids"]
    assert torch.equal(back, ids) and list(read["caption"]) == captions
    with torch.no_grad():
        decoded = tokenizer.decode_ids(back)
    print(f"{file.stat().st_size / count:.0f} bytes a scene with its caption, of "
          f"{images[0].numel()} as pixels")  # fmt: skip
    shown = torch.cat([images[:6], decoded[:6]])
    names = [*["original"] * 6, *["from its ids"] * 6]
    write_sheet(root / "ids.png", shown, names, columns=6, side=128)
    return root / "ids.png"


if __name__ == "__main__":
    tyro.cli(main)
