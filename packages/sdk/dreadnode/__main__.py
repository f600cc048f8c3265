"""Where `dn` and `dreadnode` begin: the least that can be imported before it is needed."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; return 0, or 1 for a refusal, 2 for wrong arguments, 130 for Ctrl-C."""
    if sys.argv[1:] == ["--version"]:
        from dreadnode.version import __version__

        sys.stdout.write(f"{__version__}\n")
        return 0
    from dreadnode.cli.main import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
