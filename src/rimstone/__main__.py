"""`python -m rimstone`: the same command line as the console script `rimstone`."""

from rimstone.cli import main

if __name__ == "__main__":
    main()
