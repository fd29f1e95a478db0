"""The files of the page in the browser."""

import os
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles


class PageFiles(StaticFiles):
    """Files that a browser asks for anew: after an update no old module meets a new one."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, *rest: Any
    ) -> Response:
        """The file, or 304 if the browser has it."""
        response = super().file_response(full_path, stat_result, *rest)
        response.headers["Cache-Control"] = "no-cache"
        return response
