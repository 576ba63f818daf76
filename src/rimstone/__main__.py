"""`python -m rimstone`: the same command line as the console script `rimstone`."""

import sys

if __name__ == "__main__":
    # Python has put the working directory first; a random.py there must not be imported instead of the standard one.
    working_directory = [] if sys.flags.safe_path else sys.path[:1]
    del sys.path[: len(working_directory)]

    from rimstone import Pool as Pool  # noqa: PLC0414 - with all that it imports
    from rimstone.cli import commands as commands  # noqa: PLC0414
    from rimstone.cli import main

    sys.path[:0] = working_directory
    main()
