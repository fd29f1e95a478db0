"""The HTTP service: routes, keys, limits and errors around a `Service`; no algorithm."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path as FolderPath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Response
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from reccocktail import __version__
from reccocktail.errors import DataError
from reccocktail.mixing.measure import MixSettings
from reccocktail.serving import errors, schemas
from reccocktail.serving.errors import documented
from reccocktail.serving.keys import Keys
from reccocktail.serving.limits import TimedOutError
from reccocktail.serving.middleware import Outside
from reccocktail.serving.monitoring import Monitoring
from reccocktail.serving.paths import Allowed, ForbiddenError
from reccocktail.serving.plugging import Plugging
from reccocktail.serving.query import Query as Question
from reccocktail.serving.remix import MixRequest
from reccocktail.serving.served import describe, split_categories
from reccocktail.serving.service import Service
from reccocktail.serving.static import PageFiles

PAGE = FolderPath(__file__).parent / "page"
MAX_BODY = 4 * 2**20

DomainName = Annotated[
    str, Path(pattern=schemas.DOMAIN_NAME, description="Name of a domain.", examples=["shop"])
]
_header = APIKeyHeader(name="X-API-Key", auto_error=False)
_bearer = HTTPBearer(auto_error=False)


def create_app(
    service: Service,
    keys: Keys | None = None,
    *,
    max_body: int = MAX_BODY,
    page: FolderPath = PAGE,
) -> FastAPI:
    """The application around a service, which it closes when it shuts down.

    Args:
        service: with its first domains plugged in.
        keys: who may ask and who may change; by default everybody may ask and nobody may change.
        max_body: bytes of a request's body.
        page: folder with an `index.html` to be served at `/`; left out if there is none.
    """
    keys = keys or Keys()
    plugging, monitoring = Plugging(service), Monitoring(service)

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
    app.include_router(_asking(service, plugging, keys))
    app.include_router(_changing(service, plugging, keys))
    if (page / "index.html").is_file():
        app.mount("/", PageFiles(directory=page, html=True), name="page")
    return app


def _given(
    header: Annotated[str | None, Depends(_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str | None:
    """The key that came with a request."""
    return header or (bearer.credentials if bearer else None)


def _require(allowed: Callable[[str | None], bool]) -> Any:
    def check(given: Annotated[str | None, Depends(_given)]) -> None:
        if not allowed(given):
            raise HTTPException(
                401,
                "The key is missing or wrong; send it as X-API-Key or as Bearer token.",
                {"WWW-Authenticate": "Bearer"},
            )

    return Depends(check)


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
        if service.ready:
            return schemas.HealthOut(status="ready")
        response.status_code = 503
        return schemas.HealthOut(status="not ready")

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(monitoring.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _asking(service: Service, plugging: Plugging, keys: Keys) -> APIRouter:
    router = APIRouter(
        prefix="/v1/domains", tags=["recommendation"], dependencies=[_require(keys.may_ask)]
    )
    asked = documented(400, 404, 413, 422, 429, 503, 504)

    async def ask(name: str, question: Question) -> schemas.AnswerOut:
        limit = service.limits.timeout
        with service.admitted():
            # Off the event loop: typed titles are compared with the whole catalogue.
            future = await run_in_threadpool(service.submit, name, question)
            try:
                found = await asyncio.wait_for(asyncio.wrap_future(future), limit)
            except (TimeoutError, CancelledError) as error:
                raise TimedOutError(limit) from error
        return schemas.AnswerOut(
            domain=name,
            adapter=found.adapter,
            items=[schemas.PlaceOut(**vars(place)) for place in found.places],
            matches=[schemas.MatchOut(**vars(match)) for match in found.matches],
        )

    @router.post(
        "/{name}/recommend", summary="Recommend to a user", responses=asked | documented(202)
    )
    async def recommend(name: DomainName, body: schemas.RecommendIn) -> schemas.AnswerOut:
        return await ask(name, body.query())

    @router.post("/{name}/rank", summary="Put candidates in order", responses=asked)
    async def rank(name: DomainName, body: schemas.RankIn) -> schemas.AnswerOut:
        return await ask(name, body.query())

    @router.get("", summary="All domains", responses=documented())
    async def domains() -> schemas.DomainsOut:
        return schemas.DomainsOut(
            domains=[schemas.DomainOut(**describe(state)) for state in service.domains()],
            loading=plugging.loading,
            failed=service.failed | plugging.failed,
        )

    @router.get("/{name}", summary="One domain", responses=documented(404, 422, 503))
    def domain(name: DomainName) -> schemas.DetailOut:
        state = service.domain(name)
        sheet = state.cocktail
        if sheet is not None:  # the users that it names are nobody's business
            adaptation = {k: v for k, v in sheet["adaptation"].items() if k != "user_ids"}
            sheet = sheet | {"adaptation": adaptation}
        return schemas.DetailOut(
            **describe(state),
            cocktail=sheet,
            positions=[list(pair) for pair in service.positions.of(state)],
        )

    @router.get(
        "/{name}/items",
        summary="Find items by title or by id",
        responses=documented(404, 422, 503),
    )
    def search(
        name: DomainName,
        q: Annotated[
            str | None,
            Query(
                min_length=1,
                max_length=200,
                description="Words of the title, perhaps unfinished.",
                examples=["green te"],
            ),
        ] = None,
        ids: Annotated[
            list[schemas.ItemId] | None,
            Query(
                alias="id",
                min_length=1,
                max_length=schemas.MAX_IDS,
                description="In place of words: ids; unknown ones are left out of the answer.",
            ),
        ] = None,
        limit: Annotated[int, Query(ge=1, le=100, description="Of what words find.")] = 10,
    ) -> schemas.SearchOut:
        state = service.domain(name)
        if (q is None) == (ids is None):
            raise DataError("Give q (words of a title) or id (item ids), one of the two.")
        if q is not None:
            found = state.lookup.search(q, limit)
        else:
            found = [state.index[one] for one in ids or () if one in state.index]
        return schemas.SearchOut(
            items=[
                schemas.FoundOut(
                    item_id=state.ids[i],
                    title=state.titles[i],
                    new=bool(state.new[i]),
                    categories=split_categories(state.cells[i]),
                )
                for i in found
            ]
        )

    @router.get("/{name}/mix", summary="How the last mix went", responses=documented(404, 422, 503))
    async def mix_status(name: DomainName) -> schemas.MixOut:
        return schemas.MixOut(**asdict(service.mix_status(name)))

    return router


def _changing(service: Service, plugging: Plugging, keys: Keys) -> APIRouter:
    def off() -> None:
        if keys.admin is None:
            raise ForbiddenError("Changes are off here; start the service with an admin key.")

    router = APIRouter(
        prefix="/v1/domains",
        tags=["changes"],
        dependencies=[Depends(off), _require(keys.may_change)],
    )
    changed = documented(400, 403, 404, 409, 413, 422, 503)

    def allowed() -> Allowed:
        if service.allowed is None:
            raise ForbiddenError("No folder may be read here; start the service with --root.")
        return service.allowed

    @router.put(
        "/{name}",
        summary="Plug a domain in, or replace it",
        responses=changed | {202: {"model": schemas.PlugOut, "description": "Not ready yet."}},
    )
    async def plug(
        name: DomainName,
        body: schemas.PlugIn,
        response: Response,
        wait: Annotated[
            float,
            Query(ge=0, le=600, allow_inf_nan=False, description="Seconds to wait until ready."),
        ] = 30.0,
    ) -> schemas.PlugOut:
        data = await run_in_threadpool(allowed().folder, body.data)
        adapter = await run_in_threadpool(allowed().adapter, body.adapter)
        future = plugging.start(name, data, adapter)
        try:
            # Shielded: it goes on when the wait is over.
            state = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), wait)
        except TimeoutError:
            response.status_code = 202
            return schemas.PlugOut(status="loading", domain=None)
        return schemas.PlugOut(status="ready", domain=schemas.DomainOut(**describe(state)))

    @router.delete("/{name}", status_code=204, summary="Remove a domain", responses=changed)
    def remove(name: DomainName) -> None:
        service.remove(name)

    @router.put("/{name}/items", summary="Add items", responses=changed)
    def add_items(name: DomainName, body: schemas.ItemsIn) -> schemas.ItemsOut:
        added = service.add_items(name, [item.item() for item in body.items])
        return schemas.ItemsOut(added=added, items=len(service.domain(name).ids))

    @router.post(
        "/{name}/mix",
        status_code=202,
        summary="Mix anew with the latest users, in the background",
        responses=changed,
    )
    def mix(name: DomainName, body: schemas.MixIn) -> schemas.MixOut:
        service.domain(name)
        request = MixRequest(
            tuple(allowed().adapter(path) for path in body.adapters),
            body.scenario,
            MixSettings(
                method=body.method,
                granularity=body.granularity,
                objective=body.objective,
                users=body.users,
            ),
            None if body.coefficients is None else tuple(body.coefficients),
        )
        return schemas.MixOut(**asdict(service.start_mix(name, request)))

    @router.post("/{name}/mix/revert", summary="Undo the last mix", responses=changed)
    def revert(name: DomainName) -> schemas.DomainOut:
        return schemas.DomainOut(**describe(service.revert(name)))

    return router
