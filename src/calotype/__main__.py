"""`python -m calotype` is `calotype`; so is `accelerate launch -m calotype`, on several GPUs."""

from calotype.cli import main

main()
