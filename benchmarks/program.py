"""A benchmark as a command: what the user can mend is one sentence."""

import sys
from collections.abc import Callable


def program(main: Callable[[], object]) -> None:
    """Run a benchmark: one of the package's own errors is printed without a traceback, exit code 2.

    What `main` returns is for those who call it as a function.
    """
    try:
        main()
    except Exception as error:
        # Not before: programs that run without the package, or stay small, start here too.
        from reccocktail.errors import RecCocktailError

        if not isinstance(error, RecCocktailError):
            raise
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
