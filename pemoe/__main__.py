"""`python -m pemoe`, the same as `pemoe`: what torchrun and `accelerate launch` start on every GPU."""

from pemoe.cli import main

if __name__ == "__main__":
    main()
