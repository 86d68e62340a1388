"""Libraries that talk of their own doings, silenced."""

import logging
import warnings


def _is_no_doubt(record: logging.LogRecord) -> bool:
    # LDMPipeline is declared with a VQModel, and decodes by either.
    return not record.getMessage().startswith("Expected types for vqvae")


def ignore_warnings() -> None:
    """Let this process not warn of what is of no use to whoever types a command."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="huggingface_hub")  # of diffusers' calls, not ours


def quiet() -> None:
    """Let transformers and diffusers show no bars of loading and writing weights, and diffusers not
    doubt an LDMPipeline around an AutoencoderKL; how far a download is stays visible.
    """
    # Here, because to import them takes seconds and not every command needs them.
    import diffusers.utils.logging
    import transformers.utils.logging
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    logging.getLogger("diffusers.pipelines.pipeline_utils").addFilter(_is_no_doubt)
    hidden = are_progress_bars_disabled()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if not hidden:  # transformers hides the Hub's too
        enable_progress_bars()
