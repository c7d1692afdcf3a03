"""The command line: argument handling over the catalogue, the studies and the data sets."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; a user's mistake ends with one line and exit code 2."""
    from thalweg.cli.app import app

    try:
        app()
    except (ValueError, TypeError, FileNotFoundError, ImportError) as error:
        from thalweg.cli.output import complain

        complain(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
