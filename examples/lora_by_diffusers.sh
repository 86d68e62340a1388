#!/bin/sh
# LoRA by diffusers' own training script, as it is, on a pipeline of Stable Diffusion's layout.
#
#     sh examples/lora_by_diffusers.sh DIFFUSERS [OUT] [STEPS]
#
# DIFFUSERS is a checkout of https://github.com/huggingface/diffusers, whose scripts are in no
# package. Ends in OUT/drawn.png: above what the pipeline draws, below the same seeds with a LoRA
# that has seen eight pink pictures. Two minutes of one core, in which a pipeline becomes blobs of
# colour and the LoRA moves them a little: it is about the way, and STEPS is the first to raise.
set -eu
checkout=${1:?say where a checkout of diffusers is} out=${2:-runs/lora-by-diffusers} steps=${3:-100}
script=$checkout/examples/text_to_image/train_text_to_image_lora.py
[ -f "$script" ] || { echo "there is no $script: choose a checkout of diffusers" >&2; exit 2; }

scenes="data:scenes --data.size 64"
calotype train-tokenizer small-kl-f8 --run.out "$out/kl" --run.steps "$steps" \
    --run.batch-size 8 --measure 200 $scenes
calotype cache-latents small-f8 --tokenizer "$out/kl/model" --out "$out/latents" --count 500 $scenes
calotype train-generator small-stable-diffusion --tokenizer "$out/kl/model" \
    --cache "$out/latents" --run.out "$out/diffusion" --run.steps "$steps" --run.batch-size 32

python - "$out/pink" <<'END'
import json, pathlib, sys
from PIL import Image

folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "metadata.jsonl", "w") as captions:
    for i in range(8):
        Image.new("RGB", (64, 64), (255, 20 * i, 200)).save(folder / f"{i}.png")
        captions.write(json.dumps({"file_name": f"{i}.png", "text": "a pink circle"}) + "\n")
END

python "$script" --pretrained_model_name_or_path "$out/diffusion/model" --resolution 64 \
    --train_data_dir "$out/pink" --output_dir "$out/lora" --cache_dir "$out/cache" \
    --rank 8 --learning_rate 0.01 --train_batch_size 8 --max_train_steps $((2 * steps)) --seed 0

python - "$out" <<'END'
import sys
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

out = sys.argv[1]
pipeline = StableDiffusionPipeline.from_pretrained(f"{out}/diffusion/model")
sheet = Image.new("RGB", (4 * 128, 2 * 128))
for row in range(2):
    seeds = [torch.Generator().manual_seed(i) for i in range(4)]
    for i, picture in enumerate(pipeline(["a pink circle"] * 4, num_inference_steps=20, generator=seeds).images):
        sheet.paste(picture.resize((128, 128)), (128 * i, 128 * row))
    pipeline.load_lora_weights(f"{out}/lora")
sheet.save(f"{out}/drawn.png")
END
echo "$out/drawn.png"
