"""What `lost` and `python -m lost` run: the command line, which takes a moment to import."""

import sys


def main() -> None:
    """Run the command line and exit; with 130 if Ctrl-C comes before it is there, when nothing has begun."""
    try:
        from lost.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
