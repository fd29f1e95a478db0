"""`python -m reccocktail`: what launchers of several processes start."""

from reccocktail.cli import main

if __name__ == "__main__":
    main()
