"""Routes of administrators: domains come and go, items are added, cocktails mixed anew."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, TypeVar, TypeVarTuple

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Query, Response
from starlette.concurrency import run_in_threadpool

from reccocktail.mixing.measure import MixSettings
from reccocktail.serving import admin_schemas, schemas
from reccocktail.serving.errors import documented
from reccocktail.serving.keys import Keys
from reccocktail.serving.limits import UnknownDomainError
from reccocktail.serving.paths import Allowed, ForbiddenError
from reccocktail.serving.plugging import Plugging
from reccocktail.serving.remix import MixRequest
from reccocktail.serving.routes import DomainName, require
from reccocktail.serving.served import describe
from reccocktail.serving.service import Service

THREADS = 8
"""Of changes. One waits for the others of its domain, and must not take the threads that answer."""
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def admin_routes(service: Service, plugging: Plugging, keys: Keys) -> APIRouter:
    """The routes of a service that change it, for those who `may_change`."""
    answering, changing = service.answering, service.changing

    def off() -> None:
        if keys.admin is None:
            raise ForbiddenError("Changes are off here; start the service with an admin key.")

    router = APIRouter(
        prefix=f"{schemas.API}/domains",
        tags=["changes"],
        dependencies=[Depends(off), require(keys.may_change)],
    )
    threads = CapacityLimiter(THREADS)

    async def apart(work: Callable[[*Ts], T], *arguments: *Ts) -> T:
        return await to_thread.run_sync(work, *arguments, limiter=threads)

    changed = documented(400, 403, 404, 409, 413, 422, 503)

    def allowed() -> Allowed:
        if service.allowed is None:
            raise ForbiddenError("No folder may be read here; start the service with --root.")
        return service.allowed

    @router.put(
        "/{name}",
        summary="Plug a domain in, or replace it",
        responses=changed
        | {202: {"model": admin_schemas.PlugOut, "description": "Not ready yet."}},
    )
    async def plug(
        name: DomainName,
        body: admin_schemas.PlugIn,
        response: Response,
        wait: Annotated[
            float,
            Query(ge=0, le=600, allow_inf_nan=False, description="Seconds to wait until ready."),
        ] = 30.0,
    ) -> admin_schemas.PlugOut:
        data = await run_in_threadpool(allowed().folder, body.data)
        adapter = await run_in_threadpool(allowed().adapter, body.adapter)
        plugged = asyncio.wrap_future(plugging.start(name, data, adapter))
        # What fails after the wait stands in `failed`; unasked, asyncio would log it once more.
        plugged.add_done_callback(lambda done: done.cancelled() or done.exception())
        done, _ = await asyncio.wait({plugged}, timeout=wait)  # it goes on when the wait is over
        if not done:
            response.status_code = 202
            return admin_schemas.PlugOut(status="loading", domain=None)
        ready = schemas.DomainOut(**describe(plugged.result()))
        return admin_schemas.PlugOut(status="ready", domain=ready)

    @router.delete("/{name}", status_code=204, summary="Remove a domain", responses=changed)
    async def remove(name: DomainName) -> None:
        failed = plugging.forget(name)
        try:
            await apart(changing.remove, name)
        except UnknownDomainError:
            if not failed:  # else there was nothing but the failure to remove
                raise

    @router.put("/{name}/items", summary="Add items", responses=changed)
    async def add_items(name: DomainName, body: admin_schemas.ItemsIn) -> admin_schemas.ItemsOut:
        added = await apart(changing.add_items, name, [item.item() for item in body.items])
        return admin_schemas.ItemsOut(added=added, items=len(answering.domain(name).ids))

    @router.post(
        "/{name}/mix",
        status_code=202,
        summary="Mix anew with the latest users, in the background",
        responses=changed,
    )
    async def mix(name: DomainName, body: admin_schemas.MixIn) -> schemas.MixOut:
        answering.domain(name)
        adapters = [await apart(allowed().adapter, path) for path in body.adapters]
        request = MixRequest(
            tuple(adapters),
            body.scenario,
            MixSettings(
                method=body.method,
                granularity=body.granularity,
                objective=body.objective,
                users=body.users,
            ),
            None if body.coefficients is None else tuple(body.coefficients),
        )
        return schemas.MixOut(**asdict(await apart(changing.start_mix, name, request)))

    @router.post("/{name}/mix/revert", summary="Undo the last mix", responses=changed)
    async def revert(name: DomainName) -> schemas.DomainOut:
        return schemas.DomainOut(**describe(await apart(changing.revert, name)))

    return router
