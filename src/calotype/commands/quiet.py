"""Libraries that talk of their own doings, silenced."""


def quiet() -> None:
    """Let transformers and diffusers show no bars of loading and writing weights; how far a
    download is stays visible.
    """
    # Here, because to import them takes seconds and not every command needs them.
    import diffusers.utils.logging
    import transformers.utils.logging
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    hidden = are_progress_bars_disabled()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if not hidden:  # transformers hides the Hub's too
        enable_progress_bars()
