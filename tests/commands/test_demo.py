"""The demo ends in what it promises, and does not do again what is done. What it reaches at full
length is written in benchmarks/README.md.
"""

import json
from dataclasses import replace

import pytest
from PIL import Image

from calotype.commands.demo import Demo, demo
from calotype.pipelines import load

SHORT = Demo(
    tokenizer_steps=3, generator_steps=2, codes_steps=3, transformer_steps=2, scenes=256, prompts=8
)  # fmt: skip
PICTURES = 2 * (8 + 32 + 2)
"""Each way unseen prompts, reconstructions, and prompts of two objects."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* codes are in use")  # after three steps
def test_the_demo_ends_in_its_gallery_and_is_not_begun_again(tmp_path):
    options = replace(SHORT, out=tmp_path / "demo")
    page = demo(options)
    assert page.read_text().count("<figure>") == PICTURES
    report = json.loads((options.out / "report.json").read_text())
    for way in ("diffusion", "transformer"):
        with Image.open(options.out / f"{way}.png") as sheet:
            assert sheet.width > 8 * 128
        found = report[way]
        assert found["prompts"] == 8 and found["two_objects_prompts"] == 2
        assert 0 <= found["all_factors_right"] <= min(found["factors_right"].values())
    assert 0 < report["transformer"]["unigram_bits_per_token"] < 9
    for name in ("pipeline", "token-pipeline"):
        load(options.out / name)

    made = {file: file.stat().st_mtime_ns for file in options.out.rglob("*.safetensors")}
    demo(options)
    kept = {file: time for file, time in made.items() if "pipeline" not in file.parent.as_posix()}
    assert kept == {file: file.stat().st_mtime_ns for file in kept}
    again = json.loads((options.out / "report.json").read_text())
    assert {**again, "minutes": 0} == {**report, "minutes": 0}
