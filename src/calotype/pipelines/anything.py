"""Whatever lies at a place: a tokenizer or a pipeline, ours or stock."""

from pathlib import Path

from calotype.pipelines.assemble import is_pipeline
from calotype.pipelines.assemble import load as load_pipeline
from calotype.pipelines.sampling import Pipeline
from calotype.tokenizers import ImageTokenizer


def load(path: str | Path, variant: str | None = None) -> ImageTokenizer | Pipeline:
    """A tokenizer or a pipeline, whichever is there, in float32 and on the CPU.

    A tokenizer is an `ImageTokenizer` around calotype's own or diffusers' AutoencoderKL, VQModel,
    AutoencoderTiny, AutoencoderDC or AsymmetricAutoencoderKL; a pipeline is a stock one of
    diffusers, or a `TokenPipeline`. Only safetensors are read, and no code that lies beside them.

    Args:
        path: A folder, also that of a run; a `.safetensors` file with an AutoencoderKL, whose
            config.json lies beside it or else is asked of the Hub; or a name on the Hub:
            `user/name`, `user/name/folder`, `user/name@revision/folder`.
        variant: Of stock weights, such as fp16.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is neither in it, or not the whole of one.
    """
    if is_pipeline(path):
        return load_pipeline(path, variant)
    return ImageTokenizer.load(path, variant)
