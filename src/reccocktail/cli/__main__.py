"""`python -m reccocktail.cli`."""

from reccocktail.cli import main

if __name__ == "__main__":
    main()
