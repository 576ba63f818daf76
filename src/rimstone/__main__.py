"""`python -m rimstone`: the same command line as the console script `rimstone`."""

from rimstone.cli import main

if __name__ == "__main__":
    # Python has put the working directory first; main takes it off before it imports more, so that a random.py there
    # is not taken for the standard one, and does so where a Ctrl-C meanwhile ends quietly.
    main()
