"""`pemoe` and `python -m pemoe`, which torchrun and `accelerate launch` start on every GPU: Ctrl-C is one line also
while the commands are still being imported."""

import os
import signal
from types import FrameType

INTERRUPTED = 130  # exit code of a process that Ctrl-C ended


def _stop_at_once(signum: int, frame: FrameType | None) -> None:
    """End a process that has only imported so far; an exception would come out of some library's import."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.write(2, b"\npemoe: interrupted before anything was done\n")
    os._exit(INTERRUPTED)


def _interrupt_once(signum: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, and hear no second signal: a terminal and torchrun both send one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Python may send one more to itself where it ends
    raise KeyboardInterrupt


def main() -> None:
    """Entry point; see `pemoe.cli.main` for the exit codes."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where a shell has it ignored
    if heard:
        signal.signal(signal.SIGINT, _stop_at_once)
    from pemoe.cli import main as run_command

    if heard:
        signal.signal(signal.SIGINT, _interrupt_once)
    run_command()


if __name__ == "__main__":
    main()
