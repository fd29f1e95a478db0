"""Routes of users: recommendations, rankings, and what there is."""

import asyncio
import time
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool

from reccocktail.data.categories import split
from reccocktail.errors import DataError
from reccocktail.serving import schemas, user_schemas
from reccocktail.serving.errors import documented
from reccocktail.serving.keys import Keys
from reccocktail.serving.limits import TimedOutError
from reccocktail.serving.plugging import Plugging
from reccocktail.serving.query import Query as Question
from reccocktail.serving.routes import DomainName, require
from reccocktail.serving.served import describe
from reccocktail.serving.service import Service


def user_routes(service: Service, plugging: Plugging, keys: Keys) -> APIRouter:
    """The routes of a service that ask, for those who `may_ask`."""
    answering = service.answering
    router = APIRouter(
        prefix=f"{schemas.API}/domains",
        tags=["recommendation"],
        dependencies=[require(keys.may_ask)],
    )
    asked = documented(400, 404, 413, 422, 429, 503, 504)

    async def ask(name: str, question: Question) -> user_schemas.AnswerOut:
        limit = service.limits.timeout
        with answering.admitted():
            deadline = answering.deadline()
            # Off the event loop: typed titles are compared with the whole catalogue.
            future = await run_in_threadpool(answering.submit, name, question, deadline)
            left = max(0.0, deadline - time.monotonic())
            try:
                found = await asyncio.wait_for(asyncio.wrap_future(future), left)
            except TimeoutError as error:
                raise TimedOutError(limit) from error
        return user_schemas.AnswerOut(
            domain=name,
            adapter=found.adapter,
            items=[user_schemas.PlaceOut(**vars(place)) for place in found.places],
            matches=[user_schemas.MatchOut(**vars(match)) for match in found.matches],
        )

    @router.post(
        "/{name}/recommend", summary="Recommend to a user", responses=asked | documented(202)
    )
    async def recommend(name: DomainName, body: user_schemas.RecommendIn) -> user_schemas.AnswerOut:
        return await ask(name, body.query())

    @router.post("/{name}/rank", summary="Put candidates in order", responses=asked)
    async def rank(name: DomainName, body: user_schemas.RankIn) -> user_schemas.AnswerOut:
        return await ask(name, body.query())

    @router.get("", summary="All domains", responses=documented())
    async def domains() -> user_schemas.DomainsOut:
        return user_schemas.DomainsOut(
            domains=[schemas.DomainOut(**describe(state)) for state in answering.domains()],
            loading=plugging.loading,
            failed=answering.failed | plugging.failed,
        )

    @router.get("/{name}", summary="One domain", responses=documented(404, 422, 503))
    def domain(name: DomainName) -> user_schemas.DetailOut:
        state = answering.domain(name)
        sheet = state.cocktail
        if sheet is not None:  # the users that it names are nobody's business
            adaptation = {k: v for k, v in sheet["adaptation"].items() if k != "user_ids"}
            sheet = sheet | {"adaptation": adaptation}
        return user_schemas.DetailOut(
            **describe(state),
            cocktail=sheet,
            positions=[list(pair) for pair in answering.positions.of(state)],
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
                max_length=user_schemas.MAX_IDS,
                description="In place of words: ids; unknown ones are left out of the answer.",
            ),
        ] = None,
        limit: Annotated[int, Query(ge=1, le=100, description="Of what words find.")] = 10,
    ) -> user_schemas.SearchOut:
        state = answering.domain(name)
        if (q is None) == (ids is None):
            raise DataError("Give q (words of a title) or id (item ids), one of the two.")
        if q is not None:
            found = state.lookup.search(q, limit)
        else:
            found = [state.index[one] for one in ids or () if one in state.index]
        return user_schemas.SearchOut(
            items=[
                user_schemas.FoundOut(
                    item_id=state.ids[i],
                    title=state.titles[i],
                    new=bool(state.new[i]),
                    categories=split(state.cells[i]),
                )
                for i in found
            ]
        )

    @router.get("/{name}/mix", summary="How the last mix went", responses=documented(404, 422, 503))
    async def mix_status(name: DomainName) -> schemas.MixOut:
        return schemas.MixOut(**asdict(service.changing.mix_status(name)))

    return router
