"""`python -m pairmill`: the command, where scripts are not on the path."""

from pairmill.launcher import main

if __name__ == "__main__":
    main()
