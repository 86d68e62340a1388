"""Libraries that talk of their own doings, silenced."""

import logging
import warnings
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
SAFE = {
    # LDMPipeline is declared with a VQModel, and decodes by either.
    "diffusers.pipelines.pipeline_utils": "Expected types for vqvae",
    # Whose text encoder was not trained has nothing for it.
    "diffusers.loaders.lora_base": "No LoRA keys associated to",
}
"""How messages begin that are right and of no use, by the logger that gives them."""
_plain = warnings.formatwarning


def _is_of_use(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(SAFE[record.name])


def _in_a_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    line: str | None = None,
) -> str:  # fmt: skip
    """A warning as it is shown: of calotype's own what it says, without the line of source."""
    if category is UserWarning and Path(filename).is_relative_to(PACKAGE):
        return f"calotype: {' '.join(str(message).split())}\n"
    return _plain(message, category, filename, lineno, line)


def ignore_warnings() -> None:
    """Let this process not warn of what is of no use to whoever types a command, and of the rest in
    a line.
    """
    warnings.formatwarning = _in_a_line
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="huggingface_hub")  # of diffusers' calls, not ours


def quiet() -> None:
    """Let transformers and diffusers show no bars of loading and writing weights, and diffusers say
    nothing of what is `SAFE`; how far a download is stays visible.
    """
    # Here, because to import them takes seconds and not every command needs them.
    import diffusers.utils.logging
    import transformers.utils.logging
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    for name in SAFE:
        logging.getLogger(name).addFilter(_is_of_use)
    hidden = are_progress_bars_disabled()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if not hidden:  # transformers hides the Hub's too
        enable_progress_bars()
