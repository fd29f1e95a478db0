"""The HTTP application around a `Service`: middleware, errors, routes, page; no algorithm."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI, Response
from starlette.concurrency import run_in_threadpool

from reccocktail import __version__
from reccocktail.serving import errors, schemas
from reccocktail.serving.admin_routes import admin_routes
from reccocktail.serving.keys import Keys
from reccocktail.serving.limits import MAX_BODY
from reccocktail.serving.middleware import Outside
from reccocktail.serving.monitoring import Monitoring
from reccocktail.serving.plugging import Plugging
from reccocktail.serving.service import Service
from reccocktail.serving.static import PageMount
from reccocktail.serving.user_routes import user_routes

PAGE = Path(__file__).parent / "page"


def create_app(
    service: Service,
    keys: Keys | None = None,
    *,
    max_body: int = MAX_BODY,
    page: Path = PAGE,
) -> FastAPI:
    """The application around a service, which it closes when it shuts down.

    Args:
        service: with its first domains plugged in.
        keys: who may ask and who may change; by default everybody may ask and nobody may change.
        max_body: bytes of a request's body.
        page: folder with an `index.html` to be served at `/`; left out if there is none.
    """
    keys = keys or Keys()
    plugging, monitoring = Plugging(service.changing), Monitoring(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        plugging.close()
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="RecCocktail",
        version=__version__,
        summary="Recommendations from cocktails of LoRA adapters.",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Outside, monitoring=monitoring, max_body=max_body)
    errors.install(app)
    app.include_router(_health(service, monitoring))
    app.include_router(user_routes(service, plugging, keys))
    app.include_router(admin_routes(service, plugging, keys))
    if (page / "index.html").is_file():
        app.router.routes.append(PageMount(page))
    return app


def _health(service: Service, monitoring: Monitoring) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get("/healthz", summary="Is the process alive?")
    async def healthz() -> schemas.HealthOut:
        return schemas.HealthOut(status="ok")

    @router.get(
        "/readyz",
        summary="Are requests answered?",
        responses={503: {"model": schemas.HealthOut, "description": "Not now."}},
    )
    async def readyz(response: Response) -> schemas.HealthOut:
        if service.answering.ready:
            return schemas.HealthOut(status="ready")
        response.status_code = 503
        return schemas.HealthOut(status="not ready")

    for path, check in (("/healthz", healthz), ("/readyz", readyz)):  # as load balancers ask
        router.add_api_route(path, check, methods=["HEAD"], include_in_schema=False)

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(monitoring.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
