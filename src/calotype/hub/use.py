"""Lines of a card that load and call a model: those of its folder's README.md, and whether they run
where calotype is not.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from calotype.hub.history import known_on_hub
from calotype.hub.parts import Part, read_json
from calotype.pipelines import Sampling, load, picture, recommended
from calotype.pipelines.readme import readme as of_pipeline
from calotype.pipelines.token_parts import IMAGES, MARK
from calotype.pipelines.token_readme import EXAMPLES
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.readme import HERE
from calotype.tokenizers.readme import readme as of_tokenizer
from calotype.training.network import named
from calotype.training.progress import say
from calotype.training.upload import Destination

SAID = 15.0
"""Seconds between two lines about what is still running."""
READS = re.compile(r'(\w+)\.(from_pretrained|load_lora_weights)\("\."(?:, subfolder="([^"]*)")?')
ADDED = """
```python
{base}
pipeline.load_lora_weights(".")
image = pipeline("a prompt"{how}).images[0]
image.save("drawn.png")
```
"""
"""How LoRA weights are used."""
BASE = """from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(".")"""
NOWHERE = """
They belong to a pipeline that is not known to be on the Hub; the fingerprint of its weights is
{start}. Without it they draw nothing. Where it is loaded, `pipeline.load_lora_weights(".")` adds
them.
"""
PROGRAM = """
import sys
sys.modules["calotype"] = None
import huggingface_hub
fetch = huggingface_hub.snapshot_download
huggingface_hub.snapshot_download = (
    lambda name, **options: name if name == {root!r} else fetch(name, **options)
)
for number, block in enumerate({blocks!r}, 1):
    exec(compile(block, f"block {{number}}", "exec"), {{}})
"""
"""Runs a card's lines where there is no calotype, and what is on the Hub lies in a folder."""


def words(part: Part) -> str:
    """A README.md for a model: its front matter, how it is loaded, and what is to be heeded.

    Raises:
        ValueError: the folder does not hold the model whole.
    """
    if part.kind == "tokenizer":
        tokenizer = ImageTokenizer.load(part.folder)
        return of_tokenizer(tokenizer.export(), tokenizer.factor)
    if part.kind == "lora":
        return _of_lora(part)
    return of_pipeline(load(part.folder), recommended(part.folder), IMAGES)


def _of_lora(part: Part) -> str:
    """How they are added, in lines that can be run only where their pipeline is on the Hub."""
    mark, said = read_json(part.folder / MARK), recommended(part.folder)
    if not known_on_hub(mark["base"], part.run):
        return NOWHERE.format(start=mark["start"])
    where = named(mark["base"])
    base = _read_from(BASE, Destination(where.root, where.revision), where.inside)
    assert isinstance(said, Sampling)
    told = {"num_inference_steps": said.steps, "guidance_scale": said.guidance}
    how = "".join(f", {name}={value}" for name, value in told.items() if value is not None)
    return ADDED.format(base=base, how=how)


def body(text: str, to: Destination, place: str) -> str:
    """The same without front matter and its heading, for a model in a folder of the Hub."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"\A\s*# .*\n", "", text).replace(HERE, "")
    for said in ('load("{}")', "--pipeline {}`", "reconstruct {}`"):  # which calotype alone reads
        text = text.replace(said.format("."), said.format(_called(to, place)))
    return _read_from(text.strip() + "\n", to, place)


def _called(to: Destination, place: str) -> str:
    """A place on the Hub in one word."""
    return "/".join(filter(None, (f"{to.repo}@{to.revision}" if to.revision else to.repo, place)))


def _read_from(text: str, to: Destination, place: str) -> str:
    """Let lines that read a folder read what is on the Hub."""
    options = f', revision="{to.revision}"' if to.revision else ""
    fetched = f'snapshot_download("{to.repo}", allow_patterns="{place}/*"{options})'

    def there(match: re.Match[str]) -> str:
        kind, call, folder = match.groups()
        if place and kind.endswith("Pipeline"):  # which diffusers reads from no folder of the Hub
            return f'{kind}.from_pretrained({fetched} + "/{place}"'
        inside = "/".join(name for name in (place, folder) if name)
        subfolder = f', subfolder="{inside}"' if inside else ""
        return f'{kind}.{call}("{to.repo}"{subfolder}{options}'

    found = READS.sub(there, text)
    if fetched in found:
        head = "from diffusers import DiffusionPipeline\n"
        found = found.replace(head, f"{head}from huggingface_hub import snapshot_download\n", 1)
    return found


def with_prompts(text: str, prompts: Sequence[str]) -> str:
    """Lines that draw what a model was trained to, in place of README.md's examples, as far as
    there are prompts.
    """
    for example, prompt in zip(EXAMPLES, prompts, strict=False):
        said = json.dumps(prompt, ensure_ascii=False)
        text = text.replace(json.dumps(example), said).replace(repr(example), said)
    return text


def blocks(text: str) -> list[str]:
    """The Python in a text."""
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def try_out(code: Sequence[str], root: Path, repo: str) -> None:
    """Run blocks of a card, in a process that has no calotype and no network; the repository is a
    folder here.

    Raises:
        ValueError: one does not run.
    """
    if not code:  # of what calotype alone reads
        return
    blocks = "block" if len(code) == 1 else "blocks"
    say(f"running the card's {len(code)} {blocks} of Python where calotype is not")
    folder = str(root.resolve())
    told = [block.replace(f'"{repo}"', repr(folder)) for block in code]
    with tempfile.TemporaryDirectory() as here:
        picture(torch.zeros(3, 64, 64)).save(Path(here, "picture.png"))
        _run(PROGRAM.format(root=folder, blocks=told), Path(here))


def _run(program: str, here: Path) -> None:
    log, began = here / "log", time.monotonic()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        running = subprocess.Popen(
            [sys.executable, "-c", program], cwd=here, env=environment, stdout=out, stderr=out
        )
        try:
            while True:
                try:
                    failed = running.wait(SAID)
                    break
                except subprocess.TimeoutExpired:
                    say(f"still running, {time.monotonic() - began:.0f} s")
        finally:
            running.kill()
    if failed:
        lines = log.read_text().strip().splitlines() or [f"exit code {failed}"]
        raise ValueError(
            f"the lines that the card would have do not run where calotype is not ({lines[-1]}): "
            "nothing is published; see that diffusers and transformers are up to date"
        )
