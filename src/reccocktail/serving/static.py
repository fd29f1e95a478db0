"""The files of the page in the browser."""

import os
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from reccocktail.serving.schemas import API


class PageFiles(StaticFiles):
    """Files that a browser asks for anew: after an update no old module meets a new one."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, *rest: Any
    ) -> Response:
        """The file, or 304 if the browser has it."""
        response = super().file_response(full_path, stat_result, *rest)
        response.headers["Cache-Control"] = "no-cache"
        return response


class PageMount(Mount):
    """The page at `/`, which leaves the service's own paths to their routes.

    A mount at `/` fits every path, so that a wrong method would be answered as a missing file.
    """

    def __init__(self, page: Path) -> None:
        """Serve the folder `page`."""
        super().__init__("/", PageFiles(directory=page, html=True), name="page")

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As a mount does, but for the paths below `API`."""
        if scope["type"] == "http" and scope["path"].startswith(f"{API}/"):
            return Match.NONE, {}
        return super().matches(scope)
